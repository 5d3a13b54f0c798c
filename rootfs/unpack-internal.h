#pragma once
/* Shared by rootfs/unpack*.c only. Theory of operation: see unpack.c. */

#include "rootfs/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <limits.h>
#include <nettle/sha2.h>

#include "emulator/base/buf.h"
#include "emulator/base/sys.h"

#define UNPACK_READ_SIZE (256u << 10)
#define UNPACK_RESOLVE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)

struct unpacker {
	const struct unpack_spec *s;
	struct unpack_result *res;
	struct err *e;
	int base_fd; /* root_fd, or the prefix in it */
	struct archive *outer, *tar;
	char in[UNPACK_READ_SIZE];
	int read_error; /* of spec->read: negative errno */
	bool over_budget;
	struct sha256_ctx sha;
	int64_t last_progress_us;
	char parent[PATH_MAX]; /* what parent_fd is */
	int parent_fd;
	struct buf dir_times; /* struct dir_time and the path with its NUL, for each folder */
};

/* One entry's place: its parent folder (borrowed) and its last component. */
struct place {
	int dirfd;
	const char *name;    /* NULL: the root folder itself */
	char path[PATH_MAX]; /* normalised, for messages and parents */
};

/* ---- unpack.c ---- */

/* Each fills u->e and returns a negative errno. */
int unpack_refuse(struct unpacker *u, const char *path, const char *why);
int unpack_entry_errno(struct unpacker *u, int errnum, const char *path, const char *what);
int unpack_too_large(struct unpacker *u);
int unpack_stopped(struct unpacker *u);
/* Why a reader stopped, in the order of what is closest to the truth. */
int unpack_reader_error(struct unpacker *u, struct archive *a);

static inline bool unpack_must_stop(const struct unpacker *u)
{
	return u->s->stop && *u->s->stop;
}

/* ---- unpack_place.c: names and folders ---- */

/* Drops doubled slashes and "."; refuses "..", and what no file system could hold. A leading slash goes, too,
 * or is refused in a live folder. */
int unpack_normalise(struct unpacker *u, const char *path, char ret[static PATH_MAX]);

/* Cuts off the first component when it is the one to strip. False: not below it, or it itself. */
bool unpack_strip_first(const char *first, char path[static PATH_MAX]);

/* Makes the folders of a normalised path below u->base_fd that are missing; an O_PATH fd of the last. */
int unpack_make_parents(struct unpacker *u, const char *path);

/* 1: skip this entry (not below what is stripped). */
int unpack_find_place(struct unpacker *u, const char *path, struct place *ret);

/* Makes room for something that is no folder. */
int unpack_clear_place(struct unpacker *u, const struct place *at);

/* Makes something that has no data at its place: fn makes it under the name it is given, 0 or -errno. In a
 * live folder what was there goes in the same instant. */
int unpack_make_at(struct unpacker *u, const struct place *at, int (*fn)(void *arg, int dirfd, const char *name),
		   void *arg);

/* In a live folder, before a name is replaced: refuses what must stay (a mount point, a folder with
 * something in it), removes an empty folder. *ret_there: something will be replaced. */
int unpack_check_live(struct unpacker *u, const struct place *at, bool *ret_there);

/* ---- unpack_entry.c: one entry of each kind ---- */

/* No-op where there is but one id, or the files are born with the right one (live). */
int unpack_own(const struct unpacker *u, int dirfd, const char *name, uid_t uid, gid_t gid, int flags);

int unpack_entry(struct unpacker *u, struct archive_entry *entry);

/* A folder's time changes with what is put into it: set at the end. */
void unpack_set_dir_times(struct unpacker *u);
