#include "emulator/meter.h"

#include <errno.h>
#include <string.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "emulator/base/clock.h"
#include "emulator/store.h"

#define KEY_SIZE 80
#define WINDOW_MS (METER_SAMPLES * INT64_C(1000))
#define BILLS_MAX 4096 /* kept beyond those that are to be written */

/* An account in a month. */
struct bill {
	char key[KEY_SIZE]; /* "202605 acc_..." */
	int month;
	struct usage used;
	bool dirty;
	UT_hash_handle hh;
};

struct metered {
	struct metered *prev, *next;
	struct meter *m;
	char id[SANDBOX_ID_SIZE], account[64], slot[32];
	struct meter_totals totals;
	uint64_t seen_usec;
	int64_t at_us; /* clock_now_us of the last reading */
	bool dirty;

	/* since the last sample; host's time: that is what a program computes in */
	int64_t sample_us;
	uint64_t sample_cpu_usec;
	struct meter_sample ring[METER_SAMPLES];
	size_t n_ring, next_ring;
};

struct meter {
	struct store *store;
	struct bill *bills;
	struct metered *running;
};

int meter_new(struct store *s, struct meter **ret)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	(*ret)->store = s;
	return 0;
}

static void drop(struct meter *m, struct bill *b)
{
	HASH_DEL(m->bills, b);
	free(b);
}

void meter_free(struct meter *m)
{
	struct bill *b, *next;

	if (!m)
		return;
	HASH_ITER(hh, m->bills, b, next)
	drop(m, b);
	free(m);
}

/* ---- accounts ---- */

static void make_room(struct meter *m)
{
	struct bill *b, *next;

	if (HASH_COUNT(m->bills) < BILLS_MAX)
		return;
	HASH_ITER(hh, m->bills, b, next)
	{
		if (!b->dirty)
			drop(m, b);
	}
}

static int bill_of(struct meter *m, const char *account, int month, struct bill **ret, struct err *e)
{
	struct store_usage u = { 0 };
	char key[KEY_SIZE];
	struct bill *b;
	int r;

	(void)snprintf(key, sizeof(key), "%d %s", month, account);
	HASH_FIND_STR(m->bills, key, b);
	if (b) {
		*ret = b;
		return 0;
	}
	r = m->store ? store_usage_month_get(m->store, account, month, &u, e) : 0;
	if (r < 0)
		return r;
	make_room(m);
	b = calloc(1, sizeof(*b));
	if (!b)
		return err_errno(e, ENOMEM, "the meter");
	memcpy(b->key, key, sizeof(b->key));
	b->month = month;
	b->used = (struct usage){ .cpu_usec = u.cpu_usec, .mem_kib_ms = u.mem_kib_ms };
	HASH_ADD_STR(m->bills, key, b);
	if (!b->hh.tbl) {
		free(b);
		return err_errno(e, ENOMEM, "the meter");
	}
	*ret = b;
	return 0;
}

int meter_usage(struct meter *m, const char *account, struct usage *ret, struct err *e)
{
	struct bill *b;
	int r = bill_of(m, account, clock_month_number(clock_now_ms()), &b, e);

	if (r >= 0)
		*ret = b->used;
	return r;
}

int meter_usage_set(struct meter *m, const char *account, const struct usage *u, struct err *e)
{
	struct bill *b;
	int r = bill_of(m, account, clock_month_number(clock_now_ms()), &b, e);

	if (r < 0)
		return r;
	b->used = *u;
	b->dirty = true;
	return meter_flush(m, e);
}

int meter_forget(struct meter *m, const char *account, struct err *e)
{
	struct bill *b, *next;
	int r = m->store ? store_usage_forget(m->store, account, e) : 0;

	if (r < 0)
		return r;
	HASH_ITER(hh, m->bills, b, next)
	if (!account || strcmp(strchr(b->key, ' ') + 1, account) == 0)
		drop(m, b);
	return 0;
}

/* ---- sandboxes ---- */

static struct metered *find(const struct meter *m, const char *id)
{
	struct metered *md;

	DL_FOREACH(m->running, md)
	if (strcmp(md->id, id) == 0)
		return md;
	return NULL;
}

static void totals_of(const struct store_usage *u, struct meter_totals *ret)
{
	*ret = (struct meter_totals){ .used = { .cpu_usec = u->cpu_usec, .mem_kib_ms = u->mem_kib_ms },
				      .run_ms = u->run_ms,
				      .peak_bytes = u->peak_bytes };
}

int meter_totals(struct meter *m, const char *sandbox_id, struct meter_totals *ret, struct err *e)
{
	struct store_usage u = { 0 };
	struct metered *md = find(m, sandbox_id);
	int r = 0;

	if (md) {
		metered_totals(md, ret);
		return 0;
	}
	if (m->store)
		r = store_usage_get(m->store, sandbox_id, &u, e);
	if (r >= 0)
		totals_of(&u, ret);
	return r;
}

int metered_begin(struct meter *m, const char *id, const char *account, const char *slot, uint64_t cpu_usec,
		  struct metered **ret, struct err *e)
{
	int64_t now_us = clock_now_us(), gap_ms;
	struct store_usage u = { 0 };
	struct metered *md;
	int r = m->store ? store_usage_get(m->store, id, &u, e) : 0;

	if (r < 0)
		return r;
	md = calloc(1, sizeof(*md));
	if (!md)
		return err_errno(e, ENOMEM, "the meter");
	md->m = m;
	(void)snprintf(md->id, sizeof(md->id), "%s", id);
	(void)snprintf(md->account, sizeof(md->account), "%s", account);
	(void)snprintf(md->slot, sizeof(md->slot), "%s", slot);
	totals_of(&u, &md->totals);
	md->seen_usec = cpu_usec;
	md->at_us = now_us;
	if (u.at_ms > 0 && strcmp(u.slot, slot) == 0 && u.seen_usec <= cpu_usec) {
		gap_ms = MAX(clock_now_ms() - u.at_ms, INT64_C(0));
		md->seen_usec = u.seen_usec;
		md->at_us -= gap_ms * 1000;
	}
	md->sample_us = clock_mono_us();
	md->sample_cpu_usec = cpu_usec;
	DL_APPEND(m->running, md);
	*ret = md;
	return 0;
}

/* The working set over that time, to the months it lies in. A bill that can't be had (the store fails) is not
 * written: the totals of the sandbox have it. */
static void charge_memory(struct metered *md, int64_t from_ms, int64_t to_ms, uint64_t kib)
{
	while (from_ms < to_ms) {
		int64_t until = MIN(clock_next_month_ms(from_ms), to_ms);
		uint64_t used = kib * (uint64_t)(until - from_ms);
		struct bill *b;

		md->totals.used.mem_kib_ms += used;
		if (bill_of(md->m, md->account, clock_month_number(from_ms), &b, NULL) == 0) {
			b->used.mem_kib_ms += used;
			b->dirty = true;
		}
		from_ms = until;
	}
}

static void charge_cpu(struct metered *md, int64_t now_ms, uint64_t usec)
{
	struct bill *b;

	md->totals.used.cpu_usec += usec;
	if (usec > 0 && bill_of(md->m, md->account, clock_month_number(now_ms), &b, NULL) == 0) {
		b->used.cpu_usec += usec;
		b->dirty = true;
	}
}

static void add_sample(struct metered *md, uint64_t cpu_usec, uint64_t working_set)
{
	int64_t now = clock_mono_us(), took = now - md->sample_us;

	if (took < METER_INTERVAL_MS * 1000 / 4)
		return; /* too short to tell anything: the next one will have it */
	md->ring[md->next_ring] = (struct meter_sample){
		.t_ms = clock_now_ms(),
		.mem_bytes = working_set,
		.cores = (double)(cpu_usec - MIN(md->sample_cpu_usec, cpu_usec)) / (double)took,
	};
	md->next_ring = (md->next_ring + 1) % METER_SAMPLES;
	md->n_ring = MIN(md->n_ring + 1, (size_t)METER_SAMPLES);
	md->sample_us = now;
	md->sample_cpu_usec = cpu_usec;
}

void metered_take(struct metered *md, uint64_t cpu_usec, uint64_t working_set, bool sample)
{
	int64_t now_us = clock_now_us(), now_ms = clock_now_ms();
	/* Whole milliseconds; the rest waits for the next reading. Never negative: a clock that was set back. */
	int64_t took_ms = MAX((now_us - md->at_us) / 1000, INT64_C(0));

	charge_memory(md, now_ms - took_ms, now_ms, working_set / 1024);
	charge_cpu(md, now_ms, cpu_usec - MIN(md->seen_usec, cpu_usec));
	md->totals.run_ms += (uint64_t)took_ms;
	md->totals.peak_bytes = MAX(md->totals.peak_bytes, working_set);
	md->seen_usec = MAX(md->seen_usec, cpu_usec);
	md->at_us = now_us < md->at_us ? now_us : md->at_us + took_ms * 1000;
	md->dirty = true;
	if (sample)
		add_sample(md, cpu_usec, working_set);
}

void metered_totals(const struct metered *md, struct meter_totals *ret)
{
	*ret = md->totals;
}

size_t metered_samples(const struct metered *md, int64_t since_ms, struct meter_sample ret[static METER_SAMPLES])
{
	int64_t after = MAX(since_ms, clock_now_ms() - WINDOW_MS);
	size_t n = 0;

	for (size_t i = 0; i < md->n_ring; i++) {
		const struct meter_sample *s =
			&md->ring[(md->next_ring + METER_SAMPLES - md->n_ring + i) % METER_SAMPLES];

		if (s->t_ms > after)
			ret[n++] = *s;
	}
	return n;
}

double metered_cores(const struct metered *md)
{
	int64_t took = clock_mono_us() - md->sample_us;

	if (md->n_ring > 0)
		return md->ring[(md->next_ring + METER_SAMPLES - 1) % METER_SAMPLES].cores;
	return took > 0 ? (double)(md->seen_usec - MIN(md->sample_cpu_usec, md->seen_usec)) / (double)took : 0;
}

/* ---- the store ---- */

static void row_of(const struct metered *md, bool over, struct store_usage *ret)
{
	*ret = (struct store_usage){
		.seen_usec = md->seen_usec,
		.at_ms = over ? 0 : clock_now_ms() - MAX(clock_now_us() - md->at_us, INT64_C(0)) / 1000,
		.cpu_usec = md->totals.used.cpu_usec,
		.mem_kib_ms = md->totals.used.mem_kib_ms,
		.run_ms = md->totals.run_ms,
		.peak_bytes = md->totals.peak_bytes
	};
	(void)snprintf(ret->slot, sizeof(ret->slot), "%s", md->slot);
}

static int write_sandbox(struct metered *md, bool over, struct err *e)
{
	struct store_usage u;

	row_of(md, over, &u);
	return store_usage_put(md->m->store, md->id, &u, e);
}

static const char *account_of(const struct bill *b)
{
	return strchr(b->key, ' ') + 1;
}

/* account: only what is that account's, or NULL. over: of that account, and written as one that runs no more. */
static int write_changed(struct meter *m, const char *account, struct metered *over, struct err *e)
{
	struct metered *md;
	struct bill *b, *next;
	int r = 0;

	DL_FOREACH(m->running, md)
	{
		if (r >= 0 && (md->dirty || md == over) && (!account || strcmp(md->account, account) == 0))
			r = write_sandbox(md, md == over, e);
	}
	HASH_ITER(hh, m->bills, b, next)
	{
		struct store_usage u = { .cpu_usec = b->used.cpu_usec, .mem_kib_ms = b->used.mem_kib_ms };

		if (r >= 0 && b->dirty && (!account || strcmp(account_of(b), account) == 0))
			r = store_usage_month_put(m->store, account_of(b), b->month, &u, e);
	}
	return r;
}

/* Written: a bill that nobody has touched since is not kept, or --auth any would make them ever more. */
static void settle(struct meter *m, const char *account)
{
	struct metered *md;
	struct bill *b, *next;

	DL_FOREACH(m->running, md)
	{
		if (!account || strcmp(md->account, account) == 0)
			md->dirty = false;
	}
	HASH_ITER(hh, m->bills, b, next)
	{
		if (account && strcmp(account_of(b), account) != 0)
			continue;
		if (!b->dirty)
			drop(m, b);
		else
			b->dirty = false;
	}
}

/* The whole of an account, or of all: a sandbox's row without its account's would be charged twice after a crash. */
static int flush(struct meter *m, const char *account, struct metered *over, struct err *e)
{
	int r, k;

	if (!m->store)
		return 0;
	r = store_begin(m->store, e);
	if (r < 0)
		return r;
	r = write_changed(m, account, over, e);
	k = store_end(m->store, r >= 0, r >= 0 ? e : NULL);
	if (r >= 0)
		r = k;
	if (r >= 0)
		settle(m, account);
	return r;
}

int meter_flush(struct meter *m, struct err *e)
{
	return flush(m, NULL, NULL, e);
}

int metered_end(struct metered *md, struct err *e)
{
	struct meter *m = md->m;
	int r = flush(m, md->account, md, e);

	DL_DELETE(m->running, md);
	free(md);
	return r;
}
