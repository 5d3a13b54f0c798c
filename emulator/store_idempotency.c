#include <errno.h>
#include <string.h>

#include "emulator/store-internal.h"

#define KEEP_MS (INT64_C(24) * 3600 * 1000) /* wire.md, Conventions */
#define KEY_MAX 255

const struct store_sql store_idempotency_sql[] = {
	{ STMT_IDEMPOTENCY_EXPIRE, "DELETE FROM idempotency WHERE created_ms <= ?1" },
	{ STMT_IDEMPOTENCY_PUT,
	  "INSERT INTO idempotency (account, key, body_sha256, sandbox_id, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)" },
	{ STMT_IDEMPOTENCY_GET,
	  "SELECT body_sha256, sandbox_id FROM idempotency WHERE account = ?1 AND key = ?2 AND created_ms > ?3" },
	{ STMT_IDEMPOTENCY_FORGET, "DELETE FROM idempotency WHERE account = ?1 AND key = ?2" },
	{ 0, NULL },
};

static int expire(struct store *s, int64_t now_ms, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_IDEMPOTENCY_EXPIRE];

	store_bind_int(st, 1, now_ms - KEEP_MS);
	return store_run(s, st, e, "cannot forget old idempotency keys");
}

int store_idempotency_put(struct store *s, const char *account, const char *key, const char *body_sha256,
			  const char *sandbox_id, int64_t now_ms, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_IDEMPOTENCY_PUT];
	int r;

	if (!*key || strlen(key) > KEY_MAX || strlen(body_sha256) != 64 || strlen(sandbox_id) >= SANDBOX_ID_SIZE)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "an idempotency key has 1 to %d bytes", KEY_MAX);
	r = expire(s, now_ms, e);
	if (r < 0)
		return r;
	store_bind_text(st, 1, account);
	store_bind_text(st, 2, key);
	store_bind_text(st, 3, body_sha256);
	store_bind_text(st, 4, sandbox_id);
	store_bind_int(st, 5, now_ms);
	return store_run(s, st, e, "cannot keep the idempotency key");
}

int store_idempotency_get(struct store *s, const char *account, const char *key, int64_t now_ms,
			  char ret_body_sha256[static 65], char ret_id[static SANDBOX_ID_SIZE], struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_IDEMPOTENCY_GET];
	char hash[65], id[SANDBOX_ID_SIZE];
	int rc;

	store_bind_text(st, 1, account);
	store_bind_text(st, 2, key);
	store_bind_int(st, 3, now_ms - KEEP_MS);
	rc = store_step(st);
	if (rc == SQLITE_DONE)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "no such idempotency key");
	if (rc != SQLITE_ROW)
		return store_err(s, rc, e, "cannot look up the idempotency key");
	if (!store_column_copy(st, 0, hash, sizeof(hash)) || !store_column_copy(st, 1, id, sizeof(id)))
		return store_damaged(s, "an impossible idempotency row", e);
	memcpy(ret_body_sha256, hash, sizeof(hash));
	memcpy(ret_id, id, sizeof(id));
	return 0;
}

int store_idempotency_forget(struct store *s, const char *account, const char *key, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_IDEMPOTENCY_FORGET];

	store_bind_text(st, 1, account);
	store_bind_text(st, 2, key);
	return store_run(s, st, e, "cannot forget the idempotency key");
}
