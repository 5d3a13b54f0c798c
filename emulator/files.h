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

/* An atomic write: files_write_begin, any number of files_write_data, then commit (visible at once,
 * whole) or abort. Parents are made (0755). mode: permission bits, or UINT32_MAX to keep an existing
 * file's, else 0644. */
struct files_write;
int files_write_begin(const struct files_ctx *c, const char *path, uint32_t mode, struct files_write **ret,
		      struct err *e);
int files_write_data(struct files_write *w, const void *p, size_t n, struct err *e);
bool files_write_replaces(const struct files_write *w); /* a file was there when it began */
void files_write_set_mode(struct files_write *w, uint32_t mode);
/* Reads back exactly n bytes of what was written so far. */
int files_write_reread(const struct files_write *w, uint64_t offset, void *p, size_t n, struct err *e);
/* ret->name is NULL. */
int files_write_commit(struct files_write *given, struct files_entry *ret, struct err *e); /* frees it, also on error */
void files_write_abort(struct files_write *w);						   /* NULL is fine */

/* A regular file for reading: its fd and what it is; ret->name points into path. */
int files_open(const struct files_ctx *c, const char *path, struct files_entry *ret, struct err *e);

/* Entries of a directory in byte order of their names, for an answer made as it is sent: one snapshot of the
 * names, each entry looked up when it is asked for (so one that is gone by then is skipped). after: start
 * behind this name, or NULL. limit 0: no limit but FILES_DIR_MAX_BYTES of names, then ERR_TOO_LARGE; else at
 * most that many, and memory is bounded by it. */
#define FILES_DIR_MAX_BYTES (32u << 20)
struct files_dir;
int files_dir_open(const struct files_ctx *c, const char *path, const char *after, uint32_t limit,
		   struct files_dir **ret, struct err *e);
/* 1 and the next entry (its name lives as long as d), 0 at the end, or a negative errno. */
int files_dir_next(struct files_dir *d, struct files_entry *ret, struct err *e);
bool files_dir_more(const struct files_dir *d); /* there are names behind the last one of this page */
void files_dir_free(struct files_dir *d);	/* NULL is fine */

/* A file, a symlink itself, or a directory (recursive: with everything below it, any depth). */
int files_remove(const struct files_ctx *c, const char *path, bool recursive, struct err *e);
