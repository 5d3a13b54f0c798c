#include <errno.h>

#include "emulator/base/log.h"
#include "emulator/store-internal.h"

const struct store_sql store_usage_sql[] = {
	{ STMT_USAGE_GET, "SELECT slot, seen_usec, at_ms, cpu_usec, mem_kib_ms, run_ms, peak_bytes FROM usage_sandbox"
			  " WHERE id = ?1" },
	{ STMT_USAGE_PUT,
	  "INSERT OR REPLACE INTO usage_sandbox (id, slot, seen_usec, at_ms, cpu_usec, mem_kib_ms, run_ms,"
	  " peak_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)" },
	{ STMT_USAGE_MONTH_GET, "SELECT cpu_usec, mem_kib_ms FROM usage_month WHERE account = ?1 AND month = ?2" },
	{ STMT_USAGE_MONTH_PUT,
	  "INSERT OR REPLACE INTO usage_month (account, month, cpu_usec, mem_kib_ms) VALUES (?1, ?2, ?3, ?4)" },
	{ STMT_USAGE_FORGET, "DELETE FROM usage_month WHERE ?1 IS NULL OR account = ?1" },
	{ 0, NULL },
};

static const char read_what[] = "cannot read the usage", write_what[] = "cannot keep the usage";

int store_usage_get(struct store *s, const char *id, struct store_usage *ret, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_USAGE_GET];
	int rc;

	*ret = (struct store_usage){ 0 };
	store_bind_text(st, 1, id);
	rc = store_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_err(s, rc, e, read_what);
	if (!store_column_copy(st, 0, ret->slot, sizeof(ret->slot)))
		return store_damaged(s, "an impossible usage", e);
	ret->seen_usec = (uint64_t)sqlite3_column_int64(st, 1);
	ret->at_ms = sqlite3_column_int64(st, 2);
	ret->cpu_usec = (uint64_t)sqlite3_column_int64(st, 3);
	ret->mem_kib_ms = (uint64_t)sqlite3_column_int64(st, 4);
	ret->run_ms = (uint64_t)sqlite3_column_int64(st, 5);
	ret->peak_bytes = (uint64_t)sqlite3_column_int64(st, 6);
	return 0;
}

int store_usage_put(struct store *s, const char *id, const struct store_usage *u, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_USAGE_PUT];

	store_bind_text(st, 1, id);
	store_bind_text(st, 2, u->slot);
	store_bind_int(st, 3, (int64_t)u->seen_usec);
	store_bind_int(st, 4, u->at_ms);
	store_bind_int(st, 5, (int64_t)u->cpu_usec);
	store_bind_int(st, 6, (int64_t)u->mem_kib_ms);
	store_bind_int(st, 7, (int64_t)u->run_ms);
	store_bind_int(st, 8, (int64_t)u->peak_bytes);
	return store_run(s, st, e, write_what);
}

int store_usage_month_get(struct store *s, const char *account, int month, struct store_usage *ret, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_USAGE_MONTH_GET];
	int rc;

	*ret = (struct store_usage){ 0 };
	store_bind_text(st, 1, account);
	store_bind_int(st, 2, month);
	rc = store_step(st);
	if (rc == SQLITE_DONE)
		return 0;
	if (rc != SQLITE_ROW)
		return store_err(s, rc, e, read_what);
	ret->cpu_usec = (uint64_t)sqlite3_column_int64(st, 0);
	ret->mem_kib_ms = (uint64_t)sqlite3_column_int64(st, 1);
	return 0;
}

int store_usage_month_put(struct store *s, const char *account, int month, const struct store_usage *u, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_USAGE_MONTH_PUT];

	store_bind_text(st, 1, account);
	store_bind_int(st, 2, month);
	store_bind_int(st, 3, (int64_t)u->cpu_usec);
	store_bind_int(st, 4, (int64_t)u->mem_kib_ms);
	return store_run(s, st, e, write_what);
}

int store_usage_forget(struct store *s, const char *account, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_USAGE_FORGET];

	store_bind_text(st, 1, account);
	return store_run(s, st, e, "cannot forget the usage");
}

int store_begin(struct store *s, struct err *e)
{
	int rc;

	errno = 0;
	rc = sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	return rc == SQLITE_OK ? 0 : store_err(s, rc, e, "cannot write to the store");
}

int store_end(struct store *s, bool commit, struct err *e)
{
	int rc = SQLITE_OK, r = 0;

	errno = 0;
	if (commit)
		rc = sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
	if (rc != SQLITE_OK)
		r = store_err(s, rc, e, "cannot write to the store");
	/* After some errors SQLite has rolled back by itself. */
	if ((!commit || rc != SQLITE_OK) && !sqlite3_get_autocommit(s->db) &&
	    sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL) != SQLITE_OK)
		log_error("the store can't undo what it has begun: %s", sqlite3_errmsg(s->db));
	return r;
}
