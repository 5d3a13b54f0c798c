#pragma once
/* For tests that read a stream into a buffer and take it from its front. */

#include <string.h>

#include "emulator/base/buf.h"

/* Drops the first n bytes. */
static inline void buf_consume(struct buf *b, size_t n)
{
	if (n >= b->len) {
		buf_reset(b);
		return;
	}
	memmove(b->p, b->p + n, b->len - n);
	b->len -= n;
	b->p[b->len] = '\0';
}
