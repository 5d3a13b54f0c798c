#include <criterion/criterion.h>
#include <errno.h>

#include "emulator/account.h"
#include "emulator/base/clock.h"
#include "emulator/ratelimit.h"

/* Only the offset moves time here: an hour a step, against which the test's own microseconds are nothing. */
#define HOUR 3600
static struct ratelimits *r;

static void set_up(void)
{
	cr_assert_eq(ratelimits_new(&r), 0);
}

static void tear_down(void)
{
	ratelimits_free(r);
	clock_set_offset_ms(0);
}

TestSuite(ratelimit, .init = set_up, .fini = tear_down);

static void pass_s(int64_t s)
{
	clock_set_offset_ms(clock_offset_ms() + s * 1000);
}

static struct rate_verdict take(const char *key_id, enum plan_id plan, struct rate_limit own)
{
	struct account a = { .plan = plan, .rate = own };
	struct rate_verdict v;

	(void)snprintf(a.key_id, sizeof(a.key_id), "%s", key_id);
	ratelimits_take(r, &a, &v);
	return v;
}

static struct rate_verdict take_a(void)
{
	return take("key_a", PLAN_FREE, (struct rate_limit){ 0 });
}

Test(ratelimit, off_unless_asked_for)
{
	for (int i = 0; i < 5000; i++)
		cr_assert(!take_a().limited);
}

Test(ratelimit, a_full_bucket_then_what_comes_back)
{
	struct rate_verdict v;

	ratelimits_set(r, RATE_FIXED, &(struct rate_limit){ 4, 4 * HOUR });
	for (unsigned int i = 0; i < 4; i++) {
		v = take_a();
		cr_assert(v.limited && !v.refused);
		cr_assert(v.limit == 4 && v.remaining == 3 - i && v.retry_after_s == 0, "%u: %u", i, v.remaining);
		cr_assert(v.reset_s > i * HOUR && v.reset_s <= (i + 1) * HOUR);
	}
	v = take_a();
	cr_assert(v.refused && v.remaining == 0);
	cr_assert(v.retry_after_s > HOUR - 60 && v.retry_after_s <= HOUR, "%u", v.retry_after_s);
	pass_s(v.retry_after_s); /* what it promised */
	cr_assert(!take_a().refused);
	cr_assert(take_a().refused);
	pass_s(1000 * HOUR); /* never more than a bucketful */
	for (int i = 0; i < 4; i++)
		cr_assert(!take_a().refused);
	cr_assert(take_a().refused);
}

Test(ratelimit, each_key_has_its_own)
{
	ratelimits_set(r, RATE_FIXED, &(struct rate_limit){ 1, HOUR });
	cr_assert(!take("key_a", PLAN_FREE, (struct rate_limit){ 0 }).refused);
	cr_assert(take("key_a", PLAN_FREE, (struct rate_limit){ 0 }).refused);
	cr_assert(!take("key_b", PLAN_FREE, (struct rate_limit){ 0 }).refused);
}

Test(ratelimit, by_plan_and_a_keys_own_first)
{
	ratelimits_set(r, RATE_PLAN, NULL);
	cr_assert_eq(take("key_a", PLAN_FREE, (struct rate_limit){ 0 }).limit, plan_get(PLAN_FREE)->rate.requests);
	cr_assert_eq(take("key_b", PLAN_TEAM, (struct rate_limit){ 0 }).limit, plan_get(PLAN_TEAM)->rate.requests);
	cr_assert_eq(take("key_c", PLAN_TEAM, (struct rate_limit){ 2, HOUR }).limit, 2u);
	ratelimits_set(r, RATE_OFF, NULL);
	cr_assert_eq(take("key_c", PLAN_TEAM, (struct rate_limit){ 2, HOUR }).limit, 2u);
	cr_assert(!take_a().limited);
}

Test(ratelimit, a_clock_that_is_set_back_locks_nobody_out)
{
	ratelimits_set(r, RATE_FIXED, &(struct rate_limit){ 2, HOUR });
	pass_s(100 * HOUR);
	cr_assert(!take_a().refused && !take_a().refused && take_a().refused);
	clock_set_offset_ms(0);
	cr_assert_leq(take_a().retry_after_s, (uint32_t)HOUR);
	pass_s(HOUR);
	cr_assert(!take_a().refused);
}

Test(ratelimit, any_number_of_keys)
{
	char id[KEY_ID_SIZE];

	ratelimits_set(r, RATE_FIXED, &(struct rate_limit){ 1, HOUR });
	for (int i = 0; i < 20000; i++) {
		(void)snprintf(id, sizeof(id), "key_%d", i);
		cr_assert(!take(id, PLAN_FREE, (struct rate_limit){ 0 }).refused);
	}
	cr_assert(take(id, PLAN_FREE, (struct rate_limit){ 0 }).refused);
}

Test(ratelimit, words)
{
	static const char *const bad[] = { "",	  "/",	  "1",	     "1/",	  "/1",	  "0/1",
					   "1/0", "-1/1", "1/86401", "1000001/1", "1 /1", "1/1/1" };
	struct rate_limit l = { 0 };

	cr_assert_eq(rate_limit_parse("60/30", &l), 0);
	cr_assert(l.requests == 60 && l.seconds == 30);
	cr_assert_eq(rate_limit_parse("1000000/86400", &l), 0);
	cr_assert(rate_limit_valid(&l));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_lt(rate_limit_parse(bad[i], &l), 0, "%s", bad[i]);
	cr_assert_eq(l.requests, 1000000u);
}
