/* The virtual clock over a store of its own: order, what is kept, what it refuses. */

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/store.h"
#include "emulator/vclock.h"

/* ---- a store of one number ---- */

static int64_t kept = -1;
static bool store_broken;
static char some_store;
#define STORE ((struct store *)(void *)&some_store)

int store_setting_get(struct store *s, const char *name, int64_t *ret, struct err *e)
{
	(void)s;
	(void)e;
	cr_assert_str_eq(name, "clock_offset_ms");
	if (kept >= 0)
		*ret = kept;
	return 0;
}

int store_setting_put(struct store *s, const char *name, int64_t value, struct err *e)
{
	(void)s;
	(void)name;
	if (store_broken)
		return err_set(e, ERR_FULL, ENOSPC, NULL, "full");
	kept = value;
	return 0;
}

/* ---- alarms ---- */

struct alarms {
	char name;
	int64_t at[8];
	size_t n, rung;
	bool deaf; /* never does what is due */
	unsigned int moves;
};

static char order[64];
static int64_t seen[64];
static size_t n_order;

static int64_t next_alarm(void *arg)
{
	const struct alarms *a = arg;

	return a->rung < a->n ? a->at[a->rung] : INT64_MAX;
}

static void ring(void *arg)
{
	struct alarms *a = arg;

	while (!a->deaf && a->rung < a->n && a->at[a->rung] <= clock_now_ms()) {
		seen[n_order] = clock_now_ms() - a->at[a->rung++];
		order[n_order++] = a->name;
	}
}

static void moved(void *arg)
{
	((struct alarms *)arg)->moves++;
}

static struct vclock *clock_with(struct alarms *a, size_t n)
{
	struct vclock *c = NULL;

	cr_assert_eq(vclock_new(STORE, &c, NULL), 0);
	for (size_t i = 0; i < n; i++)
		cr_assert_eq(vclock_listen(c, &(struct vclock_listener){ next_alarm, ring, moved, &a[i] }), 0);
	return c;
}

static void at_hours(struct alarms *a, const int *hours, size_t n)
{
	for (a->n = 0; a->n < n; a->n++)
		a->at[a->n] = clock_now_ms() + hours[a->n] * INT64_C(3600000);
}

Test(vclock, what_is_due_happens_in_order_and_at_its_time)
{
	struct alarms a[2] = { { .name = 'a' }, { .name = 'b' } };
	struct vclock *c = clock_with(a, 2);
	int64_t target;

	at_hours(&a[0], (int[]){ 1, 4, 5, 100 }, 4);
	at_hours(&a[1], (int[]){ 2, 3, 6 }, 3);
	target = clock_now_ms() + 10 * INT64_C(3600000);
	cr_assert_eq(vclock_advance_to(c, target, NULL), 0);
	cr_assert_str_eq(order, "abbaab");
	for (size_t i = 0; i < n_order; i++) /* each at its moment, not at the target an hour and more later */
		cr_assert_lt(seen[i], 60000, "%zu: %ld", i, (long)seen[i]);
	cr_assert_geq(clock_now_ms(), target);
	cr_assert_lt(clock_now_ms(), target + 60000);
	cr_assert_eq(a[0].moves, 1u);
	cr_assert_eq(kept, clock_offset_ms());
	vclock_free(c);
}

Test(vclock, the_monotonic_side_moves_along)
{
	struct vclock *c = clock_with(NULL, 0);
	int64_t us = clock_now_us(), real = clock_mono_us();

	cr_assert_eq(vclock_advance_to(c, clock_now_ms() + 5000, NULL), 0);
	cr_assert_geq(clock_now_us() - us, 5000 * 1000);
	cr_assert_lt(clock_mono_us() - real, 4000 * 1000);
	vclock_free(c);
}

Test(vclock, one_that_never_does_what_is_due_stops_nobody)
{
	struct alarms a[2] = { { .name = 'a', .deaf = true }, { .name = 'b' } };
	struct vclock *c = clock_with(a, 2);

	at_hours(&a[0], (int[]){ 1 }, 1);
	at_hours(&a[1], (int[]){ 2 }, 1);
	cr_assert_eq(vclock_advance_to(c, clock_now_ms() + 3 * INT64_C(3600000), NULL), 0);
	cr_assert_str_eq(order, "b");
	vclock_free(c);
}

Test(vclock, only_forward_and_not_beyond_its_end)
{
	struct vclock *c = clock_with(NULL, 0);
	struct err e = ERR_INIT;

	cr_assert_eq(vclock_advance_to(c, clock_now_ms() - 1000, &e), -EINVAL);
	cr_assert_eq(e.kind, ERR_INVALID);
	cr_assert_eq(vclock_advance_to(c, clock_now_ms() + CLOCK_OFFSET_MAX_MS + 60000, &e), -ERANGE);
	cr_assert_eq(clock_offset_ms(), 0);
	vclock_free(c);
}

Test(vclock, a_store_that_fails_leaves_the_clock_alone)
{
	struct vclock *c = clock_with(NULL, 0);
	struct err e = ERR_INIT;

	store_broken = true;
	cr_assert_lt(vclock_advance_to(c, clock_now_ms() + 1000, &e), 0);
	cr_assert_eq(e.kind, ERR_FULL);
	cr_assert_eq(clock_offset_ms(), 0);
	store_broken = false;
	vclock_free(c);
}

Test(vclock, the_offset_outlives_it_and_can_be_taken_back)
{
	struct alarms a = { .name = 'a' };
	struct vclock *c = clock_with(NULL, 0);

	cr_assert_eq(vclock_advance_by(c, 7200000, NULL), 0);
	cr_assert_eq(clock_offset_ms(), 7200000); /* exactly */
	cr_assert_eq(vclock_advance_by(c, INT64_MAX, NULL), -ERANGE);
	vclock_free(c);
	clock_set_offset_ms(0);
	c = clock_with(&a, 1);
	cr_assert_eq(clock_offset_ms(), 7200000);
	cr_assert_eq(vclock_reset(c, NULL), 0);
	cr_assert_eq(clock_offset_ms(), 0);
	cr_assert_eq(kept, 0);
	cr_assert_eq(a.moves, 1u);
	vclock_free(c);
	kept = INT64_MAX; /* a damaged one */
	c = clock_with(NULL, 0);
	cr_assert_eq(clock_offset_ms(), 0);
	vclock_free(c);
}

Test(vclock, listeners_are_bounded)
{
	struct vclock *c = clock_with(NULL, 0);

	for (int i = 0; i < 16; i++)
		cr_assert_eq(vclock_listen(c, &(struct vclock_listener){ 0 }), 0);
	cr_assert_eq(vclock_listen(c, &(struct vclock_listener){ 0 }), -E2BIG);
	cr_assert_eq(vclock_advance_to(c, clock_now_ms() + 1000, NULL), 0);
	vclock_free(c);
}
