#pragma once
/* A tar being written to an fd, entry by entry, of files and texts whose size is known: what an export is. */

#include "emulator/base/err.h"

struct archive;

struct tape {
	struct archive *a;
};

int tape_open(struct tape *t, int out_fd, struct err *e);
/* mtime: seconds. */
int tape_folder(struct tape *t, const char *name, int64_t mtime, struct err *e);
int tape_text(struct tape *t, const char *name, const char *text, size_t n, int64_t mtime, struct err *e);
/* Reads fd from its beginning; it must have exactly size bytes. */
int tape_file(struct tape *t, const char *name, int fd, uint64_t size, int64_t mtime, struct err *e);
/* Ends and frees it; r: how it went so far, returned when negative. */
int tape_close(struct tape *t, int r, struct err *e);
