#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "emulator/base/clock.h"

Test(clock, iso_of_known_times)
{
	static const struct {
		int64_t ms;
		const char *iso;
	} t[] = {
		{ 0, "1970-01-01T00:00:00.000Z" },
		{ 1, "1970-01-01T00:00:00.001Z" },
		{ 999, "1970-01-01T00:00:00.999Z" },
		{ 1000, "1970-01-01T00:00:01.000Z" },
		{ 1777638896789, "2026-05-01T12:34:56.789Z" },
		{ 951782400000, "2000-02-29T00:00:00.000Z" },
		{ 4102444799999, "2099-12-31T23:59:59.999Z" },
		{ 253402300799999, "9999-12-31T23:59:59.999Z" },
		{ -1, "1969-12-31T23:59:59.999Z" },
		{ -1000, "1969-12-31T23:59:59.000Z" },
		{ -1001, "1969-12-31T23:59:58.999Z" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char s[CLOCK_ISO_SIZE];
		int64_t back = 42;

		clock_iso(t[i].ms, s);
		cr_assert_str_eq(s, t[i].iso);
		cr_assert_eq(clock_parse_iso(s, &back), 0, "%s", s);
		cr_assert_eq(back, t[i].ms, "%s: %ld", s, (long)back);
	}
}

Test(clock, iso_of_anything_stays_in_its_buffer)
{
	static const int64_t t[] = { INT64_MAX, INT64_MIN, INT64_MIN + 1, INT64_MAX - 1 };

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char s[CLOCK_ISO_SIZE + 1];

		memset(s, '#', sizeof(s));
		clock_iso(t[i], s);
		cr_assert_lt(strnlen(s, sizeof(s)), (size_t)CLOCK_ISO_SIZE);
		cr_assert_eq(s[CLOCK_ISO_SIZE], '#');
		cr_assert_eq(s[strlen(s) - 1], 'Z');
	}
}

Test(clock, parse_variants)
{
	static const struct {
		const char *s;
		int64_t ms;
	} t[] = {
		{ "2026-05-01T12:34:56Z", 1777638896000 },
		{ "2026-05-01T12:34:56z", 1777638896000 },
		{ "2026-05-01T12:34:56+00:00", 1777638896000 },
		{ "2026-05-01T12:34:56.7Z", 1777638896700 },
		{ "2026-05-01T12:34:56.78Z", 1777638896780 },
		{ "2026-05-01T12:34:56.789Z", 1777638896789 },
		{ "2026-05-01T12:34:56.789999Z", 1777638896789 },
		{ "2026-05-01T12:34:56.789999999+00:00", 1777638896789 },
		{ "2024-02-29T00:00:00Z", 1709164800000 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		int64_t ms = -1;

		cr_assert_eq(clock_parse_iso(t[i].s, &ms), 0, "%s", t[i].s);
		cr_assert_eq(ms, t[i].ms, "%s: %ld", t[i].s, (long)ms);
	}
}

Test(clock, parse_refuses)
{
	static const char *const t[] = {
		"",
		" ",
		"Z",
		"now",
		"1777638896",
		"2026",
		"2026-05-01",
		"2026-05-01T12:34:56",
		"2026-05-01T12:34:56.Z",
		"2026-05-01T12:34:56.1234567890Z",
		"2026-05-01T12:34:56,5Z",
		"2026-05-01T12:34:56+01:00",
		"2026-05-01T12:34:56-00:00",
		"2026-05-01T12:34:56ZZ",
		"2026-05-01T12:34:56Z ",
		" 2026-05-01T12:34:56Z",
		"2026-05-01 12:34:56Z",
		"2026- 5-01T12:34:56Z",
		"2026-5-1T12:34:56Z",
		"26-05-01T12:34:56Z",
		"+2026-05-01T12:34:56Z",
		"-026-05-01T12:34:56Z",
		"12026-05-01T12:34:56Z",
		"2026-00-01T12:34:56Z",
		"2026-13-01T12:34:56Z",
		"2026-05-00T12:34:56Z",
		"2026-05-32T12:34:56Z",
		"2026-02-29T00:00:00Z",
		"2026-02-31T00:00:00Z",
		"2026-04-31T00:00:00Z",
		"2026-05-01T24:00:00Z",
		"2026-05-01T12:60:00Z",
		"2026-05-01T12:34:60Z",
		"2026-05-01T12:34:5",
		"2026-05-01T12:34:56.789",
		"2026-05-01T12-34-56Z",
		"2026/05/01T12:34:56Z",
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		int64_t ms = 42;

		cr_assert_eq(clock_parse_iso(t[i], &ms), -EINVAL, "accepted \"%s\"", t[i]);
		cr_assert_eq(ms, 42, "touched for \"%s\"", t[i]);
	}
}

Test(clock, does_not_depend_on_the_time_zone)
{
	char s[CLOCK_ISO_SIZE];
	int64_t ms;

	cr_assert_eq(setenv("TZ", "Pacific/Auckland", 1), 0);
	tzset();
	clock_iso(1777638896789, s);
	cr_assert_str_eq(s, "2026-05-01T12:34:56.789Z");
	cr_assert_eq(clock_parse_iso(s, &ms), 0);
	cr_assert_eq(ms, 1777638896789);
}

Test(clock, the_clocks_run)
{
	int64_t r = clock_real_ms(), m = clock_mono_us(), dr, dm;

	cr_assert_lt(llabs(r - (int64_t)time(NULL) * 1000), 2000);
	(void)usleep(20000);
	dr = clock_real_ms() - r;
	dm = clock_mono_us() - m;
	cr_assert_geq(dm, 20000);
	cr_assert_lt(dm, 10000000);
	cr_assert_geq(dr, 15);
}

Test(clock, months)
{
	static const struct {
		const char *at, *next;
		int number;
	} t[] = {
		{ "2026-05-01T00:00:00.000Z", "2026-06-01T00:00:00.000Z", 202605 },
		{ "2026-05-31T23:59:59.999Z", "2026-06-01T00:00:00.000Z", 202605 },
		{ "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00.000Z", 202612 },
		{ "2028-02-29T12:00:00.000Z", "2028-03-01T00:00:00.000Z", 202802 },
		{ "1969-12-31T23:59:59.999Z", "1970-01-01T00:00:00.000Z", 196912 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		int64_t at = 0, next = 0;

		cr_assert(clock_parse_iso(t[i].at, &at) == 0 && clock_parse_iso(t[i].next, &next) == 0);
		cr_assert_eq(clock_next_month_ms(at), next, "%s", t[i].at);
		cr_assert_eq(clock_month_number(at), t[i].number, "%s", t[i].at);
	}
}

Test(clock, the_offset_moves_both_and_only_the_emulators_own)
{
	int64_t ms = clock_real_ms(), us = clock_mono_us();

	clock_set_offset_ms(86400000);
	cr_assert_geq(clock_now_ms(), ms + 86400000);
	cr_assert_geq(clock_now_us(), us + INT64_C(86400000000));
	cr_assert_lt(clock_real_ms(), ms + 3600000);
	cr_assert_lt(clock_mono_us(), us + INT64_C(3600000000));
	cr_assert_eq(clock_offset_ms(), 86400000);
}
