/* Theory of operation: a bucket is one number (GCRA, the generic cell rate algorithm): the moment at which it will
 * be full again. A request moves that moment on by what one request costs in time; it may not get further away
 * than a whole bucket takes to fill. One whose moment has passed is full and need not be remembered. */

#include "emulator/ratelimit.h"

#include <errno.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "emulator/account.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define REQUESTS_MAX 1000000
#define SECONDS_MAX 86400
#define BUCKETS_MAX 8192 /* --auth any takes any number of keys */

struct bucket {
	char key_id[KEY_ID_SIZE];
	int64_t full_us; /* clock_now_us at which it is full */
	UT_hash_handle hh;
};

struct ratelimits {
	enum rate_mode mode;
	struct rate_limit fixed;
	struct bucket *buckets;
};

bool rate_limit_valid(const struct rate_limit *l)
{
	return l->requests >= 1 && l->requests <= REQUESTS_MAX && l->seconds >= 1 && l->seconds <= SECONDS_MAX;
}

int rate_limit_parse(const char *s, struct rate_limit *ret)
{
	const char *slash = strchr(s, '/');
	char requests[16];
	uint64_t n, m;
	int r;

	if (!slash || text_format(requests, sizeof(requests), "%.*s", (int)MIN(slash - s, 64), s) < 0)
		return -EINVAL;
	r = text_parse_u64(requests, 1, REQUESTS_MAX, &n);
	if (r >= 0)
		r = text_parse_u64(slash + 1, 1, SECONDS_MAX, &m);
	if (r >= 0)
		*ret = (struct rate_limit){ .requests = (uint32_t)n, .seconds = (uint32_t)m };
	return r;
}

int ratelimits_new(struct ratelimits **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

static void forget(struct ratelimits *r, struct bucket *b)
{
	HASH_DEL(r->buckets, b);
	free(b);
}

static void forget_all(struct ratelimits *r)
{
	struct bucket *b, *next;

	HASH_ITER(hh, r->buckets, b, next)
	forget(r, b);
}

void ratelimits_free(struct ratelimits *r)
{
	if (!r)
		return;
	forget_all(r);
	free(r);
}

void ratelimits_set(struct ratelimits *r, enum rate_mode mode, const struct rate_limit *fixed)
{
	r->mode = mode;
	r->fixed = mode == RATE_FIXED ? *fixed : (struct rate_limit){ 0 };
	forget_all(r);
}

enum rate_mode ratelimits_get(const struct ratelimits *r, struct rate_limit *ret_fixed)
{
	if (r->mode == RATE_FIXED)
		*ret_fixed = r->fixed;
	return r->mode;
}

static struct rate_limit limit_of(const struct ratelimits *r, const struct account *a)
{
	if (a->rate.requests > 0)
		return a->rate;
	if (r->mode == RATE_PLAN)
		return plan_get(a->plan)->rate;
	return r->fixed;
}

static void make_room(struct ratelimits *r, int64_t now)
{
	struct bucket *b, *next;

	if (HASH_COUNT(r->buckets) < BUCKETS_MAX)
		return;
	HASH_ITER(hh, r->buckets, b, next)
	if (b->full_us <= now)
		forget(r, b);
	if (HASH_COUNT(r->buckets) >= BUCKETS_MAX)
		forget(r, r->buckets); /* the oldest */
}

/* NULL: out of memory. */
static struct bucket *bucket_of(struct ratelimits *r, const char *key_id, int64_t now)
{
	struct bucket *b;

	HASH_FIND_STR(r->buckets, key_id, b);
	if (b)
		return b;
	make_room(r, now);
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	(void)snprintf(b->key_id, sizeof(b->key_id), "%s", key_id);
	HASH_ADD_STR(r->buckets, key_id, b);
	if (!b->hh.tbl) {
		free(b);
		return NULL;
	}
	return b;
}

static uint32_t seconds_up(int64_t us)
{
	return us > 0 ? (uint32_t)((us + 999999) / 1000000) : 0;
}

void ratelimits_take(struct ratelimits *r, const struct account *a, struct rate_verdict *ret)
{
	struct rate_limit l = limit_of(r, a);
	int64_t now = clock_now_us(), period = (int64_t)l.seconds * 1000000, cost, missing;
	struct bucket *b;

	*ret = (struct rate_verdict){ .limit = l.requests };
	if (l.requests == 0)
		return;
	b = bucket_of(r, a->key_id, now);
	if (!b)
		return;
	ret->limited = true;
	cost = MAX(period / l.requests, INT64_C(1));
	/* More is missing than fits: the limit was another one, or the clock was set back. */
	missing = MIN(MAX(b->full_us - now, INT64_C(0)), period);
	ret->refused = missing + cost > period;
	if (ret->refused)
		ret->retry_after_s = MAX(seconds_up(missing + cost - period), 1u);
	else
		missing += cost;
	b->full_us = now + missing;
	ret->remaining = (uint32_t)((period - missing) / cost);
	ret->reset_s = seconds_up(missing);
}
