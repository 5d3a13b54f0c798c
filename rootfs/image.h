#pragma once
/* What an unpacked image is, told by its own files (nothing in it is run), and what it lacks to be a
 * sandbox's root. The image is hostile: its files are opened below its root, bounded, and only if regular. */

#include "emulator/base/err.h"
#include "rootfs/layer.h"

/* distribution from etc/os-release ("" if it has none). */
void image_distribution(int root_fd, char *ret, size_t cap);

/* "CPython 3.12.3", "Node 22.11.0", "CPython 3.12" when only that can be told, or "". */
void image_interpreter(int root_fd, char *ret, size_t cap);

/* Fills the layer at scaffold_fd with what the image lacks: mount points, /workspace, /etc/hosts and the
 * like. replace: /etc/hosts, hostname and resolv.conf are set even if it has them (a build's leftovers of
 * this host). *ret_any: whether anything was missing. */
int image_scaffold(const struct layer_env *env, int image_fd, int scaffold_fd, bool replace, bool *ret_any,
		   struct err *e);
