#include "emulator/store_tmpl.h"

#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/store-internal.h"

#define COLUMNS                                                                                                        \
	"id, account, status, name, base, steps, network, timeout_s, created_ms, ended_ms, error_code, error, "        \
	"failed_step, digest, layer_bytes, size_bytes"

const struct store_sql store_tmpl_sql[] = {
	{ STMT_TMPL_INSERT, "INSERT INTO template (" COLUMNS ") VALUES "
			    "(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)" },
	{ STMT_TMPL_UPDATE,
	  "UPDATE template SET status = ?2, ended_ms = ?3, error_code = ?4, error = ?5, failed_step = ?6, "
	  "digest = ?7, layer_bytes = ?8, size_bytes = ?9 WHERE id = ?1" },
	{ STMT_TMPL_GET, "SELECT " COLUMNS " FROM template WHERE id = ?1" },
	{ STMT_TMPL_DELETE, "DELETE FROM template WHERE id = ?1" },
	{ STMT_TMPL_EACH, "SELECT " COLUMNS " FROM template WHERE ?1 IS NULL OR account = ?1 "
			  "ORDER BY created_ms DESC, id DESC" },
	{ 0, NULL },
};

static const char *const status_names[] = {
	[TMPL_BUILDING] = "building",
	[TMPL_READY] = "ready",
	[TMPL_FAILED] = "failed",
};

const char *tmpl_status_name(enum tmpl_status s)
{
	return (size_t)s < ARRAY_SIZE(status_names) ? status_names[s] : "failed";
}

int tmpl_status_parse(const char *s, enum tmpl_status *ret)
{
	int i = text_index(s, status_names, ARRAY_SIZE(status_names));

	if (i >= 0)
		*ret = (enum tmpl_status)i;
	return MIN(i, 0);
}

void tmpl_row_clear(struct tmpl_row *r)
{
	if (!r)
		return;
	free(r->name);
	free(r->base);
	free(r->steps);
	free(r->error);
	free(r->failed_step);
	*r = (struct tmpl_row){ .id = "" };
}

int tmpl_row_copy(const struct tmpl_row *from, struct tmpl_row *to)
{
	struct tmpl_row r = *from;

	r.name = r.base = r.steps = r.error = r.failed_step = NULL;
	if (!store_dup(from->name, &r.name) || !store_dup(from->base, &r.base) || !store_dup(from->steps, &r.steps) ||
	    !store_dup(from->error, &r.error) || !store_dup(from->failed_step, &r.failed_step)) {
		tmpl_row_clear(&r);
		return -ENOMEM;
	}
	*to = r;
	return 0;
}

/* Column by column in the order of COLUMNS. */
static bool decode(sqlite3_stmt *st, struct tmpl_row *r, bool *nomem)
{
	char status[16];

	r->created_ms = sqlite3_column_int64(st, 8);
	r->ended_ms = sqlite3_column_int64(st, 9);
	r->layer_bytes = (uint64_t)sqlite3_column_int64(st, 14);
	r->size_bytes = (uint64_t)sqlite3_column_int64(st, 15);
	return store_column_copy(st, 0, r->id, sizeof(r->id)) &&
	       store_column_copy(st, 1, r->account, sizeof(r->account)) &&
	       store_column_copy(st, 2, status, sizeof(status)) && tmpl_status_parse(status, &r->status) == 0 &&
	       store_column_dup(st, 3, false, &r->name, nomem) && store_column_dup(st, 4, false, &r->base, nomem) &&
	       store_column_dup(st, 5, false, &r->steps, nomem) &&
	       store_column_copy(st, 6, r->network, sizeof(r->network)) && store_column_u32(st, 7, &r->timeout_s) &&
	       store_column_copy(st, 10, r->error_code, sizeof(r->error_code)) &&
	       store_column_dup(st, 11, true, &r->error, nomem) &&
	       store_column_dup(st, 12, true, &r->failed_step, nomem) &&
	       store_column_copy(st, 13, r->digest, sizeof(r->digest));
}

static int read_row(struct store *s, sqlite3_stmt *st, struct tmpl_row *ret, struct err *e)
{
	struct tmpl_row r = { .id = "" };
	bool nomem = false;

	if (!decode(st, &r, &nomem) || nomem) {
		tmpl_row_clear(&r);
		return nomem ? err_errno(e, ENOMEM, "cannot read a template's row")
			     : store_damaged(s, "a template's row is malformed", e);
	}
	*ret = r;
	return 0;
}

int store_tmpl_insert(struct store *s, const struct tmpl_row *r, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_TMPL_INSERT];

	store_bind_text(st, 1, r->id);
	store_bind_text(st, 2, r->account);
	store_bind_text(st, 3, tmpl_status_name(r->status));
	store_bind_text(st, 4, r->name);
	store_bind_text(st, 5, r->base);
	store_bind_text(st, 6, r->steps);
	store_bind_text(st, 7, r->network);
	store_bind_int(st, 8, r->timeout_s);
	store_bind_int(st, 9, r->created_ms);
	store_bind_int(st, 10, r->ended_ms);
	store_bind_text(st, 11, r->error_code);
	store_bind_text(st, 12, r->error);
	store_bind_text(st, 13, r->failed_step);
	store_bind_text(st, 14, r->digest);
	store_bind_int(st, 15, (int64_t)r->layer_bytes);
	store_bind_int(st, 16, (int64_t)r->size_bytes);
	return store_run(s, st, e, "cannot store the template");
}

int store_tmpl_update(struct store *s, const struct tmpl_row *r, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_TMPL_UPDATE];
	int k;

	store_bind_text(st, 1, r->id);
	store_bind_text(st, 2, tmpl_status_name(r->status));
	store_bind_int(st, 3, r->ended_ms);
	store_bind_text(st, 4, r->error_code);
	store_bind_text(st, 5, r->error);
	store_bind_text(st, 6, r->failed_step);
	store_bind_text(st, 7, r->digest);
	store_bind_int(st, 8, (int64_t)r->layer_bytes);
	store_bind_int(st, 9, (int64_t)r->size_bytes);
	k = store_run(s, st, e, "cannot store the template");
	if (k == 0 && sqlite3_changes(s->db) == 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template %s here", r->id);
	return k;
}

int store_tmpl_get(struct store *s, const char *id, struct tmpl_row *ret, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_TMPL_GET];
	int rc;

	store_bind_text(st, 1, id);
	rc = store_step(st);
	if (rc == SQLITE_ROW)
		return read_row(s, st, ret, e);
	if (rc == SQLITE_DONE)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template %.64s here", id);
	return store_err(s, rc, e, "cannot read the template");
}

int store_tmpl_delete(struct store *s, const char *id, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_TMPL_DELETE];

	store_bind_text(st, 1, id);
	return store_run(s, st, e, "cannot delete the template");
}

int store_tmpl_each(struct store *s, const char *account, int (*fn)(void *arg, const struct tmpl_row *r), void *arg,
		    struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_TMPL_EACH];
	int rc, r = 0;

	store_bind_text(st, 1, account);
	while (r == 0 && (rc = store_step(st)) == SQLITE_ROW) {
		_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };

		r = read_row(s, st, &row, e);
		if (r == 0)
			r = fn(arg, &row);
	}
	return r != 0 ? r : rc == SQLITE_DONE ? 0 : store_err(s, rc, e, "cannot list the templates");
}
