#include "emulator/store-internal.h"

/* Once in a while, so nothing is kept prepared. */
static int run(struct store *s, const char *sql, const char *account, uint64_t *ret_changes, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(s->db, sql, -1, &st, NULL);

	if (rc == SQLITE_OK) {
		store_bind_text(st, 1, account);
		rc = store_step(st);
	}
	if (rc == SQLITE_DONE && ret_changes)
		*ret_changes = (uint64_t)sqlite3_changes(s->db);
	(void)sqlite3_finalize(st);
	return rc == SQLITE_DONE ? 0 : store_err(s, rc, e, "cannot forget an account's rows");
}

int store_forget(struct store *s, const char *account, uint64_t *ret_sandboxes, struct err *e)
{
	int r = run(s, "BEGIN IMMEDIATE", NULL, NULL, e);

	if (r < 0)
		return r;
	*ret_sandboxes = 0;
	r = run(s, "DELETE FROM sandbox WHERE status IN ('terminated', 'failed') AND (?1 IS NULL OR account = ?1)",
		account, ret_sandboxes, e);
	if (r >= 0)
		r = run(s, "DELETE FROM idempotency WHERE ?1 IS NULL OR account = ?1", account, NULL, e);
	if (r >= 0)
		r = run(s, "DELETE FROM usage_sandbox WHERE id NOT IN (SELECT id FROM sandbox)", NULL, NULL, e);
	if (r >= 0)
		r = run(s, "COMMIT", NULL, NULL, e);
	if (r < 0)
		(void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	return r;
}

int store_usage_total(struct store *s, uint64_t *ret_cpu_usec, uint64_t *ret_mem_kib_ms, struct err *e)
{
	sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(
		s->db, "SELECT ifnull(sum(cpu_usec), 0), ifnull(sum(mem_kib_ms), 0) FROM usage_month", -1, &st, NULL);

	if (rc == SQLITE_OK)
		rc = store_step(st);
	if (rc == SQLITE_ROW) {
		*ret_cpu_usec = (uint64_t)sqlite3_column_int64(st, 0);
		*ret_mem_kib_ms = (uint64_t)sqlite3_column_int64(st, 1);
	}
	(void)sqlite3_finalize(st);
	return rc == SQLITE_ROW ? 0 : store_err(s, rc, e, "cannot add up the usage");
}
