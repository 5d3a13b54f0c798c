/* The warm pool: slots whose init is parked, made before anybody asks. A create then only mounts the
 * overlay and pivots; clone3, the cgroups (on v1 a move can cost milliseconds of RCU) and the staged
 * mounts are behind it. Nothing of a parked init depends on who will use it: it has seen no template, no
 * name and no environment.
 *
 * The pool refills one slot at a time, a moment after one was taken, so as not to get in the way of the
 * request that took it. A create that finds it empty makes its slot itself. */

#include <errno.h>
#include <string.h>

#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"

#define REFILL_MS 3
#define RETRY_MS 5000 /* after a failure: the host is short of something */

struct parked {
	struct parked *next;
	struct sandboxes *m;
	struct slot *slot;
	bool ready;
};

/* The smallest size's; a bigger sandbox's are set when it takes the slot. */
static const struct cgroup_limits parked_limits = { .cpu_millis = 500,
						    .memory_bytes = UINT64_C(512) << 20,
						    .pids_max = 512 };

static void refill(struct sandboxes *m);

static void on_timer(uv_timer_t *t)
{
	refill(t->data);
}

static void schedule(struct sandboxes *m, unsigned int ms)
{
	if (!m->stopping && !m->freeing && !m->keeper_lost && !uv_is_active((uv_handle_t *)&m->pool_timer))
		(void)uv_timer_start(&m->pool_timer, on_timer, ms, 0);
}

static void drop(struct parked *p)
{
	LL_DELETE(p->m->pool, p);
	p->m->n_pool--;
	free(p);
}

static void on_ready(void *arg, const struct err *e)
{
	struct parked *p = arg;
	struct sandboxes *m = p->m;

	if (e) {
		log_warn("the warm pool could not be filled: %s", e->msg);
		drop(p);
		schedule(m, RETRY_MS);
		return;
	}
	p->ready = true;
	schedule(m, REFILL_MS);
}

static void on_dead(void *arg, int status)
{
	struct parked *p = arg;
	struct sandboxes *m = p->m;
	(void)status;

	drop(p);
	schedule(m, RETRY_MS);
}

static void refill(struct sandboxes *m)
{
	struct slot_events ev = { .ready = on_ready, .dead = on_dead };
	char name[KEEPER_SLOT_SIZE];
	struct err e = ERR_INIT;
	struct parked *p;

	if (m->stopping || m->freeing || m->keeper_lost || m->n_pool >= m->c.warm)
		return;
	p = calloc(1, sizeof(*p));
	if (!p)
		return;
	*p = (struct parked){ .m = m };
	ev.arg = p;
	slot_new_name(name);
	if (slot_make(m, name, &parked_limits, &ev, &p->slot, &e) < 0) {
		log_warn("the warm pool could not be filled: %s", e.msg);
		free(p);
		schedule(m, RETRY_MS);
		return;
	}
	LL_PREPEND(m->pool, p);
	m->n_pool++;
}

void pool_start(struct sandboxes *m)
{
	schedule(m, 0);
}

struct slot *pool_take(struct sandboxes *m, const struct slot_events *ev)
{
	struct parked *p;
	struct slot *s;

	LL_FOREACH(m->pool, p)
	if (p->ready)
		break;
	if (!p)
		return NULL;
	s = p->slot;
	s->ev = *ev;
	drop(p);
	schedule(m, REFILL_MS);
	return s;
}
