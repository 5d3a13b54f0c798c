#pragma once
/* A growing byte buffer born with a maximum (curl's dynbuf idea): it can't be made to eat memory.
 * Always NUL-terminated once anything was added. A failed append leaves the old contents whole. */

#include "emulator/base/util.h"

struct buf {
	char *p;    /* NULL while empty */
	size_t len; /* bytes, without the terminator */
	size_t cap;
	size_t max; /* len never exceeds this */
};

#define BUF_INIT(maximum) ((struct buf){ .max = (maximum) })

/* 0, -EMSGSIZE beyond the maximum, or -ENOMEM. */
int buf_add(struct buf *b, const void *p, size_t n) _warn_unused_;
int buf_puts(struct buf *b, const char *s) _warn_unused_;
int buf_printf(struct buf *b, const char *fmt, ...) _printf_(2, 3) _warn_unused_;

/* Makes room for n more bytes and points *ret at it; follow with buf_commit. */
int buf_reserve(struct buf *b, size_t n, char **ret) _warn_unused_;
void buf_commit(struct buf *b, size_t n);

/* Drops the first n bytes. */
void buf_consume(struct buf *b, size_t n);

/* Forgets the contents, keeps the memory. */
void buf_reset(struct buf *b);

/* Frees; the maximum stays, so the buffer can be used again. NULL is fine. */
void buf_free(struct buf *b);

#define _cleanup_buf_ _cleanup_(buf_free)
