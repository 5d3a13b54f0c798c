/* The warm pool: slots whose init is parked, made before anybody asks. A create then only mounts the
 * overlay and pivots; clone3, the cgroups (on v1 a move can cost milliseconds of RCU) and the staged
 * mounts are behind it. Nothing of a parked init depends on who will use it: it has seen no template, no
 * name and no environment.
 *
 * Some may be connected to the gateway already: as many as the last creates make likely, none where nobody asks
 * for a network. Nothing runs in them, and the egress process knows nothing of them, so what their interface would
 * let through is nothing yet. A sandbox that is off gets one that never had an interface.
 *
 * The pool refills one slot at a time, a moment after one was taken, so as not to get in the way of the
 * request that took it. A create that finds it empty makes its slot itself. */

#include <errno.h>
#include <string.h>

#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"

#define REFILL_MS 3
#define RETRY_MS 5000 /* after a failure: the host is short of something */
#define REMEMBERED 8  /* creates */

struct parked {
	struct parked *next;
	struct sandboxes *m;
	struct slot *slot;
	bool ready, connecting;
	bool dead; /* while it was connecting */
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
	p->dead = true;
	if (!p->connecting)
		free(p);
}

/* ---- those with a network ---- */

static uint32_t count_connected(const struct sandboxes *m)
{
	const struct parked *p;
	uint32_t n = 0;

	LL_FOREACH(m->pool, p)
	n += p->connecting || p->slot->net_number;
	return n;
}

/* In the proportion of the last creates, rounded up; but one stays free of it while anybody wants that. */
static uint32_t wanted_connected(const struct sandboxes *m)
{
	uint32_t recent = (uint32_t)__builtin_popcount(m->pool_recent);
	uint32_t n = (recent * m->c.warm + REMEMBERED - 1) / REMEMBERED;

	return recent < REMEMBERED && n >= m->c.warm ? m->c.warm - 1 : n;
}

static void on_connected(void *arg, const struct err *e)
{
	struct parked *p = arg;
	struct sandboxes *m = p->m;

	p->connecting = false;
	if (p->dead) {
		free(p);
		return;
	}
	if (e) {
		log_warn("a sandbox of the warm pool could not be connected: %s", e->msg);
		slot_discard(p->slot);
		drop(p);
	}
	schedule(m, e ? RETRY_MS : REFILL_MS);
}

static void connect_one(struct sandboxes *m)
{
	struct parked *p;

	LL_FOREACH(m->pool, p)
	if (p->ready && !p->connecting && !p->slot->net_number)
		break;
	if (!p || m->egress_lost)
		return;
	p->connecting = true;
	if (slot_connect(p->slot, on_connected, p) < 0)
		p->connecting = false;
}

static void drop_connected(struct sandboxes *m)
{
	struct parked *p;

	LL_FOREACH(m->pool, p)
	if (p->ready && !p->connecting && p->slot->net_number)
		break;
	if (!p)
		return;
	slot_discard(p->slot);
	drop(p);
	schedule(m, REFILL_MS);
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

	if (m->stopping || m->freeing || m->keeper_lost)
		return;
	if (m->n_pool >= m->c.warm) {
		uint32_t have = count_connected(m), want = wanted_connected(m);

		if (have < want)
			connect_one(m);
		else if (have > want)
			drop_connected(m);
		return;
	}
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

struct slot *pool_take(struct sandboxes *m, const struct slot_events *ev, bool networked)
{
	struct parked *p, *found = NULL;
	struct slot *s;

	m->pool_recent = (m->pool_recent << 1 | networked) & ((1u << REMEMBERED) - 1);
	LL_FOREACH(m->pool, p)
	{
		bool connected = p->slot->net_number != 0;

		/* One without can still be connected; one with can't be taken for one without. */
		if (!p->ready || p->connecting || (connected && !networked))
			continue;
		if (!found || connected)
			found = p;
	}
	if (!found) {
		schedule(m, REFILL_MS);
		return NULL;
	}
	s = found->slot;
	s->ev = *ev;
	drop(found);
	schedule(m, REFILL_MS);
	return s;
}
