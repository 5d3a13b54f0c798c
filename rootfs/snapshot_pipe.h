#pragma once
/* Where a large tar goes while it is made: two processes beside the one that makes it, each with what it needs as it
 * was at the start.
 *
 *   the maker -> pipe -> the hasher, which passes the same pages on (tee(2)) -> pipe -> the compressor
 *
 * A process that dies is noticed at the end: what came out is then worth nothing. They die with the maker. */

#include <nettle/sha2.h>
#include <sys/types.h>

#include "emulator/base/util.h"

struct snapshot_pipe {
	int fd; /* to write the tar to, or -1 */
	pid_t hasher, compressor;
	struct sha256_ctx *sha; /* shared with the hasher */
};
#define SNAPSHOT_PIPE_INIT ((struct snapshot_pipe){ .fd = -1 })

/* take: compresses n bytes, or (NULL) ends the stream; 0 or a negative errno. sha: hashes on from here. False: not to
 * be had (no memory, no process left); nothing has changed. */
bool snapshot_pipe_start(struct snapshot_pipe *p, const struct sha256_ctx *sha,
			 int (*take)(void *arg, const void *data, size_t n), void *arg);

/* Ends both: when the tar is whole (wanted) with their result, 0 or a negative errno, and the hash in *sha; else by
 * killing them. Without any: 0. */
int snapshot_pipe_end(struct snapshot_pipe *p, bool wanted, struct sha256_ctx *sha);
