#pragma once
/* The store's rows of custom templates (emulator/tmpl.h). Strings in a row are owned by it. */

#include "emulator/base/err.h"

struct store;

enum tmpl_status { TMPL_BUILDING, TMPL_READY, TMPL_FAILED };
const char *tmpl_status_name(enum tmpl_status s);
int tmpl_status_parse(const char *s, enum tmpl_status *ret); /* -EINVAL */

#define TMPL_ID_SIZE 32 /* "tmpl_" + ULID + NUL */

struct tmpl_row {
	char id[TMPL_ID_SIZE];
	char account[64];
	enum tmpl_status status;
	char *name;  /* what its maker calls it */
	char *base;  /* a template's name, or a custom one's id */
	char *steps; /* JSON array text of strings */
	char network[12];
	uint32_t timeout_s;
	int64_t created_ms, ended_ms; /* ended: ready or failed; 0: not yet */
	char error_code[32];	      /* "" unless failed */
	char *error;		      /* why it failed, for a person, or NULL */
	char *failed_step;	      /* JSON object text, or NULL */
	char digest[80];	      /* "" unless ready */
	uint64_t layer_bytes, size_bytes;
};
void tmpl_row_clear(struct tmpl_row *r);
int tmpl_row_copy(const struct tmpl_row *from, struct tmpl_row *to); /* -ENOMEM */

int store_tmpl_insert(struct store *s, const struct tmpl_row *r, struct err *e);
/* By id: status and all that comes with an end. ERR_NOT_FOUND. */
int store_tmpl_update(struct store *s, const struct tmpl_row *r, struct err *e);
int store_tmpl_get(struct store *s, const char *id, struct tmpl_row *ret, struct err *e); /* ERR_NOT_FOUND */
/* 0 also when there is none. */
int store_tmpl_delete(struct store *s, const char *id, struct err *e);
/* Newest first; account NULL: everyone's. fn (row borrowed) must not use the store and ends the walk with
 * anything but 0, which is then returned. */
int store_tmpl_each(struct store *s, const char *account, int (*fn)(void *arg, const struct tmpl_row *r), void *arg,
		    struct err *e);
