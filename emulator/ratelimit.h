#pragma once
/* How many requests a key may make: a bucket of N requests that fills evenly in S seconds. By the emulator's clock.
 *
 * Off by default; a key's own limit holds always, otherwise that of the mode. The buckets are in memory only. */

#include "emulator/base/err.h"

struct account;
struct ratelimits;

struct rate_limit {
	uint32_t requests; /* 1 to 1,000,000; 0: no limit */
	uint32_t seconds;  /* 1 to 86,400 */
};

/* "60/60": requests, then seconds. -EINVAL, -ERANGE. */
int rate_limit_parse(const char *s, struct rate_limit *ret);
bool rate_limit_valid(const struct rate_limit *l);

enum rate_mode {
	RATE_OFF,
	RATE_PLAN,  /* what the key's plan has (struct plan) */
	RATE_FIXED, /* the same for every key */
};

int ratelimits_new(struct ratelimits **ret);
void ratelimits_free(struct ratelimits *r);
/* fixed: for RATE_FIXED. */
void ratelimits_set(struct ratelimits *r, enum rate_mode mode, const struct rate_limit *fixed);
/* The mode; *ret_fixed is filled for RATE_FIXED. */
enum rate_mode ratelimits_get(const struct ratelimits *r, struct rate_limit *ret_fixed);

struct rate_verdict {
	bool limited; /* a limit holds for this key; else the rest means nothing */
	bool refused;
	uint32_t limit;		/* requests that fit the full bucket */
	uint32_t remaining;	/* requests that would be let through now */
	uint32_t retry_after_s; /* refused: whole seconds until one will be, at least 1 */
	uint32_t reset_s;	/* whole seconds until the bucket is full again */
};

/* One request of that key. A refused one takes nothing out of the bucket. */
void ratelimits_take(struct ratelimits *r, const struct account *a, struct rate_verdict *ret);
