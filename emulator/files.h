#pragma once
/* Files inside a sandbox, from outside: every path is resolved by the kernel below the sandbox's root
 * (openat2(2), RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), so "..", absolute symlinks and races stay
 * inside it. No function here blocks on a fifo or opens a device. root_fd comes from sandbox_root().
 *
 * Paths: absolute, at most 4096 bytes, no NUL; ERR_INVALID "path_invalid" otherwise. Other errors by
 * reason: file_not_found, is_a_directory, not_a_directory, not_a_file, disk_full, directory_not_empty. */

#include <sys/stat.h>

#include "emulator/base/err.h"

struct files_ctx {
	int root_fd;
	uid_t uid; /* E's id of the sandbox's root: who owns what is written */
};

struct files_entry {
	const char *name; /* last component; bytes as they are */
	bool is_dir, is_symlink;
	uint64_t size;
	uint32_t mode; /* permission bits */
	int64_t modified_ms;
};

int files_stat(const struct files_ctx *c, const char *path, struct files_entry *ret, struct err *e);

/* An atomic write: files_write_begin, any number of files_write_data, then commit (visible at once,
 * whole) or abort. Parents are made (0755). mode: permission bits, or UINT32_MAX to keep an existing
 * file's, else 0644. */
struct files_write;
int files_write_begin(const struct files_ctx *c, const char *path, uint32_t mode, struct files_write **ret, struct err *e);
int files_write_data(struct files_write *w, const void *p, size_t n, struct err *e);
int files_write_commit(struct files_write *w, struct files_entry *ret, struct err *e); /* frees w, also on error */
void files_write_abort(struct files_write *w);					      /* NULL is fine */

/* A regular file for reading: its fd and what it is. */
int files_open(const struct files_ctx *c, const char *path, struct files_entry *ret, struct err *e);

/* Entries of a directory in byte order of their names. after: start behind this name, or NULL; limit: at
 * most that many; *ret_more: there are more. */
int files_list(const struct files_ctx *c, const char *path, const char *after, uint32_t limit,
	       int (*fn)(void *arg, const struct files_entry *en), void *arg, bool *ret_more, struct err *e);

/* A file, a symlink itself, or a directory (recursive: with everything below it, any depth). */
int files_remove(const struct files_ctx *c, const char *path, bool recursive, struct err *e);
