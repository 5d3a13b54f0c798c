#include "tests/unit/store_fixture.h"

#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "tests/unit/slow.h"

TestSuite(store, .init = enter, .fini = leave);

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
	cr_assert_eq(sql_int("PRAGMA user_version"), 4);
	cr_assert_eq(sql_int("SELECT journal_mode = 'wal' FROM pragma_journal_mode"), 1);
	store_close(NULL);
}

Test(store, names)
{
	static const char *const bad[] = { "",
					   ".",
					   "..",
					   "a/b",
					   "/tmp/x",
					   ".hidden",
					   "file:x?mode=memory",
					   ":memory:",
					   "a b",
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
	static const char *const wire[] = { "creating", "running",     "pausing",    "paused",
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
		struct sandbox_row r = row_of(i, "acc_1", 1777638896000 + i / 7),
				   x = row_of(1000 + i, "acc_2", 1777638896000 + i);

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
	static const enum sandbox_status all[] = { SANDBOX_RUNNING, SANDBOX_TERMINATED, SANDBOX_FAILED,
						   SANDBOX_PAUSED };
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
		F("1:"),
		F("1::"),
		F("1:5"),
		F("1:5:"),
		F("1::sbx_1"),
		F("2:5:sbx_1"),
		F("5:sbx_1"),
		F("1:-5:sbx_1"),
		F("1:+5:sbx_1"),
		F("1: 5:sbx_1"),
		F("1:05:sbx_1"),
		F("1:5x:sbx_1"),
		F("1:9223372036854775808:sbx_1"),
		F("1:99999999999999999999:sbx_1"),
		F("1:5:sbx_1\0"),
		F("1:5:sbx\0_1"),
		F("1\0:5:sbx_1"),
		F("1:5:sbx_0000000000000000000000000000"),
		F("\0"),
		F("\xff\xff\xff\xff"),
#undef F
	};
	static const char *const raw[] = {
		"",	     "x", "!!!!",	   "AAAA",	    "null",	      "None",
		"undefined", " ", "MTo1OnNieF8x ", "MTo1OnNieF8x=", "MTo1On\nNieF8x", "' OR 1=1 --"
	};
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
Test(store, each_live)
{
	struct store *s = must_open();
	struct sweep w = { .s = s };
	struct err e = ERR_INIT;
	struct seen seen = { .stop_at = 5 };

	for (int i = 0; i < 80; i++) {
		struct sandbox_row r = row_of(i, i % 10 == 0 ? "acc_2" : "acc_1", 5000 - i);

		r.status = (enum sandbox_status)(i % 8);
		must_insert(s, &r);
	}
	cr_assert_eq(store_sandbox_each_live(s, see, &seen, &e), -ECANCELED);
	cr_assert_eq(seen.n, 5);
	cr_assert_eq(store_sandbox_each_live(s, end_it, &w, &e), 0, "%s", e.msg);
	cr_assert_eq(w.n, 60);
	cr_assert_eq(store_sandbox_each_live(s, end_it, &w, &e), 0);
	cr_assert_eq(w.n, 60);
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
	cr_assert_lt((t1 - t0) / N, (int64_t)slow_ms(2000), "insert + update took %ld us", (long)((t1 - t0) / N));
	store_close(s);
}
