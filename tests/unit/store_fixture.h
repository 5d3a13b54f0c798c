#pragma once
/* What the tests of the store share: a folder of their own to be in, rows, and a look from outside. */

#include <criterion/criterion.h>
#include <errno.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "emulator/store.h"

#define DB "orkestr.db"

static char dir[64];

static inline void enter(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/orkestr-store-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(chdir(dir), 0);
}

static inline void leave(void)
{
	(void)umount2(dir, MNT_DETACH);
	cr_assert_eq(chdir(dir), 0);
	(void)unlink(DB);
	(void)unlink(DB "-wal");
	(void)unlink(DB "-shm");
	(void)unlink(DB "-journal");
	(void)unlink("elsewhere");
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(rmdir(dir), 0, "%s: %s", dir, strerror(errno));
}

static inline struct store *must_open(void)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;

	cr_assert_eq(store_open(DB, &s, &e), 0, "%s", e.msg);
	cr_assert_not_null(s);
	return s;
}

/* A row with every field set to something of its own, made of n. */
static inline struct sandbox_row row_of(int n, const char *account, int64_t ms)
{
	struct sandbox_row r = { .status = SANDBOX_RUNNING,
				 .template_name = (char *)(uintptr_t) "python-3.12",
				 .size = "medium",
				 .cpu_millis = 2000,
				 .memory_mb = 4096,
				 .network = "restricted",
				 .timeout_s = 600,
				 .region = (char *)(uintptr_t) "fsn1",
				 .metadata = (char *)(uintptr_t) "{\"k\":\"v\"}",
				 .env = (char *)(uintptr_t) "{\"TOKEN\":\"s3cret\"}",
				 .created_ms = ms,
				 .started_ms = ms + 1,
				 .expires_ms = ms + 2,
				 .paused_ms = ms + 3,
				 .terminated_ms = 0 };

	(void)snprintf(r.id, sizeof(r.id), "sbx_%026d", n);
	(void)snprintf(r.slot, sizeof(r.slot), "s-%026d", n);
	(void)snprintf(r.account, sizeof(r.account), "%s", account);
	return r;
}

static inline void must_insert(struct store *s, const struct sandbox_row *r)
{
	struct err e = ERR_INIT;

	cr_assert_eq(store_sandbox_insert(s, r, &e), 0, "%s", e.msg);
}

static inline void sql(const char *text)
{
	sqlite3 *db = NULL;
	char *msg = NULL;

	cr_assert_eq(sqlite3_open(DB, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, &msg), SQLITE_OK, "%s: %s", text, msg);
	cr_assert_eq(sqlite3_close(db), SQLITE_OK);
}

static inline int64_t sql_int(const char *text)
{
	sqlite3_stmt *st = NULL;
	sqlite3 *db = NULL;
	int64_t v;

	cr_assert_eq(sqlite3_open(DB, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_prepare_v2(db, text, -1, &st, NULL), SQLITE_OK, "%s", text);
	cr_assert_eq(sqlite3_step(st), SQLITE_ROW);
	v = sqlite3_column_int64(st, 0);
	(void)sqlite3_finalize(st);
	(void)sqlite3_close(db);
	return v;
}

struct seen {
	int n, stop_at;
	char ids[300][SANDBOX_ID_SIZE];
};

static inline int see(void *arg, const struct sandbox_row *r)
{
	struct seen *seen = arg;

	cr_assert_lt(seen->n, 300);
	memcpy(seen->ids[seen->n++], r->id, SANDBOX_ID_SIZE);
	return seen->n == seen->stop_at ? -ECANCELED : 0;
}
