#pragma once
/* The names in a folder, sorted by their bytes, without "." and "..": one snapshot, in bounded memory. */

#include "emulator/base/buf.h"

#define NAMES_MAX_BYTES (64u << 20)

struct names {
	struct buf text; /* each with its NUL */
	uint32_t *at;	 /* where in text each one begins */
	size_t n;
};
#define NAMES_INIT ((struct names){ .text = BUF_INIT(NAMES_MAX_BYTES) })

/* Reads fd, a folder open for reading, from its beginning. -EMSGSIZE beyond the maximum, -ENOMEM, or what
 * getdents64(2) says; then and before there is nothing in l. */
int names_read(struct names *l, int fd);

static inline const char *names_at(const struct names *l, size_t i)
{
	return l->text.p + l->at[i];
}

void names_free(struct names *l);
#define _cleanup_names_ _cleanup_(names_free)
