/* The meter's readings: who runs is looked at once a second, and whenever its running begins or ends.
 *
 * Most of a thousand sandboxes are idle. One whose counter of CPU time and charged memory stand where they stood has not
 * changed its cache either, so the one reading that costs (memory.stat) is left out for it; now and then it is taken all
 * the same. */

#include <errno.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/meter.h"
#include "emulator/procusage.h"
#include "emulator/sandbox-internal.h"

#define FLUSH_TICKS 5
#define CACHE_TICKS 15 /* the cache of one that looks idle is read every so many readings */

struct sandbox_meter {
	struct metered *metered;
	struct cgroup_gauge gauge;
	uint64_t cpu_usec, charged, cache, working_set; /* of the last reading */
	unsigned int skipped;
};

/* Where the cgroup does not count, the processes are asked. A value that can't be had stays what it was. */
static void read_usage(struct sandbox *sb, struct sandbox_meter *sm)
{
	uint64_t cpu = sm->cpu_usec, charged = sm->charged, proc_cpu, proc_memory;
	bool no_cpu, no_memory, same;

	no_cpu = cgroup_gauge_cpu(&sm->gauge, &cpu) == -ENOTSUP;
	no_memory = cgroup_gauge_memory(&sm->gauge, &charged) == -ENOTSUP;
	if ((no_cpu || no_memory) && sb->slot && procusage_read(sb->slot->pid, &proc_cpu, &proc_memory) == 0) {
		if (no_cpu)
			sm->cpu_usec = MAX(sm->cpu_usec, proc_cpu);
		if (no_memory)
			sm->working_set = proc_memory;
	}
	same = cpu == sm->cpu_usec && charged == sm->charged;
	if (!no_cpu)
		sm->cpu_usec = cpu;
	if (no_memory)
		return;
	if (!same || ++sm->skipped >= CACHE_TICKS) {
		(void)cgroup_gauge_cache(&sm->gauge, &sm->cache);
		sm->skipped = 0;
	}
	sm->charged = charged;
	sm->working_set = charged - MIN(sm->cache, charged);
}

static void begin(struct sandbox *sb)
{
	struct sandboxes *m = sb->m;
	struct sandbox_meter *sm = calloc(1, sizeof(*sm));
	struct err e = ERR_INIT;

	if (!sm)
		return; /* the next tick tries again */
	cgroup_gauge_open(m->c.cgroups, sb->slot->name, &sm->gauge);
	read_usage(sb, sm);
	if (metered_begin(m->meter, sb->row.id, sb->row.account, sb->slot->name, sm->cpu_usec, &sm->metered, &e) < 0) {
		log_warn("%s: not metered: %s", sb->row.id, e.msg);
		cgroup_gauge_close(&sm->gauge);
		free(sm);
		return;
	}
	sb->meter = sm;
}

static void take(struct sandbox *sb, bool sample)
{
	struct sandbox_meter *sm = sb->meter;

	read_usage(sb, sm);
	metered_take(sm->metered, sm->cpu_usec, sm->working_set, sample);
}

void sandbox_meter_end(struct sandbox *sb)
{
	struct sandbox_meter *sm = sb->meter;
	struct err e = ERR_INIT;

	if (!sm)
		return;
	take(sb, false);
	sb->meter = NULL;
	if (metered_end(sm->metered, &e) < 0)
		log_warn("%s: what it used is not written: %s", sb->row.id, e.msg);
	cgroup_gauge_close(&sm->gauge);
	free(sm);
}

static bool runs(const struct sandbox *sb)
{
	return sb->row.status == SANDBOX_RUNNING && sb->slot;
}

static void on_tick(uv_timer_t *t)
{
	struct sandboxes *m = t->data;
	struct sandbox *sb, *next;
	struct err e = ERR_INIT;
	unsigned int n = 0;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		if (!runs(sb)) {
			sandbox_meter_end(sb);
			continue;
		}
		n++;
		if (!sb->meter)
			begin(sb);
		else
			take(sb, true);
	}
	if (n == 0 || ++m->meter_ticks % FLUSH_TICKS == 0) {
		if (meter_flush(m->meter, &e) < 0 && m->meter_ticks % (12 * FLUSH_TICKS) == 0)
			log_error("the usage can't be written: %s", e.msg);
	}
	if (n == 0)
		(void)uv_timer_stop(t);
}

static void start_ticking(struct sandboxes *m)
{
	if (m->stopping || uv_is_active((uv_handle_t *)&m->meter_timer))
		return;
	(void)uv_timer_start(&m->meter_timer, on_tick, METER_INTERVAL_MS, METER_INTERVAL_MS);
	uv_unref((uv_handle_t *)&m->meter_timer);
}

void sandbox_meter_begin(struct sandbox *sb)
{
	start_ticking(sb->m);
	if (!sb->meter && runs(sb))
		begin(sb);
}

void sandboxes_meter_start(struct sandboxes *m)
{
	start_ticking(m);
}

/* ---- the clock ---- */

/* What has ended on the way was charged as it ended, and a reading is split at the turn of a month: nothing is due at
 * a moment of its own. */
static void charge_all(void *arg)
{
	struct err e = ERR_INIT;
	struct sandboxes *m = arg;
	struct sandbox *sb, *next;

	HASH_ITER(hh, m->by_id, sb, next)
	if (sb->meter && runs(sb))
		take(sb, false);
	if (meter_flush(m->meter, &e) < 0)
		log_warn("the usage can't be written: %s", e.msg);
}

void sandboxes_meter_leave(struct sandboxes *m)
{
	(void)uv_timer_stop(&m->meter_timer);
	charge_all(m);
}

void sandboxes_meter_listener(struct sandboxes *m, struct vclock_listener *ret)
{
	*ret = (struct vclock_listener){ .moved = charge_all, .arg = m };
}

/* ---- what is asked ---- */

int sandbox_check_usage(struct sandboxes *m, const struct account *a, struct err *e)
{
	const struct plan *p = plan_get(a->plan);
	struct usage u;
	char resets[CLOCK_ISO_SIZE];
	int r = sandboxes_usage(m, a, &u, e);

	if (r < 0 || (usage_gb_hours(&u) < p->gb_hours && usage_cpu_hours(&u) < p->cpu_hours))
		return r;
	clock_iso(clock_next_month_ms(clock_now_ms()), resets);
	return err_set(
		e, ERR_PLAN, EDQUOT, "usage_exhausted",
		"plan \"%s\" includes %.1f GB-hours and %.1f CPU-hours a month; %.2f and %.2f are used, until %s",
		p->name, p->gb_hours, p->cpu_hours, usage_gb_hours(&u), usage_cpu_hours(&u), resets);
}

int sandboxes_usage(struct sandboxes *m, const struct account *a, struct usage *ret, struct err *e)
{
	return meter_usage(m->meter, a->id, ret, e);
}

struct meter *sandboxes_meter(struct sandboxes *m)
{
	return m->meter;
}

int sandbox_metrics(struct sandboxes *m, const struct account *a, const char *id, int64_t since_ms,
		    struct sandbox_metrics *ret, struct err *e)
{
	struct sandbox_row row = { 0 };
	struct sandbox *sb;
	int r = sandbox_get(m, a, id, &row, e);

	if (r < 0)
		return r;
	*ret = (struct sandbox_metrics){ .status = row.status,
					 .cores = row.cpu_millis / 1000.0,
					 .limit_bytes = (uint64_t)row.memory_mb << 20 };
	sandbox_row_clear(&row);
	sb = sandbox_find(m, a, id);
	if (!sb || !sb->meter || !runs(sb))
		return meter_totals(m->meter, id, &ret->lifetime, e);
	take(sb, false);
	ret->live = true;
	ret->used_cores = metered_cores(sb->meter->metered);
	ret->used_bytes = sb->meter->working_set;
	ret->n_samples = metered_samples(sb->meter->metered, since_ms, ret->samples);
	metered_totals(sb->meter->metered, &ret->lifetime);
	return 0;
}
