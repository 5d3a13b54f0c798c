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

void clock_iso(int64_t ms, char ret[static CLOCK_ISO_SIZE])
{
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	size_t n;

	if (!gmtime_r(&s, &tm))
		memset(&tm, 0, sizeof(tm));
	n = strftime(ret, CLOCK_ISO_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
	(void)snprintf(ret + n, CLOCK_ISO_SIZE - n, ".%03dZ", (int)(ms % 1000));
}

int clock_parse_iso(const char *s, int64_t *ret_ms)
{
	struct tm tm = { 0 };
	const char *p = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);
	int64_t frac = 0, scale = 100;
	time_t t;

	if (!p)
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
	t = timegm(&tm);
	*ret_ms = (int64_t)t * 1000 + frac;
	return 0;
}
