#pragma once
/* A digest of what a folder holds. */

#include "emulator/base/err.h"
#include "emulator/base/text.h"

/* Walks the tree at root_fd in a fixed order: SHA-256 over each path, type, mode, owner, size, target and
 * content (not times). On the way removes overlayfs' bookkeeping ("user.overlay.*" but opaque), which an
 * upper has and a layer must not. *ret_bytes: the files' sizes, a file with several names once.
 * ERR_TOO_LARGE beyond TREEHASH_MAX_DEPTH folders below each other. */
#define TREEHASH_MAX_DEPTH 200
int treehash(int root_fd, char ret[static TEXT_SHA256_SIZE], uint64_t *ret_bytes, struct err *e);
