/* Keys at run time, over the real store in a folder of its own. */

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/account.h"
#include "emulator/base/clock.h"
#include "emulator/store.h"

static char dir[] = "/tmp/test-account-key-XXXXXX";
static struct store *store;
static struct accounts *a;

static void open_all(const char *spec)
{
	struct err e = ERR_INIT;

	cr_assert_eq(store_open("t.db", &store, &e), 0, "%s", e.msg);
	cr_assert_eq(accounts_new(false, &a), 0);
	if (spec)
		cr_assert_eq(accounts_add(a, spec, &e), 0, "%s", e.msg);
	cr_assert_eq(accounts_use_store(a, store, &e), 0, "%s", e.msg);
}

static void close_all(void)
{
	accounts_free(a);
	store_close(store);
}

static void set_up(void)
{
	cr_assert(mkdtemp(dir) && chdir(dir) == 0);
	open_all(NULL);
}

static void tear_down(void)
{
	close_all();
	clock_set_offset_ms(0);
	(void)unlink("t.db");
	(void)unlink("t.db-wal");
	(void)unlink("t.db-shm");
	(void)rmdir(dir);
}

TestSuite(account_key, .init = set_up, .fini = tear_down);

static int count_one(void *arg, const struct key_info *k _unused_)
{
	++*(int *)arg;
	return 0;
}

static int n_keys(void)
{
	int n = 0;

	cr_assert_eq(accounts_each_key(a, count_one, &n), 0);
	return n;
}

/* Member by member: what lies between them is nobody's. */
static void expect_same(const struct key_info *x, const struct key_info *y)
{
	cr_assert_str_eq(x->id, y->id);
	cr_assert_str_eq(x->account, y->account);
	cr_assert_str_eq(x->label, y->label);
	cr_assert(x->plan == y->plan && x->scopes == y->scopes);
	cr_assert(x->created_ms == y->created_ms && x->expires_ms == y->expires_ms && x->revoked_ms == y->revoked_ms);
	cr_assert(x->rate.requests == y->rate.requests && x->rate.seconds == y->rate.seconds);
}

static const char *reason_of(const char *key)
{
	static struct err e;
	struct account who;

	e = ERR_INIT;
	return accounts_find(a, key, &who, &e) < 0 ? e.reason : "ok";
}

Test(account_key, one_is_made_found_and_told_once)
{
	struct key_spec s = { .plan = PLAN_PRO, .scopes = SCOPE_READ, .label = "ci", .account = "alice" };
	char key[ACCOUNT_KEY_MAX];
	struct key_info k, again;
	struct account who;

	cr_assert_eq(accounts_key_add(a, &s, &k, key, NULL), 0);
	cr_assert_eq(strlen(key), 44u);
	cr_assert_eq(accounts_find(a, key, &who, NULL), 0);
	cr_assert_str_eq(who.id, "acc_alice");
	cr_assert_str_eq(who.key_id, k.id);
	cr_assert(who.plan == PLAN_PRO && who.scopes == SCOPE_READ && who.rate.requests == 0);
	cr_assert_eq(accounts_key_get(a, k.id, &again, NULL), 0);
	expect_same(&k, &again);
	cr_assert_str_eq(k.label, "ci");
	cr_assert_gt(k.created_ms, 0);
	cr_assert_eq(n_keys(), 1);
}

Test(account_key, several_keys_of_one_account)
{
	struct account one, two;

	cr_assert_eq(accounts_key_add(a, &(struct key_spec){ .key = "key-number-1" }, NULL, NULL, NULL), 0);
	cr_assert_eq(accounts_find(a, "key-number-1", &one, NULL), 0);
	cr_assert_eq(accounts_key_add(a,
				      &(struct key_spec){ .key = "key-number-2", .account = one.id, .plan = PLAN_TEAM },
				      NULL, NULL, NULL),
		     0);
	cr_assert_eq(accounts_find(a, "key-number-2", &two, NULL), 0);
	cr_assert_str_eq(one.id, two.id);
	cr_assert_str_neq(one.key_id, two.key_id);
	cr_assert_neq(one.plan, two.plan);
}

Test(account_key, it_expires_by_the_emulators_clock)
{
	struct key_spec s = { .key = "key-number-1", .expires_ms = clock_now_ms() + 3600000 };
	struct key_info k;
	int64_t never = 0;

	cr_assert_eq(accounts_key_add(a, &s, &k, NULL, NULL), 0);
	cr_assert_str_eq(reason_of("key-number-1"), "ok");
	clock_set_offset_ms(3600000);
	cr_assert_str_eq(reason_of("key-number-1"), "key_expired");
	cr_assert_eq(accounts_key_change(a, k.id, &(struct key_change){ .expires_ms = &never }, &k, NULL), 0);
	cr_assert_str_eq(reason_of("key-number-1"), "ok");
}

Test(account_key, revoked_changed_and_forgotten)
{
	const bool yes = true, no = false;
	const enum plan_id free_plan = PLAN_FREE;
	const unsigned int write_only = SCOPE_WRITE;
	const struct rate_limit rate = { 5, 60 };
	struct account who;
	struct key_info k;

	cr_assert_eq(accounts_key_add(a, &(struct key_spec){ .key = "key-number-1" }, &k, NULL, NULL), 0);
	cr_assert_eq(accounts_key_change(a, k.id, &(struct key_change){ .revoked = &yes }, &k, NULL), 0);
	cr_assert_gt(k.revoked_ms, 0);
	cr_assert_str_eq(reason_of("key-number-1"), "unauthorized");
	cr_assert_eq(
		accounts_key_change(a, k.id,
				    &(struct key_change){
					    .revoked = &no, .plan = &free_plan, .scopes = &write_only, .rate = &rate },
				    NULL, NULL),
		0);
	cr_assert_eq(accounts_find(a, "key-number-1", &who, NULL), 0);
	cr_assert(who.plan == PLAN_FREE && who.scopes == SCOPE_WRITE && who.rate.requests == 5 &&
		  who.rate.seconds == 60);
	cr_assert_eq(accounts_key_forget(a, k.id, NULL), 0);
	cr_assert_str_eq(reason_of("key-number-1"), "unauthorized");
	cr_assert_eq(accounts_key_forget(a, k.id, NULL), -ENOENT);
	cr_assert_eq(n_keys(), 0);
}

Test(account_key, they_outlive_the_process_and_the_command_line_wins)
{
	struct key_spec s = {
		.key = "key-number-1", .plan = PLAN_PRO, .label = "eins", .rate = { 3, 7 }, .account = "a-b_1"
	};
	struct key_info before, after;
	struct account who;

	cr_assert_eq(accounts_key_add(a, &s, &before, NULL, NULL), 0);
	cr_assert_eq(accounts_key_add(a, &(struct key_spec){ .key = "key-number-2" }, NULL, NULL, NULL), 0);
	close_all();
	open_all("key-number-2:team:read");
	cr_assert_eq(n_keys(), 2);
	cr_assert_eq(accounts_key_get(a, before.id, &after, NULL), 0);
	expect_same(&before, &after);
	cr_assert_eq(accounts_find(a, "key-number-2", &who, NULL), 0);
	cr_assert(who.plan == PLAN_TEAM && who.scopes == SCOPE_READ);
	cr_assert_eq(accounts_forget_made(a, NULL, NULL), 0); /* what the command line gave stays */
	cr_assert_eq(n_keys(), 1);
	close_all();
	open_all(NULL);
	cr_assert_eq(n_keys(), 1); /* key-number-2, which this run's store had before */
	cr_assert_eq(accounts_forget_made(a, "acc_other", NULL), 0);
	cr_assert_eq(n_keys(), 1);
}

Test(account_key, what_can_not_be)
{
	static const struct {
		struct key_spec s;
		int errnum;
	} t[] = {
		{ { .key = "short" }, EINVAL },
		{ { .key = "with a space" }, EINVAL },
		{ { .key = "with:colon" }, EINVAL },
		{ { .account = "" }, EINVAL },
		{ { .account = "Alice" }, EINVAL },
		{ { .account = "acc_" }, EINVAL },
		{ { .account = "acc_12345678901234567890" }, EINVAL },
		{ { .label = "\xff" }, EINVAL },
		{ { .label = "12345678901234567890123456789012345678901234567890123456789012345" }, EINVAL },
		{ { .rate = { 1, 0 } }, EINVAL },
		{ { .rate = { 1000001, 1 } }, EINVAL },
		{ { .scopes = 4 }, EINVAL },
		{ { .expires_ms = -1 }, EINVAL },
		{ { .key = "key-number-1" }, EEXIST },
	};
	struct key_info k;

	cr_assert_eq(accounts_key_add(a, &(struct key_spec){ .key = "key-number-1" }, &k, NULL, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		cr_assert_eq(accounts_key_add(a, &t[i].s, NULL, NULL, NULL), -t[i].errnum, "%zu", i);
	cr_assert_eq(accounts_key_change(a, k.id, &(struct key_change){ .scopes = &(unsigned int){ 0 } }, NULL, NULL),
		     -EINVAL);
	cr_assert_eq(accounts_key_change(a, "key_000000000000", &(struct key_change){ 0 }, NULL, NULL), -ENOENT);
	cr_assert_eq(n_keys(), 1);
}
