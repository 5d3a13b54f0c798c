#include "tests/bench/stats.h"

#include <math.h>
#include <time.h>

double stats_now_us(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

void samples_add(struct samples *s, double us)
{
	if (s->n < SAMPLES_MAX)
		s->us[s->n++] = us;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double samples_percentile(struct samples *s, double p)
{
	size_t rank;

	if (s->n == 0)
		return 0;
	qsort(s->us, s->n, sizeof(s->us[0]), by_value);
	rank = (size_t)ceil(p * (double)s->n);
	return s->us[rank > 0 ? rank - 1 : 0];
}
