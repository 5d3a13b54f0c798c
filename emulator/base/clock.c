#include "emulator/base/clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>

int64_t clock_real_ms(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t clock_mono_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_thread_us(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int64_t offset_ms;

int64_t clock_now_ms(void)
{
	return clock_real_ms() + offset_ms;
}

int64_t clock_now_us(void)
{
	return clock_mono_us() + offset_ms * 1000;
}

int64_t clock_offset_ms(void)
{
	return offset_ms;
}

void clock_set_offset_ms(int64_t ms)
{
	offset_ms = ms;
}

static struct tm broken_down(int64_t ms)
{
	time_t s = (time_t)(ms / 1000 - (ms % 1000 < 0));
	struct tm tm = { 0 };

	(void)gmtime_r(&s, &tm);
	return tm;
}

int64_t clock_next_month_ms(int64_t ms)
{
	struct tm of = broken_down(ms), tm = { .tm_year = of.tm_year, .tm_mon = of.tm_mon + 1, .tm_mday = 1 };

	return (int64_t)timegm(&tm) * 1000;
}

int clock_month_number(int64_t ms)
{
	struct tm tm = broken_down(ms);

	return (tm.tm_year + 1900) * 100 + tm.tm_mon + 1;
}

void clock_iso(int64_t ms, char ret[static CLOCK_ISO_SIZE])
{
	int64_t rest = ms % 1000;
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	size_t n;

	if (rest < 0) { /* before 1970 the fraction still counts forward */
		rest += 1000;
		s--;
	}
	if (!gmtime_r(&s, &tm))
		memset(&tm, 0, sizeof(tm));
	n = strftime(ret, CLOCK_ISO_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(ret + n, CLOCK_ISO_SIZE - n, ".%03dZ", (int)rest);
}

/* Exactly n digits and then the byte `after` (0: whatever). strptime(3) is no help here: it takes
 * spaces, signs and single digits. */
static bool take_digits(const char **p, int n, char after, int *ret)
{
	int v = 0;

	for (; n > 0; n--, (*p)++) {
		if (**p < '0' || **p > '9')
			return false;
		v = v * 10 + (**p - '0');
	}
	if (after && *(*p)++ != after)
		return false;
	*ret = v;
	return true;
}

int clock_parse_iso(const char *s, int64_t *ret_ms)
{
	int64_t frac = 0, scale = 100;
	struct tm tm = { 0 };
	const char *p = s;
	int day;
	time_t t;

	if (!take_digits(&p, 4, '-', &tm.tm_year) || !take_digits(&p, 2, '-', &tm.tm_mon) ||
	    !take_digits(&p, 2, 'T', &tm.tm_mday) || !take_digits(&p, 2, ':', &tm.tm_hour) ||
	    !take_digits(&p, 2, ':', &tm.tm_min) || !take_digits(&p, 2, 0, &tm.tm_sec))
		return -EINVAL;
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 59)
		return -EINVAL;
	if (*p == '.') {
		int digits = 0;

		for (p++; *p >= '0' && *p <= '9'; p++, digits++) {
			frac += scale * (*p - '0');
			scale /= 10;
		}
		if (digits == 0 || digits > 9)
			return -EINVAL;
	}
	if (strcmp(p, "Z") != 0 && strcmp(p, "z") != 0 && strcmp(p, "+00:00") != 0)
		return -EINVAL;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	day = tm.tm_mday;
	t = timegm(&tm);
	if (tm.tm_mday != day) /* timegm(3) makes a day of March of 31 February */
		return -EINVAL;
	*ret_ms = (int64_t)t * 1000 + frac;
	return 0;
}
