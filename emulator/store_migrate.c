/* The schema, one numbered step after the other. A step that was released is never edited: files in the
 * field went through it. The version is PRAGMA user_version, and changes in the step's own transaction.
 *
 * Times are milliseconds since the epoch, 0 for "not yet". Almost every row of a long history is
 * 'terminated': the partial index keeps the others at hand, and costs those nothing. */

#include <errno.h>

#include "emulator/store-internal.h"

static const char *const steps[] = {
	/* 1 */
	"CREATE TABLE sandbox ("
	" id TEXT NOT NULL PRIMARY KEY,"
	" slot TEXT NOT NULL,"
	" account TEXT NOT NULL,"
	" status TEXT NOT NULL,"
	" template TEXT NOT NULL,"
	" size TEXT NOT NULL,"
	" cpu_millis INTEGER NOT NULL,"
	" memory_mb INTEGER NOT NULL,"
	" network TEXT NOT NULL,"
	" timeout_s INTEGER NOT NULL,"
	" region TEXT,"
	" created_ms INTEGER NOT NULL,"
	" started_ms INTEGER NOT NULL,"
	" expires_ms INTEGER NOT NULL,"
	" paused_ms INTEGER NOT NULL,"
	" terminated_ms INTEGER NOT NULL,"
	" termination_reason TEXT NOT NULL,"
	" failure TEXT,"
	" metadata TEXT NOT NULL,"
	" env TEXT NOT NULL"
	") STRICT;"
	"CREATE INDEX sandbox_by_time ON sandbox (account, created_ms, id);"
	"CREATE INDEX sandbox_not_terminated ON sandbox (account, status, created_ms, id) WHERE status <> 'terminated';"
	"CREATE TABLE idempotency ("
	" account TEXT NOT NULL,"
	" key TEXT NOT NULL,"
	" body_sha256 TEXT NOT NULL,"
	" sandbox_id TEXT NOT NULL,"
	" created_ms INTEGER NOT NULL,"
	" PRIMARY KEY (account, key)"
	") STRICT, WITHOUT ROWID;"
	"CREATE INDEX idempotency_by_time ON idempotency (created_ms);",
	/* 2: settings (the clock's offset); usage (emulator/meter.h: memory in KiB times ms, CPU in us); keys made at
	 * run time, by their SHA-256 */
	"CREATE TABLE setting ("
	" name TEXT NOT NULL PRIMARY KEY,"
	" value INTEGER NOT NULL"
	") STRICT, WITHOUT ROWID;"
	"CREATE TABLE usage_month ("
	" account TEXT NOT NULL,"
	" month INTEGER NOT NULL," /* 202605 */
	" cpu_usec INTEGER NOT NULL,"
	" mem_kib_ms INTEGER NOT NULL,"
	" PRIMARY KEY (account, month)"
	") STRICT, WITHOUT ROWID;"
	"CREATE TABLE usage_sandbox ("
	" id TEXT NOT NULL PRIMARY KEY,"
	" slot TEXT NOT NULL," /* whose counter seen_usec is of */
	" seen_usec INTEGER NOT NULL,"
	" at_ms INTEGER NOT NULL," /* up to when it is counted; 0: it does not run */
	" cpu_usec INTEGER NOT NULL,"
	" mem_kib_ms INTEGER NOT NULL,"
	" run_ms INTEGER NOT NULL,"
	" peak_bytes INTEGER NOT NULL"
	") STRICT, WITHOUT ROWID;"
	"CREATE TABLE api_key ("
	" digest TEXT NOT NULL PRIMARY KEY," /* SHA-256, hex */
	" account TEXT NOT NULL,"
	" plan TEXT NOT NULL,"
	" scopes INTEGER NOT NULL,"
	" label TEXT NOT NULL,"
	" created_ms INTEGER NOT NULL,"
	" expires_ms INTEGER NOT NULL,"
	" revoked_ms INTEGER NOT NULL,"
	" rate_requests INTEGER NOT NULL,"
	" rate_seconds INTEGER NOT NULL"
	") STRICT, WITHOUT ROWID;",
	/* 3: custom templates */
	"CREATE TABLE template ("
	" id TEXT NOT NULL PRIMARY KEY,"
	" account TEXT NOT NULL,"
	" status TEXT NOT NULL,"
	" name TEXT NOT NULL,"
	" base TEXT NOT NULL,"
	" steps TEXT NOT NULL,"
	" network TEXT NOT NULL,"
	" timeout_s INTEGER NOT NULL,"
	" created_ms INTEGER NOT NULL,"
	" ended_ms INTEGER NOT NULL,"
	" error_code TEXT NOT NULL,"
	" error TEXT,"
	" failed_step TEXT,"
	" digest TEXT NOT NULL,"
	" layer_bytes INTEGER NOT NULL,"
	" size_bytes INTEGER NOT NULL"
	") STRICT;"
	"CREATE INDEX template_by_time ON template (account, created_ms, id);",
	/* 4: API keys in the order they were made in, whatever the clock said */
	"ALTER TABLE api_key RENAME TO api_key_3;"
	"CREATE TABLE api_key ("
	" place INTEGER PRIMARY KEY,"
	" digest TEXT NOT NULL UNIQUE," /* SHA-256, hex */
	" account TEXT NOT NULL,"
	" plan TEXT NOT NULL,"
	" scopes INTEGER NOT NULL,"
	" label TEXT NOT NULL,"
	" created_ms INTEGER NOT NULL,"
	" expires_ms INTEGER NOT NULL,"
	" revoked_ms INTEGER NOT NULL,"
	" rate_requests INTEGER NOT NULL,"
	" rate_seconds INTEGER NOT NULL"
	") STRICT;"
	"INSERT INTO api_key (digest, account, plan, scopes, label, created_ms, expires_ms, revoked_ms, rate_requests,"
	" rate_seconds) SELECT digest, account, plan, scopes, label, created_ms, expires_ms, revoked_ms, rate_requests,"
	" rate_seconds FROM api_key_3 ORDER BY created_ms, digest;"
	"DROP TABLE api_key_3;",
};

static int read_int(struct store *s, const char *sql, int64_t *ret, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL);

	if (rc == SQLITE_OK) {
		rc = sqlite3_step(st);
		if (rc == SQLITE_ROW) {
			*ret = sqlite3_column_int64(st, 0);
			rc = SQLITE_OK;
		} else if (rc == SQLITE_DONE) {
			rc = SQLITE_CORRUPT;
		}
	}
	(void)sqlite3_finalize(st);
	return rc == SQLITE_OK ? 0 : store_err(s, rc, e, "cannot read the store");
}

static int step_to(struct store *s, size_t version, struct err *e)
{
	char sql[128];
	int rc;

	(void)snprintf(sql, sizeof(sql), "PRAGMA user_version = %zu; PRAGMA application_id = %d;", version,
		       STORE_APPLICATION_ID);
	rc = sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(s->db, steps[version - 1], NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
	if (rc == SQLITE_OK)
		return 0;
	rc = store_err(s, rc, e, "cannot bring the store to this version");
	(void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

int store_check_ours(struct store *s, struct err *e)
{
	int64_t version = 0, id = 0, tables = 0;
	int r;

	r = read_int(s, "PRAGMA user_version", &version, e);
	if (r >= 0)
		r = read_int(s, "PRAGMA application_id", &id, e);
	if (r >= 0)
		r = read_int(s, "SELECT count(*) FROM sqlite_schema", &tables, e);
	if (r < 0)
		return r;
	/* Without our mark it may only be a database in which nothing was ever made. */
	if (id != STORE_APPLICATION_ID && (id != 0 || version != 0 || tables != 0))
		return err_set(e, ERR_EXISTS, EEXIST, "store_foreign",
			       "%s is another program's database; move it away, or pass another --state-dir", s->name);
	if (version < 0 || version > (int64_t)ARRAY_SIZE(steps))
		return err_set(
			e, ERR_UNSUPPORTED, EPROTONOSUPPORT, "store_newer",
			"%s was written by a newer orkestr-emulator (store version %lld, this one knows up to %zu); "
			"use that one, or pass another --state-dir",
			s->name, (long long)version, ARRAY_SIZE(steps));
	return 0;
}

int store_migrate(struct store *s, struct err *e)
{
	int64_t version = 0;
	int r = read_int(s, "PRAGMA user_version", &version, e);

	for (size_t v = (size_t)version + 1; r >= 0 && v <= ARRAY_SIZE(steps); v++)
		r = step_to(s, v, e);
	return r;
}
