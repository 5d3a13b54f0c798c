#pragma once
/* What the store's own files share. Theory of operation: see store.c. */

#include <errno.h>
#include <sqlite3.h>

#include "emulator/store.h"

enum store_stmt {
	STMT_SANDBOX_INSERT,
	STMT_SANDBOX_PUT,
	STMT_SANDBOX_UPDATE,
	STMT_SANDBOX_GET,
	STMT_SANDBOX_LIST,
	STMT_SANDBOX_LIST_STATUS,
	STMT_SANDBOX_LIST_TERMINATED,
	STMT_SANDBOX_LIVE_IDS,
	STMT_IDEMPOTENCY_EXPIRE,
	STMT_IDEMPOTENCY_PUT,
	STMT_IDEMPOTENCY_GET,
	STMT_IDEMPOTENCY_FORGET,
	STMT_SETTING_GET,
	STMT_SETTING_PUT,
	STMT_KEY_PUT,
	STMT_KEY_DELETE,
	STMT_KEY_EACH,
	STMT_USAGE_GET,
	STMT_USAGE_PUT,
	STMT_USAGE_MONTH_GET,
	STMT_USAGE_MONTH_PUT,
	STMT_USAGE_FORGET,
	STMT_TMPL_INSERT,
	STMT_TMPL_UPDATE,
	STMT_TMPL_GET,
	STMT_TMPL_DELETE,
	STMT_TMPL_EACH,
	STMT_COUNT,
};

struct store {
	sqlite3 *db;
	char name[64];
	sqlite3_stmt *stmts[STMT_COUNT];
};

/* Statements of one file, by their place in struct store. */
struct store_sql {
	enum store_stmt id;
	const char *sql;
};
extern const struct store_sql store_sandbox_sql[];     /* ends with a NULL sql */
extern const struct store_sql store_idempotency_sql[]; /* likewise */
extern const struct store_sql store_setting_sql[];     /* likewise */
extern const struct store_sql store_usage_sql[];       /* likewise */
extern const struct store_sql store_key_sql[];	       /* likewise */
extern const struct store_sql store_tmpl_sql[];	       /* likewise */

#define STORE_APPLICATION_ID 0x6f726b65 /* "orke", in the file's header: PRAGMA application_id */

/* Refuses another program's database and one of a newer version; changes nothing. */
int store_check_ours(struct store *s, struct err *e);

/* Brings the schema to this program's version. */
int store_migrate(struct store *s, struct err *e);

/* Fills e from an SQLite result code. what: "cannot store the sandbox". Never quotes a row's content. */
int store_err(struct store *s, int rc, struct err *e, const char *what);

/* The way out of a damaged file, as an error; why: a few words. */
int store_damaged(struct store *s, const char *why, struct err *e);

#ifdef __clang_analyzer__
/* As in err.h: negative, always. */
#define store_err(s, rc, e, what) ((void)store_err(s, rc, e, what), -EIO)
#define store_damaged(s, why, e) ((void)store_damaged(s, why, e), -EIO)
#endif

/* errno afterwards is this call's: SQLite keeps no other trace of why a commit's write failed. */
static inline int store_step(sqlite3_stmt *st)
{
	errno = 0;
	return sqlite3_step(st);
}

/* Makes a kept statement ready for its next use, without its old parameters. For _cleanup_. */
static inline void store_stmt_done(sqlite3_stmt **st)
{
	if (*st) {
		(void)sqlite3_reset(*st);
		(void)sqlite3_clear_bindings(*st);
	}
}
#define _cleanup_stmt_ _cleanup_(store_stmt_done)

/* Parameters and columns. A bind only fails out of memory or with a wrong index; both show up again in
 * sqlite3_step as a NULL that a NOT NULL column refuses. Text is borrowed until the statement is done. */
static inline void store_bind_text(sqlite3_stmt *st, int i, const char *s)
{
	if (s)
		(void)sqlite3_bind_text(st, i, s, -1, SQLITE_STATIC);
	else
		(void)sqlite3_bind_null(st, i);
}

static inline void store_bind_int(sqlite3_stmt *st, int i, int64_t v)
{
	(void)sqlite3_bind_int64(st, i, v);
}

/* Runs a statement that has no rows; what: as for store_err. */
int store_run(struct store *s, sqlite3_stmt *st, struct err *e, const char *what);

/* What is read back is checked as if the file had been written by someone else: false for what no row of ours has,
 * a NUL inside a text, NULL where there must be one, or a number out of range. */
bool store_column_copy(sqlite3_stmt *st, int i, char *ret, size_t cap); /* it must be there and fit */
bool store_column_dup(sqlite3_stmt *st, int i, bool may_be_null, char **ret, bool *nomem);
bool store_column_u32(sqlite3_stmt *st, int i, uint32_t *ret);

/* A string of a row for its copy; NULL stays NULL. */
bool store_dup(const char *from, char **to);
