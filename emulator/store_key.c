#include <errno.h>

#include "emulator/store-internal.h"

const struct store_sql store_key_sql[] = {
	{ STMT_KEY_PUT,
	  "INSERT INTO api_key (digest, account, plan, scopes, label, created_ms, expires_ms, revoked_ms, "
	  "rate_requests,"
	  " rate_seconds) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
	  " ON CONFLICT (digest) DO UPDATE SET plan = excluded.plan, scopes = excluded.scopes,"
	  " expires_ms = excluded.expires_ms, revoked_ms = excluded.revoked_ms, rate_requests = excluded.rate_requests,"
	  " rate_seconds = excluded.rate_seconds" },
	{ STMT_KEY_DELETE, "DELETE FROM api_key WHERE digest = ?1" },
	{ STMT_KEY_EACH,
	  "SELECT digest, account, plan, scopes, label, created_ms, expires_ms, revoked_ms, rate_requests,"
	  " rate_seconds FROM api_key ORDER BY place" },
	{ 0, NULL },
};

int store_key_put(struct store *s, const struct store_key *k, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_KEY_PUT];

	store_bind_text(st, 1, k->digest);
	store_bind_text(st, 2, k->account);
	store_bind_text(st, 3, k->plan);
	store_bind_int(st, 4, k->scopes);
	store_bind_text(st, 5, k->label);
	store_bind_int(st, 6, k->created_ms);
	store_bind_int(st, 7, k->expires_ms);
	store_bind_int(st, 8, k->revoked_ms);
	store_bind_int(st, 9, k->rate_requests);
	store_bind_int(st, 10, k->rate_seconds);
	return store_run(s, st, e, "cannot keep the API key");
}

int store_key_delete(struct store *s, const char *digest, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_KEY_DELETE];

	store_bind_text(st, 1, digest);
	return store_run(s, st, e, "cannot forget the API key");
}

static bool read_key(sqlite3_stmt *st, struct store_key *k)
{
	k->scopes = (unsigned int)sqlite3_column_int(st, 3);
	k->created_ms = sqlite3_column_int64(st, 5);
	k->expires_ms = sqlite3_column_int64(st, 6);
	k->revoked_ms = sqlite3_column_int64(st, 7);
	k->rate_requests = (uint32_t)sqlite3_column_int64(st, 8);
	k->rate_seconds = (uint32_t)sqlite3_column_int64(st, 9);
	return store_column_copy(st, 0, k->digest, sizeof(k->digest)) &&
	       store_column_copy(st, 1, k->account, sizeof(k->account)) &&
	       store_column_copy(st, 2, k->plan, sizeof(k->plan)) &&
	       store_column_copy(st, 4, k->label, sizeof(k->label));
}

int store_key_each(struct store *s, int (*fn)(void *arg, const struct store_key *k), void *arg, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_KEY_EACH];
	int rc, r = 0;

	while (r == 0 && (rc = store_step(st)) != SQLITE_DONE) {
		struct store_key k = { 0 };

		if (rc != SQLITE_ROW)
			return store_err(s, rc, e, "cannot read the API keys");
		if (!read_key(st, &k))
			return store_damaged(s, "an impossible API key", e);
		r = fn(arg, &k);
	}
	return r;
}
