#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/store.h"

#define DB "orkestr.db"

static char dir[64];

static void enter(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/orkestr-store-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	cr_assert_eq(chdir(dir), 0);
}

static void leave(void)
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

TestSuite(store, .init = enter, .fini = leave);

static struct store *must_open(void)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;

	cr_assert_eq(store_open(DB, &s, &e), 0, "%s", e.msg);
	cr_assert_not_null(s);
	return s;
}

/* A row with every field set to something of its own, made of n. */
static struct sandbox_row row_of(int n, const char *account, int64_t ms)
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

static void must_insert(struct store *s, const struct sandbox_row *r)
{
	struct err e = ERR_INIT;

	cr_assert_eq(store_sandbox_insert(s, r, &e), 0, "%s", e.msg);
}

static void same(const struct sandbox_row *a, const struct sandbox_row *b)
{
	cr_assert_str_eq(a->id, b->id);
	cr_assert_str_eq(a->slot, b->slot);
	cr_assert_str_eq(a->account, b->account);
	cr_assert_eq(a->status, b->status);
	cr_assert_str_eq(a->template_name, b->template_name);
	cr_assert_str_eq(a->size, b->size);
	cr_assert_eq(a->cpu_millis, b->cpu_millis);
	cr_assert_eq(a->memory_mb, b->memory_mb);
	cr_assert_str_eq(a->network, b->network);
	cr_assert_eq(a->timeout_s, b->timeout_s);
	cr_assert_eq(!a->region, !b->region);
	if (a->region)
		cr_assert_str_eq(a->region, b->region);
	cr_assert_str_eq(a->metadata, b->metadata);
	cr_assert_str_eq(a->env, b->env);
	cr_assert_eq(a->created_ms, b->created_ms);
	cr_assert_eq(a->started_ms, b->started_ms);
	cr_assert_eq(a->expires_ms, b->expires_ms);
	cr_assert_eq(a->paused_ms, b->paused_ms);
	cr_assert_eq(a->terminated_ms, b->terminated_ms);
	cr_assert_str_eq(a->termination_reason, b->termination_reason);
	cr_assert_eq(!a->failure, !b->failure);
	if (a->failure)
		cr_assert_str_eq(a->failure, b->failure);
}

static void sql(const char *text)
{
	sqlite3 *db = NULL;
	char *msg = NULL;

	cr_assert_eq(sqlite3_open(DB, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, text, NULL, NULL, &msg), SQLITE_OK, "%s: %s", text, msg);
	cr_assert_eq(sqlite3_close(db), SQLITE_OK);
}

static int64_t sql_int(const char *text)
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

/* Opening must fail like this, and leave the file as it was, byte for byte. */
static void refused(enum err_kind kind, const char *reason, const char *says)
{
	static char before[1 << 20], after[1 << 20];
	ssize_t n = fd_read_file(AT_FDCWD, DB, before, sizeof(before));
	struct err e = ERR_INIT;
	struct store *s = NULL;

	cr_assert_geq(n, 0);
	cr_assert_lt(store_open(DB, &s, &e), 0);
	cr_assert_null(s);
	cr_assert_eq(e.kind, kind, "%s: %s", err_kind_name(e.kind), e.msg);
	if (reason)
		cr_assert_str_eq(e.reason, reason, "%s", e.msg);
	cr_assert_not_null(strstr(e.msg, says), "%s", e.msg);
	cr_assert_eq(fd_read_file(AT_FDCWD, DB, after, sizeof(after)), n);
	cr_assert_eq(memcmp(before, after, (size_t)n), 0);
}

Test(store, makes_a_private_file_of_its_own)
{
	struct store *s = must_open();
	struct stat st;

	cr_assert_eq(stat(DB, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600u);
	cr_assert_eq(stat(DB "-wal", &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0600u);
	store_close(s);
	cr_assert_eq(stat(DB "-wal", &st), -1, "a clean close leaves no log");
	cr_assert_eq(sql_int("PRAGMA application_id"), 0x6f726b65);
	cr_assert_eq(sql_int("PRAGMA user_version"), 1);
	cr_assert_eq(sql_int("SELECT journal_mode = 'wal' FROM pragma_journal_mode"), 1);
	store_close(NULL);
}

Test(store, names)
{
	static const char *const bad[] = { "", ".", "..", "a/b", "/tmp/x", ".hidden", "file:x?mode=memory", ":memory:", "a b",
					   "this-name-is-much-too-long-to-be-a-name-of-a-store-in-a-state-dir" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct store *s = NULL;
		struct err e = ERR_INIT;

		cr_assert_eq(store_open(bad[i], &s, &e), -EINVAL, "%s", bad[i]);
		cr_assert_eq(e.kind, ERR_INVALID);
	}
}

Test(store, a_row_comes_back_as_it_went_also_after_a_restart)
{
	struct sandbox_row a = row_of(1, "acc_1", 1000), b = row_of(2, "acc_1", 2000), got;
	struct store *s = must_open();
	struct err e = ERR_INIT;

	b.region = b.failure = NULL;
	b.size[0] = '\0';
	b.metadata = (char *)(uintptr_t) "{\"\xc3\xa9\":\"it's; DROP TABLE sandbox\"}";
	b.cpu_millis = b.memory_mb = b.timeout_s = UINT32_MAX;
	b.expires_ms = INT64_MAX;
	b.status = SANDBOX_CREATING;
	must_insert(s, &a);
	must_insert(s, &b);
	for (int round = 0; round < 2; round++) {
		cr_assert_eq(store_sandbox_get(s, a.id, &got, &e), 0, "%s", e.msg);
		same(&a, &got);
		sandbox_row_clear(&got);
		cr_assert_eq(store_sandbox_get(s, b.id, &got, &e), 0, "%s", e.msg);
		same(&b, &got);
		sandbox_row_clear(&got);
		store_close(s);
		s = must_open();
	}
	cr_assert_eq(store_sandbox_get(s, "sbx_none", &got, &e), -ENOENT);
	cr_assert_eq(e.kind, ERR_NOT_FOUND);
	cr_assert_str_eq(e.reason, "sandbox_not_found");
	store_close(s);
}

Test(store, update_changes_what_can_change)
{
	struct sandbox_row a = row_of(1, "acc_1", 1000), other = row_of(2, "acc_1", 1000), got;
	struct store *s = must_open();
	struct err e = ERR_INIT;

	must_insert(s, &a);
	must_insert(s, &other);
	a.status = SANDBOX_PAUSED;
	a.started_ms = 11;
	a.expires_ms = 12;
	a.paused_ms = 13;
	a.timeout_s = 14;
	cr_assert_eq(store_sandbox_update(s, &a, &e), 0, "%s", e.msg);
	cr_assert_eq(store_sandbox_get(s, a.id, &got, &e), 0);
	same(&a, &got);
	sandbox_row_clear(&got);
	cr_assert_eq(store_sandbox_get(s, other.id, &got, &e), 0);
	same(&other, &got);
	sandbox_row_clear(&got);
	(void)snprintf(other.id, sizeof(other.id), "sbx_gone");
	cr_assert_eq(store_sandbox_update(s, &other, &e), -ENOENT);
	cr_assert_eq(e.kind, ERR_NOT_FOUND);
	store_close(s);
}

Test(store, an_ended_sandbox_forgets_its_env)
{
	static const enum sandbox_status ends[] = { SANDBOX_TERMINATED, SANDBOX_FAILED };
	struct store *s = must_open();
	struct err e = ERR_INIT;

	for (int i = 0; i < 2; i++) {
		struct sandbox_row a = row_of(i, "acc_1", 1000), got;

		must_insert(s, &a);
		a.status = SANDBOX_TERMINATING;
		cr_assert_eq(store_sandbox_update(s, &a, &e), 0);
		cr_assert_eq(store_sandbox_get(s, a.id, &got, &e), 0);
		cr_assert_str_eq(got.env, a.env);
		sandbox_row_clear(&got);
		a.status = ends[i];
		a.terminated_ms = 77;
		(void)snprintf(a.termination_reason, sizeof(a.termination_reason), "oom");
		a.failure = (char *)(uintptr_t) "it broke";
		cr_assert_eq(store_sandbox_update(s, &a, &e), 0, "%s", e.msg);
		cr_assert_eq(store_sandbox_get(s, a.id, &got, &e), 0);
		a.env = (char *)(uintptr_t) "{}";
		same(&a, &got);
		sandbox_row_clear(&got);
	}
	store_close(s);
}

Test(store, ids_are_unique)
{
	struct sandbox_row a = row_of(1, "acc_1", 1000), b = row_of(2, "acc_1", 1000);
	struct store *s = must_open();
	struct err e = ERR_INIT;

	must_insert(s, &a);
	cr_assert_eq(store_sandbox_insert(s, &a, &e), -EEXIST);
	cr_assert_eq(e.kind, ERR_EXISTS);
	cr_assert_null(strstr(e.msg, "s3cret"));
	must_insert(s, &b); /* the statement works on after a failure */
	store_close(s);
}

Test(store, row_copy_and_clear)
{
	struct sandbox_row a = row_of(1, "acc_1", 1000), b;

	cr_assert_eq(sandbox_row_copy(&a, &b), 0);
	same(&a, &b);
	cr_assert_neq(a.env, b.env);
	cr_assert_neq(a.template_name, b.template_name);
	sandbox_row_clear(&b);
	cr_assert_null(b.env);
	cr_assert_str_eq(b.id, "");
	sandbox_row_clear(&b);
	sandbox_row_clear(NULL);
}

Test(store, status_names)
{
	static const char *const wire[] = { "creating", "running", "pausing", "paused",
					    "resuming", "terminating", "terminated", "failed" };
	enum sandbox_status st;

	for (size_t i = 0; i < ARRAY_SIZE(wire); i++) {
		cr_assert_eq(sandbox_status_parse(wire[i], &st), 0);
		cr_assert_eq((size_t)st, i);
		cr_assert_str_eq(sandbox_status_name(st), wire[i]);
	}
	cr_assert_eq(sandbox_status_parse("", &st), -EINVAL);
	cr_assert_eq(sandbox_status_parse("Running", &st), -EINVAL);
	cr_assert_eq(sandbox_status_parse("run", &st), -EINVAL);
}

struct seen {
	int n, stop_at;
	char ids[300][SANDBOX_ID_SIZE];
};

static int see(void *arg, const struct sandbox_row *r)
{
	struct seen *seen = arg;

	cr_assert_lt(seen->n, 300);
	memcpy(seen->ids[seen->n++], r->id, SANDBOX_ID_SIZE);
	return seen->n == seen->stop_at ? -ECANCELED : 0;
}

static bool has(const struct seen *seen, int n)
{
	struct sandbox_row r = row_of(n, "", 0);
	int found = 0;

	for (int i = 0; i < seen->n; i++)
		found += strcmp(seen->ids[i], r.id) == 0;
	cr_assert_leq(found, 1, "%s came twice", r.id);
	return found;
}

static int page(struct store *s, const char *account, const enum sandbox_status *st, uint32_t limit, char *cursor,
		struct seen *seen)
{
	struct store_list q = { .account = account, .status = st, .limit = limit, .cursor = *cursor ? cursor : NULL };
	struct err e = ERR_INIT;
	char next[STORE_CURSOR_SIZE];

	memset(next, '#', sizeof(next));
	cr_assert_eq(store_sandbox_list(s, &q, see, seen, next, &e), 0, "%s", e.msg);
	cr_assert_lt(strnlen(next, sizeof(next)), sizeof(next));
	cr_assert_eq(strspn(next, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), strlen(next));
	memcpy(cursor, next, sizeof(next));
	return seen->n;
}

/* 100 rows, groups of seven in the same millisecond, every page size: each row once, newest first. */
Test(store, pages_are_complete_and_in_order)
{
	static const uint32_t limits[] = { 1, 2, 7, 10, 33, 99, 100, 101, 200 };
	struct store *s = must_open();

	for (int i = 0; i < 100; i++) {
		struct sandbox_row r = row_of(i, "acc_1", 1777638896000 + i / 7), x = row_of(1000 + i, "acc_2", 1777638896000 + i);

		must_insert(s, &r);
		must_insert(s, &x);
	}
	for (size_t k = 0; k < ARRAY_SIZE(limits); k++) {
		char cursor[STORE_CURSOR_SIZE] = "";
		struct seen seen = { 0 };
		int pages = 0, last = 0;

		do {
			int now = page(s, "acc_1", NULL, limits[k], cursor, &seen);

			cr_assert_leq(now - last, (int)limits[k]);
			cr_assert_eq(*cursor != '\0', now < 100); /* no empty last page */
			last = now;
		} while (*cursor && ++pages < 200);
		cr_assert_eq(seen.n, 100);
		for (int i = 0; i < 100; i++)
			cr_assert_str_eq(seen.ids[i], row_of(99 - i, "", 0).id);
	}
	store_close(s);
}

Test(store, pages_stay_in_step_while_rows_come_and_change)
{
	char cursor[STORE_CURSOR_SIZE] = "";
	struct store *s = must_open();
	struct seen seen = { 0 };
	struct err e = ERR_INIT;
	int next = 1000;

	for (int i = 0; i < 60; i++) {
		struct sandbox_row r = row_of(i, "acc_1", 5000 + i);

		must_insert(s, &r);
	}
	do {
		struct sandbox_row newer = row_of(next, "acc_1", 9000 + next), changed = row_of(30, "acc_1", 5030);

		page(s, "acc_1", NULL, 10, cursor, &seen);
		must_insert(s, &newer);
		next++;
		changed.status = SANDBOX_TERMINATED;
		cr_assert_eq(store_sandbox_update(s, &changed, &e), 0);
	} while (*cursor);
	cr_assert_eq(seen.n, 60);
	for (int i = 0; i < 60; i++)
		cr_assert(has(&seen, i), "row %d is missing", i);
	store_close(s);
}

Test(store, list_by_status_and_account)
{
	static const enum sandbox_status all[] = { SANDBOX_RUNNING, SANDBOX_TERMINATED, SANDBOX_FAILED, SANDBOX_PAUSED };
	struct store *s = must_open();

	for (int i = 0; i < 40; i++) {
		struct sandbox_row r = row_of(i, i % 2 ? "acc_1" : "acc_2", 5000 + i);

		r.status = all[i / 2 % 4];
		must_insert(s, &r);
	}
	for (size_t k = 0; k < ARRAY_SIZE(all); k++) {
		char cursor[STORE_CURSOR_SIZE] = "";
		struct seen seen = { 0 };

		do
			page(s, "acc_1", &all[k], 2, cursor, &seen);
		while (*cursor);
		cr_assert_eq(seen.n, 5);
		for (int i = 0; i < 40; i++)
			cr_assert_eq(has(&seen, i), i % 2 == 1 && (size_t)(i / 2 % 4) == k);
	}
	{
		char cursor[STORE_CURSOR_SIZE] = "";
		struct seen seen = { 0 };

		page(s, "acc_none", NULL, 10, cursor, &seen);
		cr_assert_eq(seen.n, 0);
		cr_assert_str_eq(cursor, "");
	}
	store_close(s);
}

Test(store, list_stops_when_told)
{
	struct store_list q = { .account = "acc_1", .limit = 10 };
	struct seen seen = { .stop_at = 3 };
	char next[STORE_CURSOR_SIZE];
	struct store *s = must_open();
	struct err e = ERR_INIT;

	for (int i = 0; i < 10; i++) {
		struct sandbox_row r = row_of(i, "acc_1", 5000 + i);

		must_insert(s, &r);
	}
	cr_assert_eq(store_sandbox_list(s, &q, see, &seen, next, &e), -ECANCELED);
	cr_assert_eq(seen.n, 3);
	seen = (struct seen){ 0 };
	cr_assert_eq(store_sandbox_list(s, &q, see, &seen, next, &e), 0);
	cr_assert_eq(seen.n, 10);
	q.limit = 0;
	cr_assert_eq(store_sandbox_list(s, &q, see, &seen, next, &e), -EINVAL);
	store_close(s);
}

static void b64url(const char *plain, size_t n, char *ret)
{
	size_t m = text_base64_encode(plain, n, ret);

	for (size_t i = 0; i < m; i++)
		ret[i] = ret[i] == '+' ? '-' : ret[i] == '/' ? '_' : ret[i] == '=' ? '\0' : ret[i];
}

Test(store, bad_cursors)
{
	static const struct {
		const char *plain;
		size_t n;
	} forged[] = {
#define F(x) { x, sizeof(x) - 1 }
		F("1:"), F("1::"), F("1:5"), F("1:5:"), F("1::sbx_1"), F("2:5:sbx_1"), F("5:sbx_1"), F("1:-5:sbx_1"),
		F("1:+5:sbx_1"), F("1: 5:sbx_1"), F("1:05:sbx_1"), F("1:5x:sbx_1"), F("1:9223372036854775808:sbx_1"),
		F("1:99999999999999999999:sbx_1"), F("1:5:sbx_1\0"), F("1:5:sbx\0_1"), F("1\0:5:sbx_1"),
		F("1:5:sbx_0000000000000000000000000000"), F("\0"), F("\xff\xff\xff\xff"),
#undef F
	};
	static const char *const raw[] = { "", "x", "!!!!", "AAAA", "null", "None", "undefined", " ", "MTo1OnNieF8x ", "MTo1OnNieF8x=",
					   "MTo1On\nNieF8x", "' OR 1=1 --" };
	struct store *s = must_open();
	char big[5000], coded[128], next[STORE_CURSOR_SIZE] = "kept";
	struct store_list q = { .account = "acc_1", .limit = 10, .cursor = coded };
	struct seen seen = { 0 };
	struct err e;

	b64url("1:5:sbx_1", 9, coded);
	cr_assert_eq(store_sandbox_list(s, &q, see, &seen, next, &e), 0, "the pattern of the forgeries is right");
	memcpy(next, "kept", 5);
	for (size_t i = 0; i < ARRAY_SIZE(forged) + ARRAY_SIZE(raw) + 1; i++) {
		e = ERR_INIT;
		if (i < ARRAY_SIZE(forged)) {
			b64url(forged[i].plain, forged[i].n, coded);
		} else if (i < ARRAY_SIZE(forged) + ARRAY_SIZE(raw)) {
			q.cursor = raw[i - ARRAY_SIZE(forged)];
		} else {
			memset(big, 'A', sizeof(big) - 1);
			big[sizeof(big) - 1] = '\0';
			q.cursor = big;
		}
		cr_assert_eq(store_sandbox_list(s, &q, see, &seen, next, &e), -EINVAL, "case %zu, %s", i, q.cursor);
		cr_assert_eq(e.kind, ERR_INVALID);
		cr_assert_str_eq(e.reason, "cursor_invalid");
		cr_assert_str_eq(next, "kept");
	}
	cr_assert_eq(seen.n, 0);
	store_close(s);
}

Test(store, a_cursor_of_another_account_shows_nothing_of_it)
{
	char cursor[STORE_CURSOR_SIZE] = "";
	struct store *s = must_open();
	struct seen seen = { 0 };

	for (int i = 0; i < 20; i++) {
		struct sandbox_row r = row_of(i, i % 2 ? "acc_1" : "acc_2", 5000 + i);

		must_insert(s, &r);
	}
	page(s, "acc_1", NULL, 3, cursor, &seen);
	seen = (struct seen){ 0 };
	while (*cursor)
		page(s, "acc_2", NULL, 3, cursor, &seen);
	for (int i = 1; i < 20; i += 2)
		cr_assert(!has(&seen, i));
	store_close(s);
}

struct sweep {
	struct store *s;
	int n;
};

static int end_it(void *arg, const struct sandbox_row *r)
{
	struct sweep *w = arg;
	struct sandbox_row copy;
	struct err e = ERR_INIT;

	cr_assert(r->status != SANDBOX_TERMINATED && r->status != SANDBOX_FAILED);
	cr_assert_eq(sandbox_row_copy(r, &copy), 0);
	copy.status = w->n % 2 ? SANDBOX_TERMINATED : SANDBOX_FAILED;
	cr_assert_eq(store_sandbox_update(w->s, &copy, &e), 0, "%s", e.msg);
	sandbox_row_clear(&copy);
	w->n++;
	return 0;
}

/* The start-up sweep: rows are changed from inside the walk, none is missed, none comes twice. */
Test(store, each_live_and_count)
{
	struct store *s = must_open();
	struct sweep w = { .s = s };
	struct err e = ERR_INIT;
	struct seen seen = { .stop_at = 5 };
	uint32_t n = 0;

	for (int i = 0; i < 80; i++) {
		struct sandbox_row r = row_of(i, i % 10 == 0 ? "acc_2" : "acc_1", 5000 - i);

		r.status = (enum sandbox_status)(i % 8);
		must_insert(s, &r);
	}
	cr_assert_eq(store_sandbox_count_live(s, "acc_none", &n, &e), 0);
	cr_assert_eq(n, 0u);
	cr_assert_eq(store_sandbox_count_live(s, "acc_1", &n, &e), 0);
	{
		uint32_t want = 0;

		for (int i = 0; i < 80; i++)
			want += i % 10 != 0 && (i % 8 == SANDBOX_CREATING || i % 8 == SANDBOX_RUNNING ||
						i % 8 == SANDBOX_PAUSING || i % 8 == SANDBOX_RESUMING);
		cr_assert_eq(n, want);
	}
	cr_assert_eq(store_sandbox_each_live(s, see, &seen, &e), -ECANCELED);
	cr_assert_eq(seen.n, 5);
	cr_assert_eq(store_sandbox_each_live(s, end_it, &w, &e), 0, "%s", e.msg);
	cr_assert_eq(w.n, 60);
	cr_assert_eq(store_sandbox_each_live(s, end_it, &w, &e), 0);
	cr_assert_eq(w.n, 60);
	cr_assert_eq(store_sandbox_count_live(s, "acc_1", &n, &e), 0);
	cr_assert_eq(n, 0u);
	store_close(s);
}

#define HASH_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HASH_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define DAY INT64_C(86400000)

Test(store, idempotency)
{
	struct store *s = must_open();
	char hash[65] = "-", id[SANDBOX_ID_SIZE] = "-", big[300];
	struct err e = ERR_INIT;

	cr_assert_eq(store_idempotency_get(s, "a", "k", 0, hash, id, &e), -ENOENT);
	cr_assert_eq(e.kind, ERR_NOT_FOUND);
	cr_assert_str_eq(hash, "-");
	cr_assert_eq(store_idempotency_put(s, "a", "k", HASH_A, "sbx_1", 1000, &e), 0, "%s", e.msg);
	cr_assert_eq(store_idempotency_put(s, "b", "k", HASH_B, "sbx_2", 1000, &e), 0, "%s", e.msg);
	cr_assert_eq(store_idempotency_get(s, "a", "k", 1000, hash, id, &e), 0);
	cr_assert_str_eq(hash, HASH_A);
	cr_assert_str_eq(id, "sbx_1");
	cr_assert_eq(store_idempotency_get(s, "b", "k", 1000, hash, id, &e), 0);
	cr_assert_str_eq(id, "sbx_2");
	cr_assert_eq(store_idempotency_get(s, "a", "K", 1000, hash, id, &e), -ENOENT);
	cr_assert_eq(store_idempotency_put(s, "a", "k", HASH_B, "sbx_3", 1001, &e), -EEXIST);
	cr_assert_eq(e.kind, ERR_EXISTS);
	store_close(s);
	s = must_open();
	/* A day, to the millisecond. */
	cr_assert_eq(store_idempotency_get(s, "a", "k", 999 + DAY, hash, id, &e), 0);
	cr_assert_eq(store_idempotency_get(s, "a", "k", 1000 + DAY, hash, id, &e), -ENOENT);
	cr_assert_eq(store_idempotency_put(s, "a", "k", HASH_B, "sbx_3", 1000 + DAY, &e), 0, "%s", e.msg);
	cr_assert_eq(store_idempotency_get(s, "a", "k", 1000 + DAY, hash, id, &e), 0);
	cr_assert_str_eq(id, "sbx_3");
	cr_assert_eq(store_idempotency_forget(s, "a", "k", &e), 0);
	cr_assert_eq(store_idempotency_forget(s, "a", "k", &e), 0);
	cr_assert_eq(store_idempotency_get(s, "a", "k", 1000 + DAY, hash, id, &e), -ENOENT);
	memset(big, 'k', sizeof(big));
	big[256] = '\0';
	cr_assert_eq(store_idempotency_put(s, "a", big, HASH_A, "sbx_1", 1, &e), -EINVAL);
	big[255] = '\0';
	cr_assert_eq(store_idempotency_put(s, "a", big, HASH_A, "sbx_1", 1, &e), 0);
	cr_assert_eq(store_idempotency_put(s, "a", "", HASH_A, "sbx_1", 1, &e), -EINVAL);
	cr_assert_eq(store_idempotency_put(s, "a", "x", "short", "sbx_1", 1, &e), -EINVAL);
	cr_assert_eq(store_idempotency_put(s, "a", "x", HASH_A, "sbx_012345678901234567890123456789", 1, &e), -EINVAL);
	store_close(s);
	cr_assert_eq(sql_int("SELECT count(*) FROM idempotency"), 1, "old keys are really gone");
}

static void write_db(const void *p, size_t n)
{
	int fd = open(DB, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, p, n), 0);
	(void)close(fd);
}

Test(store, another_programs_database_is_refused)
{
	sql("CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x')");
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("PRAGMA application_id = 252006673");
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("DROP TABLE bookmarks"); /* empty, but marked as someone's */
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("PRAGMA application_id = 0; PRAGMA user_version = 3");
	refused(ERR_EXISTS, "store_foreign", "another program's");
	sql("PRAGMA user_version = 0");
	store_close(must_open()); /* a database in which nothing ever was */
}

Test(store, a_newer_version_is_refused)
{
	store_close(must_open());
	sql("PRAGMA user_version = 2");
	refused(ERR_UNSUPPORTED, "store_newer", "newer orkestr-emulator (store version 2, this one knows up to 1)");
	sql("PRAGMA user_version = -1");
	refused(ERR_UNSUPPORTED, "store_newer", "newer");
	sql("PRAGMA user_version = 1");
	store_close(must_open());
}

Test(store, a_file_that_is_no_database_is_refused)
{
	static const char text[] = "This is a letter to my bank and certainly not a database, whatever its name says.";
	char junk[8192];

	write_db(text, sizeof(text));
	refused(ERR_IO, "store_damaged", "mv " DB "*");
	text_random(junk, sizeof(junk));
	junk[0] = 'J';
	write_db(junk, sizeof(junk));
	refused(ERR_IO, "store_damaged", "move it away");
	write_db("", 0);
	store_close(must_open()); /* an empty file is a store nobody wrote to yet */
}

static void fill(struct store *s, int from, int n)
{
	for (int i = from; i < from + n; i++) {
		struct sandbox_row r = row_of(i, "acc_1", 5000 + i);

		must_insert(s, &r);
	}
}

Test(store, damaged_pages_are_found_after_an_unclean_stop)
{
	struct store *s;
	char junk[4096], wal[64] = { 0 };
	int fd;

	s = must_open();
	fill(s, 0, 300);
	store_close(s);
	/* The tree pages behind the first, and a log, as a crash leaves one. */
	memset(junk, 0x5a, sizeof(junk));
	fd = open(DB, O_WRONLY | O_CLOEXEC);
	for (int pg = 2; pg < 10; pg++)
		cr_assert_eq(pwrite(fd, junk, sizeof(junk), pg * 4096), (ssize_t)sizeof(junk));
	(void)close(fd);
	fd = open(DB "-wal", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(fd_write_all(fd, wal, sizeof(wal)), 0);
	(void)close(fd);
	refused(ERR_IO, "store_damaged", "mv " DB "*");
}

Test(store, damage_met_later_is_the_same_error)
{
	struct store_list q = { .account = "acc_1", .limit = 200 };
	char junk[4096], next[STORE_CURSOR_SIZE];
	struct seen seen = { 0 };
	struct err e = ERR_INIT;
	struct store *s = must_open();
	struct stat st;
	int fd;

	fill(s, 0, 300);
	store_close(s);
	memset(junk, 0x5a, sizeof(junk));
	cr_assert_eq(stat(DB, &st), 0);
	fd = open(DB, O_WRONLY | O_CLOEXEC);
	for (off_t at = 10 * 4096; at < st.st_size; at += 4096)
		cr_assert_eq(pwrite(fd, junk, sizeof(junk), at), (ssize_t)sizeof(junk));
	(void)close(fd);
	if (store_open(DB, &s, &e) == 0) {
		cr_assert_lt(store_sandbox_list(s, &q, see, &seen, next, &e), 0);
		store_close(s);
	}
	cr_assert_eq(e.kind, ERR_IO, "%s", e.msg);
	cr_assert_str_eq(e.reason, "store_damaged");
}

Test(store, a_truncated_file_with_a_log_is_damaged_and_not_new)
{
	struct store *s = must_open();

	fill(s, 0, 10);
	cr_assert_eq(link(DB "-wal", "elsewhere"), 0); /* what a kill -9 would have left */
	store_close(s);
	cr_assert_eq(truncate(DB, 0), 0);
	cr_assert_eq(rename("elsewhere", DB "-wal"), 0);
	if (sql_int("SELECT 1")) { /* sqlite3 itself would not even notice */
		int fd = open(DB "-wal", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

		cr_assert_eq(fd_write_all(fd, "log", 3), 0);
		(void)close(fd);
	}
	refused(ERR_IO, "store_damaged", "emptied");
}

Test(store, impossible_rows_are_damage_and_not_a_crash)
{
	static const char *const t[] = {
		"UPDATE sandbox SET status = 'dancing'",
		"UPDATE sandbox SET status = ''",
		"UPDATE sandbox SET size = 'gigantic'",
		"UPDATE sandbox SET network = 'a-very-long-word'",
		"UPDATE sandbox SET slot = 's-000000000000000000000000000000000000000000'",
		"UPDATE sandbox SET account = CAST(zeroblob(10) AS TEXT)",
		"UPDATE sandbox SET cpu_millis = -1",
		"UPDATE sandbox SET memory_mb = 4294967296",
		"UPDATE sandbox SET timeout_s = 9223372036854775807",
		"UPDATE sandbox SET metadata = CAST(x'7b007d' AS TEXT)",
		"UPDATE sandbox SET termination_reason = 'because it was a long and eventful day'",
	};
	struct sandbox_row r = row_of(1, "acc_1", 5), got;
	struct store *s = must_open();
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		must_insert(s, &r);
		store_close(s);
		sql(t[i]);
		s = must_open();
		e = ERR_INIT;
		cr_assert_eq(store_sandbox_get(s, r.id, &got, &e), -EIO, "%s", t[i]);
		cr_assert_str_eq(e.reason, "store_damaged");
		cr_assert_not_null(strstr(e.msg, "impossible"));
		store_close(s);
		sql("DELETE FROM sandbox");
		s = must_open();
	}
	store_close(s);
}

Test(store, missing_tables_are_damage)
{
	store_close(must_open());
	sql("DROP TABLE idempotency");
	refused(ERR_IO, "store_damaged", "tables are not what they should be");
}

Test(store, a_symlink_is_not_followed)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;

	cr_assert_eq(symlink("elsewhere", DB), 0);
	cr_assert_lt(store_open(DB, &s, &e), 0);
	cr_assert_null(s);
	cr_assert_eq(e.kind, ERR_IO, "%s", e.msg);
	cr_assert_neq(access("elsewhere", F_OK), 0);
}

/* Rows until the disk is full, then the same again with room: one error kind, nothing lost, nothing half. */
static void until_full(struct store *s, int *ret_n)
{
	struct err e = ERR_INIT;
	int r = 0, n = 0;

	for (; n < 20000; n++) {
		struct sandbox_row row = row_of(n, "acc_1", 5000 + n);

		r = store_sandbox_insert(s, &row, &e);
		if (r < 0)
			break;
	}
	cr_assert_lt(r, 0, "it never was full");
	cr_assert_eq(e.kind, ERR_FULL, "after %d: %s: %s", n, err_kind_name(e.kind), e.msg);
	cr_assert_not_null(strstr(e.msg, "disk is full"), "%s", e.msg);
	*ret_n = n;
}

Test(store, full_disk)
{
	struct sandbox_row got, more;
	struct err e = ERR_INIT;
	struct store *s;
	int n = 0;

	cr_assert_eq(mount("tmpfs", dir, "tmpfs", 0, "size=3m"), 0);
	cr_assert_eq(chdir(dir), 0);
	s = must_open();
	until_full(s, &n);
	cr_assert_gt(n, 50);
	for (int i = 0; i < n; i++) {
		cr_assert_eq(store_sandbox_get(s, row_of(i, "", 0).id, &got, &e), 0, "%d: %s", i, e.msg);
		sandbox_row_clear(&got);
	}
	cr_assert_eq(store_sandbox_get(s, row_of(n, "", 0).id, &got, &e), -ENOENT);
	cr_assert_eq(mount(NULL, dir, NULL, MS_REMOUNT, "size=8m"), 0);
	more = row_of(n, "acc_1", 5000);
	must_insert(s, &more);
	store_close(s);
	s = must_open();
	cr_assert_eq(store_sandbox_get(s, more.id, &got, &e), 0, "%s", e.msg);
	sandbox_row_clear(&got);
	store_close(s);
	cr_assert_eq(chdir("/"), 0);
}

Test(store, full_from_the_start)
{
	struct err e = ERR_INIT;
	struct store *s = NULL;
	char junk[4096] = { 0 };
	int fd;

	cr_assert_eq(mount("tmpfs", dir, "tmpfs", 0, "size=64k"), 0);
	cr_assert_eq(chdir(dir), 0);
	fd = open("junk", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (write(fd, junk, sizeof(junk)) > 0)
		;
	(void)close(fd);
	cr_assert_lt(store_open(DB, &s, &e), 0);
	cr_assert_eq(e.kind, ERR_FULL, "%s: %s", err_kind_name(e.kind), e.msg);
	cr_assert_eq(unlink("junk"), 0);
	cr_assert_eq(mount(NULL, dir, NULL, MS_REMOUNT, "size=8m"), 0);
	store_close(must_open()); /* what was left behind is no obstacle */
	cr_assert_eq(chdir("/"), 0);
}

Test(store, file_size_limit)
{
	struct rlimit lim = { 256 << 10, 256 << 10 };
	struct store *s = must_open();
	int n;

	(void)signal(SIGXFSZ, SIG_IGN);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
	until_full(s, &n);
	store_close(s);
}

Test(store, a_locked_file_is_busy_and_not_an_endless_wait)
{
	struct sandbox_row r = row_of(1, "acc_1", 5);
	struct store *s = must_open();
	struct err e = ERR_INIT;
	int64_t t0 = clock_mono_us();
	sqlite3 *db = NULL;

	cr_assert_eq(sqlite3_open(DB, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
	cr_assert_eq(store_sandbox_insert(s, &r, &e), -EBUSY);
	cr_assert_eq(e.kind, ERR_BUSY);
	cr_assert_lt(clock_mono_us() - t0, 5000000);
	cr_assert_eq(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
	must_insert(s, &r);
	(void)sqlite3_close(db);
	store_close(s);
}

/* A kill -9 in the middle of writing: every row that was acknowledged is there after it. */
Test(store, kill_loses_no_acknowledged_row)
{
	struct sandbox_row got;
	struct err e = ERR_INIT;
	struct store *s;
	int p[2], last = -1, n;
	pid_t pid;

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		s = must_open();
		for (n = 0;; n++) {
			struct sandbox_row r = row_of(n, "acc_1", n);

			if (store_sandbox_insert(s, &r, NULL) < 0 || write(p[1], &n, sizeof(n)) != sizeof(n))
				_exit(1);
		}
	}
	(void)close(p[1]);
	while (last < 500 && fd_read_all(p[0], &n, sizeof(n)) == sizeof(n))
		last = n;
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	while (fd_read_all(p[0], &n, sizeof(n)) == sizeof(n))
		last = n;
	cr_assert_geq(last, 500);
	cr_assert_eq(access(DB "-wal", F_OK), 0);
	s = must_open(); /* goes through the check */
	for (int i = 0; i <= last; i++) {
		cr_assert_eq(store_sandbox_get(s, row_of(i, "", 0).id, &got, &e), 0, "%d of %d: %s", i, last, e.msg);
		sandbox_row_clear(&got);
	}
	store_close(s);
}

static void as_user(uid_t id)
{
	if (setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
		_exit(3);
}

/* As the emulator is started by root with --state-dir in a 0700 folder: the process can neither read nor
 * enter the parent, only its working directory. */
Test(store, works_below_an_unreadable_parent)
{
	struct sandbox_row r = row_of(1, "acc_1", 5), got;
	int status, round;
	pid_t pid;

	cr_assert_eq(mkdir("state", 0700), 0);
	cr_assert_eq(chown("state", 54321, 54321), 0);
	cr_assert_eq(chmod(".", 0700), 0);
	cr_assert_eq(chdir("state"), 0);
	for (round = 0; round < 2; round++) {
		pid = fork();
		cr_assert_geq(pid, 0);
		if (pid == 0) {
			struct err e = ERR_INIT;
			struct store *s;
			char cwd[4096];
			int rc;

			as_user(54321);
			if (access(dir, R_OK) == 0 || access("..", X_OK) == 0)
				_exit(4); /* the test tests nothing */
			(void)!getcwd(cwd, sizeof(cwd));
			rc = store_open(DB, &s, &e);
			if (rc >= 0 && round == 0)
				rc = store_sandbox_insert(s, &r, &e);
			if (rc >= 0)
				rc = store_sandbox_update(s, &r, &e);
			if (rc >= 0)
				rc = store_sandbox_get(s, r.id, &got, &e);
			if (rc < 0) {
				(void)dprintf(STDERR_FILENO, "%s\n", e.msg);
				_exit(5);
			}
			if (round == 0)
				_exit(0); /* not closed: the next open recovers from the log */
			store_close(s);
			_exit(access(DB "-wal", F_OK) == 0 ? 6 : 0);
		}
		cr_assert_eq(waitpid(pid, &status, 0), pid);
		cr_assert_eq(status, 0, "round %d: status %d", round, WEXITSTATUS(status));
	}
	(void)unlink(DB);
	cr_assert_eq(chdir(".."), 0);
	cr_assert_eq(rmdir("state"), 0, "%s", strerror(errno));
}

Test(store, a_file_it_may_not_write_is_an_error)
{
	int status;
	pid_t pid;

	store_close(must_open());
	cr_assert_eq(chmod(".", 0755), 0);
	cr_assert_eq(chmod(DB, 0644), 0);
	pid = fork();
	if (pid == 0) {
		struct err e = ERR_INIT;
		struct store *s;

		as_user(54321);
		_exit(store_open(DB, &s, &e) < 0 && e.kind == ERR_IO && strstr(e.msg, "no right to write") ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

Test(store, costs_tens_of_microseconds)
{
	enum { N = 2000 };
	struct store *s = must_open();
	struct err e = ERR_INIT;
	int64_t t0, t1;

	t0 = clock_mono_us();
	for (int i = 0; i < N; i++) {
		struct sandbox_row r = row_of(i, "acc_1", 5000 + i);

		must_insert(s, &r);
		r.status = SANDBOX_TERMINATED;
		cr_assert_eq(store_sandbox_update(s, &r, &e), 0);
	}
	t1 = clock_mono_us();
	cr_log_info("insert + update: %.1f us\n", (double)(t1 - t0) / N);
	cr_assert_lt((t1 - t0) / N, 2000, "insert + update took %ld us", (long)((t1 - t0) / N));
	store_close(s);
}
