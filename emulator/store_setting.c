#include <errno.h>

#include "emulator/store-internal.h"

const struct store_sql store_setting_sql[] = {
	{ STMT_SETTING_GET, "SELECT value FROM setting WHERE name = ?1" },
	{ STMT_SETTING_PUT, "INSERT INTO setting (name, value) VALUES (?1, ?2) "
			    "ON CONFLICT (name) DO UPDATE SET value = excluded.value" },
	{ 0, NULL },
};

int store_setting_get(struct store *s, const char *name, int64_t *ret, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_SETTING_GET];
	int rc;

	store_bind_text(st, 1, name);
	rc = store_step(st);
	if (rc != SQLITE_ROW && rc != SQLITE_DONE)
		return store_err(s, rc, e, "cannot read a setting");
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(st, 0);
	return 0;
}

int store_setting_put(struct store *s, const char *name, int64_t value, struct err *e)
{
	_cleanup_stmt_ sqlite3_stmt *st = s->stmts[STMT_SETTING_PUT];

	store_bind_text(st, 1, name);
	store_bind_int(st, 2, value);
	return store_run(s, st, e, "cannot keep a setting");
}
