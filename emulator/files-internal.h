#pragma once
/* Shared by emulator/files*.c only. */

#include "emulator/files.h"

#define FILES_PATH_MAX 4096
#define FILES_NAME_MAX 255

/* What may make and rename things on a mount that belongs to the sandbox's user namespace; see files.c. */
struct files_identity {
	bool changed;
	uid_t uid;
	gid_t gid;
	mode_t umask;
};

void files_identity_enter(struct files_identity *id, uid_t uid);
void files_identity_leave(struct files_identity *id);

/* 0, or ERR_INVALID "path_invalid". */
int files_check_path(const char *path, struct err *e);

/* Fills e with the kind and reason files.h promises for errnum. Returns -errnum. */
int files_err(struct err *e, int errnum, const char *path, const char *what);

/* Gives an error that has only its errnum the kind and reason files.h promises, if it has one for it. */
void files_err_classify(struct err *e);

/* openat2(2) below the root, tried again while the tree is being renamed. An fd or a negative errno. */
int files_open_in(const struct files_ctx *c, const char *path, uint64_t flags);

/* files_open_in of a directory, O_PATH; make: with what is missing on the way (0755, as the current identity).
 * In files_write.c. */
int files_open_dir(const struct files_ctx *c, const char *dir, bool make);

/* openat2(2) of one name in dirfd, which is never followed. no_xdev: -EXDEV for a mount point. */
int files_open_child(int dirfd, const char *name, uint64_t flags, bool no_xdev);

/* "/a/b" -> "/a", "b"; trailing slashes are cut (*ret_slash tells). The name of "/" is "". */
void files_split(const char *path, char ret_dir[static FILES_PATH_MAX + 1], char ret_name[static FILES_NAME_MAX + 1],
		 bool *ret_slash);

/* proc, sysfs, cgroup and the like, where making and removing files means something else; also when
 * the kernel would not say. */
bool files_is_pseudo(int fd);

/* statx(2) of dirfd/name itself; *ret_mounted: something is mounted there. 0 or a negative errno. */
int files_lstat(int dirfd, const char *name, struct statx *ret, bool *ret_mounted);

void files_entry_from_stat(const struct stat *st, const char *name, struct files_entry *ret);
