/* What is left over: of an earlier run at start-up, and in the trash at any time. */

#include <errno.h>
#include <string.h>
#include <time.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "emulator/worker.h"
#include "rootfs/tree.h"

/* Ends close together share a worker. */
#define TRASH_DELAY_MS 250
#define TRASH_RETRY_MS 5000

#define SWEEP_REMOVE_TRIES 500 /* of 2 ms */

/* ---- the trash ---- */

static int empty_job(void *arg)
{
	const struct sandboxes *m = arg;
	struct err e = ERR_INIT;
	struct snapshot_dir d = m->c.snapshots;
	int fds[] = { m->c.state_fd, d.dir_fd };

	if (worker_keep_only(fds, ARRAY_SIZE(fds)) < 0)
		return 1;
	d.dir_fd = fds[1];
	(void)!nice(5); /* requests come first */
	if (tree_empty_trash(fds[0], &e) < 0 || snapshot_empty_trash(&d, &e) < 0) {
		log_warn("the trash can't be emptied: %s", e.msg);
		return 1;
	}
	return 0;
}

static void on_trash_timer(uv_timer_t *t);

static void on_trash_done(void *arg, int status)
{
	struct sandboxes *m = arg;

	m->trash_running = false;
	sandboxes_save_unsaved(m);
	if (m->freeing) {
		sandboxes_maybe_free(m);
		return;
	}
	if (status != 0 && !m->stopping) {
		m->trash_pending = true;
		(void)uv_timer_start(&m->trash_timer, on_trash_timer, TRASH_RETRY_MS, 0);
	} else if (m->trash_pending) {
		sandbox_trash_kick(m);
	}
	sandboxes_check_stopped(m);
}

void sandboxes_close_roots(struct sandboxes *m)
{
	while (m->n_dead_roots > 0)
		closep(&m->dead_roots[--m->n_dead_roots]);
}

void sandbox_leave_root(struct sandboxes *m, int *fd)
{
	if (*fd < 0)
		return;
	if (m->freeing || m->n_dead_roots == ARRAY_SIZE(m->dead_roots)) {
		closep(fd);
		return;
	}
	m->dead_roots[m->n_dead_roots++] = TAKE_FD(*fd);
	sandbox_trash_kick(m);
}

static void on_trash_timer(uv_timer_t *t)
{
	struct sandboxes *m = t->data;
	struct err e = ERR_INIT;
	int r;

	m->trash_pending = false;
	m->trash_running = true;
	r = worker_run(m->c.loop, empty_job, m, on_trash_done, m, &e);
	/* It has copies of these now, and closes them first of all. */
	sandboxes_close_roots(m);
	if (r < 0) {
		log_warn("%s", e.msg);
		on_trash_done(m, 1);
	}
}

void sandbox_trash_kick(struct sandboxes *m)
{
	m->trash_pending = true;
	if (m->trash_running || m->freeing)
		return;
	if (m->stopping)
		(void)uv_timer_start(&m->trash_timer, on_trash_timer, 0, 0);
	else if (!uv_is_active((uv_handle_t *)&m->trash_timer))
		(void)uv_timer_start(&m->trash_timer, on_trash_timer, TRASH_DELAY_MS, 0);
}

void sandboxes_kick_trash(struct sandboxes *m)
{
	sandbox_trash_kick(m);
}

/* ---- start-up ---- */

struct names {
	struct sandboxes *m;
	char (*v)[KEEPER_SLOT_SIZE];
	size_t n, cap;
};

/* Collected first: removing from a directory while walking it may skip entries (readdir(3)). */
static int add_name(void *arg, const char *slot)
{
	struct names *l = arg;

	struct slot *s;

	if (strlen(slot) >= KEEPER_SLOT_SIZE)
		return 0; /* no name of ours */
	HASH_FIND_STR(l->m->slots, slot, s);
	if (s)
		return 0; /* lives on, or takes itself apart */
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		void *p = reallocarray(l->v, cap, sizeof(*l->v));

		if (!p)
			return -ENOMEM;
		l->v = p;
		l->cap = cap;
	}
	(void)snprintf(l->v[l->n++], KEEPER_SLOT_SIZE, "%s", slot);
	return 0;
}

static void sweep_cgroups(struct sandboxes *m)
{
	const struct timespec pause = { .tv_nsec = 2000000 };
	struct names l = { .m = m };
	unsigned int tries = 0;
	int r = cgroup_each(m->c.cgroups, add_name, &l);

	if (r < 0)
		log_warn("cgroups of an earlier run can't be listed (errno %d)", -r);
	for (size_t i = 0; i < l.n; i++)
		(void)cgroup_kill(m->c.cgroups, l.v[i]);
	for (size_t i = 0; i < l.n; i++) {
		while ((r = cgroup_remove(m->c.cgroups, l.v[i])) == -EBUSY && tries++ < SWEEP_REMOVE_TRIES)
			(void)nanosleep(&pause, NULL);
		if (r < 0)
			log_warn("%s: its cgroup can't be removed (errno %d)", l.v[i], -r);
	}
	free(l.v);
}

static int sweep_folders(struct sandboxes *m, struct err *e)
{
	struct names l = { .m = m };
	int r = tree_each_slot(m->c.state_fd, add_name, &l);

	if (r < 0)
		(void)err_errno(e, -r, "can't list what an earlier run left");
	for (size_t i = 0; i < l.n && r >= 0; i++)
		r = tree_trash_slot(m->c.state_fd, l.v[i], e);
	free(l.v);
	return r < 0 ? r : 0;
}

struct rows {
	struct sandbox_row *v;
	size_t n, cap;
};

static int add_row(void *arg, const struct sandbox_row *row)
{
	struct rows *l = arg;
	int r;

	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 16;
		void *p = reallocarray(l->v, cap, sizeof(*l->v));

		if (!p)
			return -ENOMEM;
		l->v = p;
		l->cap = cap;
	}
	r = sandbox_row_copy(row, &l->v[l->n]);
	if (r >= 0)
		l->n++;
	return r;
}

/* Its end was under way, and why was written down before. */
static bool was_ending(const struct sandbox_row *row)
{
	return row->status == SANDBOX_TERMINATING && row->termination_reason[0];
}

/* One whose processes live goes on; of the others a paused one can, and the rest is over. */
static int settle_row(struct sandboxes *m, struct sandbox_row *row, struct err *e)
{
	bool settled = false;
	int r = sandbox_adopt(m, row, &settled, e);

	if (r >= 0 && !settled)
		r = sandbox_load_paused(m, row, &settled, e);
	if (r < 0 || settled)
		return r;
	row->terminated_ms = clock_now_ms();
	if (row->status == SANDBOX_TERMINATED) {
		(void)snprintf(row->termination_reason, sizeof(row->termination_reason), SANDBOX_MOVED);
		return store_sandbox_update(m->c.store, row, e);
	}
	if (was_ending(row)) {
		row->status = SANDBOX_TERMINATED;
		return store_sandbox_update(m->c.store, row, e);
	}
	free(row->failure);
	row->failure = strdup(row->status == SANDBOX_CREATING ? "the emulator stopped while it was being created"
							      : "its processes ended while no emulator was there");
	row->status = SANDBOX_FAILED;
	(void)snprintf(row->termination_reason, sizeof(row->termination_reason), "failed");
	log_info("%s: left by an earlier run; marked as failed", row->id);
	return store_sandbox_update(m->c.store, row, e);
}

static int sweep_rows(struct sandboxes *m, struct err *e)
{
	struct rows l = { 0 };
	int r = store_sandbox_each_live(m->c.store, add_row, &l, e);

	for (size_t i = 0; i < l.n; i++) {
		if (r >= 0)
			r = settle_row(m, &l.v[i], e);
		sandbox_row_clear(&l.v[i]);
	}
	free(l.v);
	return r < 0 ? r : 0;
}

static enum snapshot_fate snapshot_fate(void *arg, const char *id)
{
	struct sandboxes *m = arg;
	struct sandbox_row row = { 0 };
	enum snapshot_fate fate;
	struct sandbox *sb;

	HASH_FIND(hh, m->by_id, id, strlen(id), sb);
	if (sb)
		return sb->row.status == SANDBOX_PAUSED ? SNAPSHOT_KEEP : SNAPSHOT_OVER;
	if (strlen(id) >= SANDBOX_ID_SIZE || store_sandbox_get(m->c.store, id, &row, NULL) < 0)
		return SNAPSHOT_STRANGE;
	fate = sandbox_is_moved(&row) ? SNAPSHOT_STRANGE : SNAPSHOT_OVER;
	sandbox_row_clear(&row);
	return fate;
}

int sandboxes_sweep(struct sandboxes *m, struct err *e)
{
	int r = sandboxes_list_kept(m, e);

	if (r >= 0)
		r = sweep_rows(m, e);
	if (r < 0)
		return r;
	sandboxes_drop_unused(m);
	sweep_cgroups(m);
	r = sweep_folders(m, e);
	/* A claim of the run before is of a resume that did not come to be: the sandbox is paused. */
	if (r >= 0)
		r = snapshot_reclaim(&m->c.snapshots, snapshot_fate, m, e);
	if (r >= 0) {
		sandboxes_look(m); /* what was imported meanwhile is not strange */
		r = snapshot_sweep(&m->c.snapshots, snapshot_fate, m, e);
	}
	if (r >= 0)
		r = sandboxes_net_restate(m, e);
	/* Also what a killed worker left in the trash itself. */
	sandbox_trash_kick(m);
	return r;
}
