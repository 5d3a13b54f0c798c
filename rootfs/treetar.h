#pragma once
/* A folder as a tar stream (pax): sorted by the bytes of the names, folders before what is in them, so the
 * same tree gives the same bytes. In it are folders, files (user.* attributes too), symlinks as such, fifos,
 * and hardlinks between two names in the tree; sockets and devices are left out. Mount points below the folder
 * are not entered: a folder that is one appears empty, anything else is left out.
 *
 * The tree may change under us at any moment, by somebody hostile: everything is opened by folder fd and one
 * name, beneath and without symlinks. What is gone when it is looked at is left out. A file that shrinks while
 * it is sent ends the stream with an error, for its size was promised. Blocks: for a worker. */

#include <sys/types.h>

#include "emulator/base/err.h"

struct treetar_spec {
	int dir_fd; /* open for reading; stays the caller's */
	uid_t uid;  /* who is written as 0; those below or 65534 above it as 65534 */
	/* Takes all n bytes, or a negative errno that ends it all. */
	int (*write)(void *arg, const void *p, size_t n);
	void *write_arg;
	const volatile bool *stop; /* once true, it ends with ERR_NOT_READY (ECANCELED). Or NULL */
};

struct treetar_result {
	uint64_t entries;
	uint64_t file_bytes;
	uint64_t skipped; /* sockets, devices, mounted files */
};

int treetar_write(const struct treetar_spec *s, struct treetar_result *ret, struct err *e);
