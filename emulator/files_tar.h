#pragma once
/* A sandbox's directory as a tar archive, out (rootfs/treetar.h) and in (rootfs/unpack.h, live). The work is
 * done by a worker process of its own; bytes go through a pipe that nobody here ever waits for.
 *
 * Only the daemon, from its loop. Errors by reason, beside those of files.h: archive_invalid (damaged, or
 * hostile: an absolute name, "..", a way through a symlink or a mount point, ...), archive_too_large,
 * archive_changed (a tree that would not hold still).
 *
 * Out: folders, files, symlinks, fifos, hardlinks, user.* attributes; owners as the sandbox sees them. Sockets,
 * devices and what is mounted below are left out. In: the same kinds; owners are the sandbox's root, modes
 * are kept (set-id bits too), devices are skipped. An archive is not unpacked as a whole: each file appears
 * whole or not at all, and what was written before an error stays. */

#include "emulator/base/err.h"
#include "emulator/files.h"

struct uv_loop_s;
struct files_tar;

#define FILES_TAR_MAX_ENTRIES 1000000u
#define FILES_TAR_MAX_BYTES (32ull << 30) /* of the uncompressed archive, and of the files in it */
#define FILES_TAR_MAX_JOBS 64u		  /* at a time; ERR_CAPACITY beyond */

struct files_tar_result {
	uint64_t entries;    /* written, or in the archive */
	uint64_t file_bytes; /* of the files */
	uint64_t skipped;    /* devices, sockets, mounted files */
};

struct files_tar_events {
	void (*ready)(void *arg); /* a read or write that found nothing to do can be tried again */
	/* The worker is through; once, unless dropped before. err->kind is ERR_NONE if all went well. res: what
	 * was done, also with an error. The handle stays valid until files_tar_drop. */
	void (*done)(void *arg, const struct err *err, const struct files_tar_result *res);
	/* Asked about twice a second: 0, or a negative errno with e filled, which ends the job with that error. */
	int (*check)(void *arg, struct err *e);
	void *arg;
};

/* Starts to make an archive of the directory. */
int files_tar_pack(struct uv_loop_s *loop, const struct files_ctx *c, const char *path,
		   const struct files_tar_events *ev, struct files_tar **ret, struct err *e);

/* Starts to unpack one into the directory, which is made (0755, with its parents) if it is missing.
 * max_bytes, max_entries: at most the limits above. */
int files_tar_unpack(struct uv_loop_s *loop, const struct files_ctx *c, const char *path, uint64_t max_bytes,
		     uint64_t max_entries, const struct files_tar_events *ev, struct files_tar **ret, struct err *e);

/* The next bytes of a packed archive: how many, 0 at the end (which only done says was a good one), or
 * -EAGAIN: ready will be called. */
ssize_t files_tar_read(struct files_tar *t, void *p, size_t n);

/* Takes some or all of the bytes: how many. Less than n: ready will be called. A worker that is done takes
 * everything and forgets it. */
size_t files_tar_write(struct files_tar *t, const void *p, size_t n);
/* That was the last byte. */
void files_tar_end(struct files_tar *t);

/* Lets go of it: no more events; a worker that still runs is told to stop. NULL is fine. */
void files_tar_drop(struct files_tar *t);
