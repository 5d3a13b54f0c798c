#pragma once
/* Timings of one thing, and what is said of them. Microseconds as doubles. */

#include "emulator/base/util.h"

#define SAMPLES_MAX 4096

struct samples {
	double us[SAMPLES_MAX];
	size_t n;
};

double stats_now_us(void); /* monotonic, finer than a microsecond */

/* Beyond SAMPLES_MAX a sample is dropped. */
void samples_add(struct samples *s, double us);

/* p in 0..1, by nearest rank. Sorts in place. 0 when there are none. */
double samples_percentile(struct samples *s, double p);
