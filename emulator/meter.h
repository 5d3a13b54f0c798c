#pragma once
/* The meter: what each account has used this month, and each sandbox in its life, in memory and in the store.
 *
 * Theory of operation: who reads the kernel's counters (sandbox_meter.c) hands each reading to metered_take(). That
 * charges the time since the last reading: on-CPU time by the counter's difference, memory by the working set times the
 * time, split at the turn of a month. Totals are kept in memory; meter_flush() writes those that have changed as absolute
 * numbers in one transaction, so that a write that failed is simply done again. It is called every few seconds and at the
 * end of a sandbox's running time: a kill -9 loses the last few seconds.
 *
 * With the totals of a running sandbox its row says up to when (at_ms) and up to which counter of which slot
 * (seen_usec) they reach. A daemon that takes over a sandbox which went on without it begins there: what was used
 * meanwhile is charged, too.
 *
 * Time is the emulator's clock: an hour that a test lets pass is charged as an hour (of memory; a program that did not
 * run used no CPU). 1 GB is 1024 MB is 2^30 bytes (README, Fidelity). Daemon only. */

#include "emulator/base/err.h"

struct store;
struct meter;
struct metered; /* a sandbox that runs */

struct usage {
	uint64_t cpu_usec;
	uint64_t mem_kib_ms; /* KiB times milliseconds */
};
#define USAGE_KIB_MS_PER_GB_HOUR (1048576.0 * 3600 * 1000)
#define USAGE_USEC_PER_CPU_HOUR (3600.0 * 1000000)
static inline double usage_gb_hours(const struct usage *u)
{
	return (double)u->mem_kib_ms / USAGE_KIB_MS_PER_GB_HOUR;
}
static inline double usage_cpu_hours(const struct usage *u)
{
	return (double)u->cpu_usec / USAGE_USEC_PER_CPU_HOUR;
}

struct meter_totals {
	struct usage used;
	uint64_t run_ms;     /* how long it has run, without pauses */
	uint64_t peak_bytes; /* the largest working set of a reading */
};

#define METER_SAMPLES 60
#define METER_INTERVAL_MS 1000
struct meter_sample {
	int64_t t_ms; /* clock_now_ms */
	uint64_t mem_bytes;
	double cores; /* in use since the sample before */
};

/* The store is borrowed; NULL (tests): nothing is kept. */
int meter_new(struct store *s, struct meter **ret);
/* Every sandbox must have ended its metering. Writes nothing. */
void meter_free(struct meter *m);

/* The current month's (UTC), of all the account's sandboxes together. */
int meter_usage(struct meter *m, const char *account, struct usage *ret, struct err *e);
/* Sets it, durably: for tests of what happens at its end, and for seeds. */
int meter_usage_set(struct meter *m, const char *account, const struct usage *u, struct err *e);
/* Forgets what the account (NULL: every one) has used, in all months. */
int meter_forget(struct meter *m, const char *account, struct err *e);

/* Of any sandbox, running or not; zeroes for one that never ran. */
int meter_totals(struct meter *m, const char *sandbox_id, struct meter_totals *ret, struct err *e);

/* A sandbox runs from now on, or has run already in that slot (above). cpu_usec: its counter now. It must be ended
 * before the meter is freed. */
int metered_begin(struct meter *m, const char *id, const char *account, const char *slot, uint64_t cpu_usec,
		  struct metered **ret, struct err *e);
/* A reading of now. sample: it becomes one of the window's. */
void metered_take(struct metered *md, uint64_t cpu_usec, uint64_t working_set, bool sample);
/* It does not run any more; written at once. Frees it, also when that fails. */
int metered_end(struct metered *md, struct err *e);

void metered_totals(const struct metered *md, struct meter_totals *ret);
/* The window's samples, the oldest first, none older than a minute and all newer than since_ms. Returns how many. */
size_t metered_samples(const struct metered *md, int64_t since_ms, struct meter_sample ret[static METER_SAMPLES]);
/* Cores in use by the last sample; before the first one, since its beginning. */
double metered_cores(const struct metered *md);

/* Writes what has changed. On failure all of it is still there for the next time. */
int meter_flush(struct meter *m, struct err *e);
