/* The meter over the real store; time moves by the clock's offset alone. */

#include "tests/unit/store_fixture.h"

#include "emulator/base/clock.h"
#include "emulator/meter.h"

static struct store *store;
static struct meter *m;

static void open_all(void)
{
	struct err e = ERR_INIT;

	cr_assert_eq(store_open(DB, &store, &e), 0, "%s", e.msg);
	cr_assert_eq(meter_new(store, &m), 0);
}

static void close_all(void)
{
	meter_free(m);
	store_close(store);
}

static void set_up(void)
{
	enter();
	open_all();
}

static void tear_down(void)
{
	close_all();
	clock_set_offset_ms(0);
	leave();
}

TestSuite(meter, .init = set_up, .fini = tear_down);

static void pass_ms(int64_t ms)
{
	clock_set_offset_ms(clock_offset_ms() + ms);
}

/* To within what the test itself takes. */
static void expect_near(double got, double want, const char *what)
{
	cr_assert(got >= want * 0.999 && got <= want * 1.01 + 0.01, "%s: %f, not %f", what, got, want);
}

static struct metered *begin(const char *id, const char *slot, uint64_t cpu_usec)
{
	struct metered *md = NULL;
	struct err e = ERR_INIT;

	cr_assert_eq(metered_begin(m, id, "acc_a", slot, cpu_usec, &md, &e), 0, "%s", e.msg);
	return md;
}

static double gb_hours(const char *account)
{
	struct usage u;

	cr_assert_eq(meter_usage(m, account, &u, NULL), 0);
	return usage_gb_hours(&u);
}

static double cpu_hours(const char *account)
{
	struct usage u;

	cr_assert_eq(meter_usage(m, account, &u, NULL), 0);
	return usage_cpu_hours(&u);
}

#define GB (UINT64_C(1) << 30)
#define HOUR_MS INT64_C(3600000)
#define HOUR_US INT64_C(3600000000)

Test(meter, memory_times_time_and_cpu_by_its_counter)
{
	struct metered *md = begin("sbx_1", "s-1", 7 * HOUR_US);
	struct meter_totals t;

	pass_ms(HOUR_MS);
	metered_take(md, 8 * HOUR_US, 2 * GB, false);
	expect_near(gb_hours("acc_a"), 2, "GB-hours");
	expect_near(cpu_hours("acc_a"), 1, "CPU-hours: what the counter stood at before is not ours");
	pass_ms(HOUR_MS / 2);
	metered_take(md, 8 * HOUR_US, GB, false);
	metered_totals(md, &t);
	expect_near(gb_hours("acc_a"), 2.5, "GB-hours");
	expect_near(usage_gb_hours(&t.used), 2.5, "of the sandbox");
	expect_near((double)t.run_ms, 1.5 * HOUR_MS, "running");
	cr_assert_eq(t.peak_bytes, 2 * GB);
	cr_assert_eq(gb_hours("acc_b"), 0);
	cr_assert_eq(metered_end(md, NULL), 0);
}

Test(meter, a_counter_that_goes_back_charges_nothing)
{
	struct metered *md = begin("sbx_1", "s-1", HOUR_US);

	metered_take(md, HOUR_US / 2, 0, false);
	cr_assert_eq(cpu_hours("acc_a"), 0);
	metered_take(md, 2 * HOUR_US, 0, false);
	expect_near(cpu_hours("acc_a"), 1, "CPU-hours");
	pass_ms(-HOUR_MS); /* and a clock that goes back */
	metered_take(md, 2 * HOUR_US, GB, false);
	cr_assert_lt(gb_hours("acc_a"), 0.01);
	pass_ms(2 * HOUR_MS);
	metered_take(md, 2 * HOUR_US, GB, false);
	expect_near(gb_hours("acc_a"), 2, "GB-hours");
	cr_assert_eq(metered_end(md, NULL), 0);
}

Test(meter, a_reading_is_split_at_the_turn_of_the_month)
{
	int64_t turn = clock_next_month_ms(clock_now_ms());
	struct metered *md;

	pass_ms(turn - clock_now_ms() - 2 * HOUR_MS);
	md = begin("sbx_1", "s-1", 0);
	pass_ms(5 * HOUR_MS);
	metered_take(md, 0, GB, false);
	expect_near(gb_hours("acc_a"), 3, "this month");
	cr_assert_eq(meter_flush(m, NULL), 0);
	cr_assert_eq(sql_int("SELECT count(*) FROM usage_month"), 2);
	expect_near((double)sql_int("SELECT mem_kib_ms FROM usage_month ORDER BY month"), 2.0 * HOUR_MS * 1048576,
		    "last");
	pass_ms(75 * 24 * HOUR_MS); /* two turns at once */
	metered_take(md, 0, GB, false);
	cr_assert_eq(metered_end(md, NULL), 0);
	cr_assert_eq(sql_int("SELECT count(*) FROM usage_month"), 4);
	expect_near((double)sql_int("SELECT sum(mem_kib_ms) FROM usage_month") / (HOUR_MS * 1048576.0), 5 + 75 * 24,
		    "all");
}

Test(meter, nothing_is_lost_by_an_end_and_a_start)
{
	struct metered *md = begin("sbx_1", "s-1", 0);
	struct meter_totals t;

	pass_ms(HOUR_MS);
	metered_take(md, HOUR_US, GB, false);
	cr_assert_eq(metered_end(md, NULL), 0);
	close_all();
	open_all();
	expect_near(gb_hours("acc_a"), 1, "GB-hours");
	cr_assert_eq(meter_totals(m, "sbx_1", &t, NULL), 0);
	expect_near(usage_cpu_hours(&t.used), 1, "CPU-hours");
	pass_ms(10 * HOUR_MS); /* paused meanwhile: the same slot, its counter has hardly moved */
	md = begin("sbx_1", "s-1", HOUR_US + 5);
	pass_ms(HOUR_MS);
	metered_take(md, HOUR_US + 5, GB, false);
	expect_near(gb_hours("acc_a"), 2, "what was paused costs nothing");
	cr_assert_eq(metered_end(md, NULL), 0);
	cr_assert_eq(meter_totals(m, "sbx_none", &t, NULL), 0);
	cr_assert_eq(t.used.mem_kib_ms + t.run_ms, 0);
}

/* Its last writes never get to the disk. */
static void crash(struct metered *md)
{
	sql("CREATE TRIGGER no BEFORE INSERT ON usage_sandbox BEGIN SELECT RAISE(FAIL, 'no'); END");
	cr_assert_lt(metered_end(md, NULL), 0);
	close_all();
	sql("DROP TRIGGER no");
}

Test(meter, what_ran_on_without_the_daemon_is_charged_from_where_it_was_written)
{
	struct metered *md = begin("sbx_1", "s-1", 0);

	pass_ms(HOUR_MS);
	metered_take(md, HOUR_US, GB, false);
	cr_assert_eq(meter_flush(m, NULL), 0);
	pass_ms(HOUR_MS);
	metered_take(md, 2 * HOUR_US, GB, false); /* and this is not written any more: kill -9 */
	crash(md);
	open_all();
	expect_near(gb_hours("acc_a"), 1, "as it was written");
	md = begin("sbx_1", "s-1", 4 * HOUR_US);
	pass_ms(HOUR_MS);
	metered_take(md, 4 * HOUR_US, GB, false);
	expect_near(gb_hours("acc_a"), 3, "GB-hours");
	expect_near(cpu_hours("acc_a"), 4, "CPU-hours");
	cr_assert_eq(meter_flush(m, NULL), 0);
	crash(md);
	open_all();
	md = begin("sbx_1", "s-2", 0); /* another slot: another life, and nothing ran meanwhile */
	pass_ms(HOUR_MS);
	metered_take(md, 0, GB, false);
	expect_near(gb_hours("acc_a"), 4, "GB-hours");
	cr_assert_eq(metered_end(md, NULL), 0);
}

Test(meter, a_write_that_fails_is_done_again)
{
	struct metered *md = begin("sbx_1", "s-1", 0), *other = begin("sbx_2", "s-2", 0);
	struct err e = ERR_INIT;

	pass_ms(HOUR_MS);
	metered_take(md, 0, GB, false);
	metered_take(other, 0, GB, false);
	sql("CREATE TRIGGER no BEFORE INSERT ON usage_month BEGIN SELECT RAISE(FAIL, 'no'); END");
	cr_assert_lt(meter_flush(m, &e), 0);
	cr_assert_eq(sql_int("SELECT count(*) FROM usage_sandbox"), 0, "all or nothing");
	sql("DROP TRIGGER no");
	cr_assert_eq(metered_end(md, &e), 0, "%s", e.msg);
	cr_assert_eq(sql_int("SELECT count(*) FROM usage_sandbox"), 2); /* one account: both */
	expect_near((double)sql_int("SELECT mem_kib_ms FROM usage_month"), 2.0 * HOUR_MS * 1048576, "both");
	cr_assert_eq(metered_end(other, NULL), 0);
}

Test(meter, set_and_forgotten)
{
	struct usage u = { .cpu_usec = HOUR_US, .mem_kib_ms = 3 * 3600 * 1000 * UINT64_C(1048576) };

	cr_assert_eq(meter_usage_set(m, "acc_a", &u, NULL), 0);
	cr_assert_eq(meter_usage_set(m, "acc_b", &u, NULL), 0);
	close_all();
	open_all();
	expect_near(gb_hours("acc_a"), 3, "GB-hours");
	cr_assert_eq(meter_forget(m, "acc_a", NULL), 0);
	cr_assert_eq(gb_hours("acc_a"), 0);
	expect_near(cpu_hours("acc_b"), 1, "CPU-hours");
	cr_assert_eq(meter_forget(m, NULL, NULL), 0);
	cr_assert_eq(cpu_hours("acc_b"), 0);
	cr_assert_eq(sql_int("SELECT count(*) FROM usage_month"), 0);
}

Test(meter, any_number_of_accounts)
{
	char account[32];

	for (int i = 0; i < 10000; i++) {
		(void)snprintf(account, sizeof(account), "acc_%d", i);
		cr_assert_eq(gb_hours(account), 0);
	}
}

Test(meter, samples_have_no_more_than_they_saw)
{
	struct metered *md = begin("sbx_1", "s-1", 0);
	struct meter_sample s[METER_SAMPLES];

	cr_assert_eq(metered_samples(md, 0, s), 0u);
	metered_take(md, 0, 1, true);
	cr_assert_eq(metered_samples(md, 0, s), 0u, "too early to tell anything");
	(void)usleep(300000);
	metered_take(md, 0, 42 << 20, true);
	cr_assert_eq(metered_samples(md, 0, s), 1u);
	cr_assert_eq(s[0].mem_bytes, UINT64_C(42) << 20);
	cr_assert_eq(s[0].cores, 0);
	cr_assert_eq(metered_samples(md, s[0].t_ms, s), 0u);
	cr_assert_eq(metered_samples(md, s[0].t_ms - 1, s), 1u);
	pass_ms(61000);
	cr_assert_eq(metered_samples(md, 0, s), 0u);
	cr_assert_eq(metered_end(md, NULL), 0);
}
