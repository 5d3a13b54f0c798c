/* Pause, and the resume of processes that are still there.
 *
 *   pause   row "pausing" -> in a worker: freeze, look at the processes, write the snapshot -> row "paused"
 *   resume  row "running" -> thaw -> the snapshot goes
 *
 * Each row is written before the step it names is relied upon. A crash leaves "pausing" (processes frozen or
 * not: they go on, or are gone; the snapshot then counts if it is of this very pause, told by paused_ms),
 * "paused" with its snapshot whole, or "running" with a snapshot that means nothing and is swept away.
 *
 * The clocks (the lifetime, the commands' time-outs and durations) stand still from the pause's beginning:
 * a sandbox that was paused for an hour has as much time left as before. expires_ms in the row is not
 * touched while it is paused: less paused_ms it is the time left. */

#include <errno.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "emulator/snapshot_row.h"
#include "emulator/worker.h"

int sandbox_not_ready(const char *id, enum sandbox_status status, const char *wanted, struct err *e)
{
	return err_set(e, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "sandbox %.40s is %s, not %s", id,
		       sandbox_status_name(status), wanted);
}

void sandbox_changed(struct sandbox *sb, const struct err *e)
{
	struct waiter *w = TAKE_PTR(sb->changer);

	if (w)
		w->done(w->arg, e, e ? NULL : &sb->row);
	free(w);
	sandboxes_check_stopped(sb->m);
}

void sandbox_drop_snapshot(struct sandbox *sb)
{
	struct err e = ERR_INIT;

	if (!sb->snapshot)
		return;
	sb->snapshot = false;
	if (snapshot_discard(&sb->m->c.snapshots, sb->row.id, &e) < 0)
		log_warn("%s: its snapshot stays until the next start: %s", sb->row.id, e.msg);
	else
		sandbox_trash_kick(sb->m);
}

/* ---- the clocks ---- */

void sandbox_hold_clocks(struct sandbox *sb)
{
	sb->held_us = clock_mono_us();
	sb->held_offset_ms = clock_offset_ms();
	(void)uv_timer_stop(&sb->timer);
	exec_hold_all(sb);
	sandbox_meter_end(sb);
}

static void release_clocks(struct sandbox *sb)
{
	int64_t held = clock_mono_us() - sb->held_us;

	sb->held_us = 0;
	sb->deadline_us += held + (clock_offset_ms() - sb->held_offset_ms) * 1000;
	sandbox_arm_deadline(sb);
	exec_release_all(sb, held);
	sandbox_meter_begin(sb);
}

/* The row of one that runs again. */
static void row_running(struct sandbox_row *row)
{
	row->status = SANDBOX_RUNNING;
	row->expires_ms += MAX(clock_now_ms() - row->paused_ms, INT64_C(0));
	row->paused_ms = 0;
}

/* ---- pause ---- */

static int run_pause(struct job *j)
{
	struct sandboxes *m = j->m;
	struct err *e = &j->shared->e;
	struct snapshot_spec s = {
		.id = j->id,
		.slot = j->slot,
		.template_name = j->template_name,
		.template_digest = j->template_digest,
		.paused_ms = j->paused_ms,
		.sandbox_uid = idmap_sandbox_uid(m->c.idmap, 0),
		.single_id = m->c.idmap && m->c.idmap->kind == IDMAP_SINGLE,
		.row = j->row,
		.cancelled = &j->shared->cancelled,
	};
	struct snapshot_dir d = m->c.snapshots;
	int fds[] = { m->c.state_fd, d.dir_fd };
	struct snapshot_info info;
	int r = cgroup_freeze(m->c.cgroups, j->slot, true, e);

	if (r == -ETIMEDOUT)
		return err_set(e, ERR_BUSY, EBUSY, "pause_busy",
			       "a process of the sandbox is busy with a disk and can't be frozen now");
	if (r < 0)
		return r;
	sandbox_collect_processes(m->c.cgroups, j->slot, &s.processes, &s.ports);
	r = worker_keep_only(fds, ARRAY_SIZE(fds));
	d.state_fd = fds[0];
	d.dir_fd = fds[1];
	return r < 0 ? r : snapshot_write(&d, &s, &info, e);
}

/* It could not be paused: on it goes. */
static void unpause(struct sandbox *sb, const struct err *why)
{
	struct sandboxes *m = sb->m;
	struct err e = ERR_INIT;

	log_warn("%s: not paused: %s", sb->row.id, why->msg);
	row_running(&sb->row);
	if (store_sandbox_update(m->c.store, &sb->row, &e) < 0)
		log_error("%s: its row can't be written: %s", sb->row.id, e.msg);
	if (cgroup_freeze(m->c.cgroups, sb->slot->name, false, &e) < 0)
		log_error("%s: %s", sb->row.id, e.msg);
	release_clocks(sb);
	sandbox_drop_snapshot(sb);
	sandbox_changed(sb, why);
}

static void on_paused(struct job *j, const struct err *e)
{
	struct sandbox *sb = j->sb;
	struct err own = ERR_INIT;

	if (!sb) {
		/* It ended meanwhile; so does what was written of it. */
		if (snapshot_discard(&j->m->c.snapshots, j->id, NULL) == 0)
			sandbox_trash_kick(j->m);
		return;
	}
	sb->snapshot = true;
	if (sb->row.status != SANDBOX_PAUSING)
		return; /* it is ending */
	if (e) {
		unpause(sb, e);
		return;
	}
	sb->row.status = SANDBOX_PAUSED;
	if (store_sandbox_update_synced(sb->m->c.store, &sb->row, &own) < 0 &&
	    snapshot_claim(&sb->m->c.snapshots, sb->row.id, NULL) == 0) {
		unpause(sb, &own);
		return;
	}
	sandbox_tell(sb, JOURNAL_SANDBOX_PAUSED, NULL);
	sandbox_changed(sb, NULL);
}

static int check_pause(struct sandboxes *m, const struct account *a, const struct sandbox *sb, struct err *e)
{
	const struct plan *p = plan_get(a->plan);
	const struct sandbox *other, *next;
	uint32_t n = 0;

	if (sb->row.status != SANDBOX_RUNNING || sb->init_lost)
		return sandbox_not_ready(sb->row.id, sb->row.status, "running", e);
	if (!cgroup_root_features(m->c.cgroups)->freeze)
		return err_set(
			e, ERR_UNSUPPORTED, EOPNOTSUPP, "pause_unsupported",
			"pausing needs a cgroup that can be frozen, which this host does not give the emulator: see "
			"`orkestr-emulator doctor`");
	if (m->stopping)
		return err_set(e, ERR_CAPACITY, ESHUTDOWN, NULL, "the emulator is stopping");
	sandboxes_look(m);
	HASH_ITER(hh, m->by_id, other, next)
	n += (other->row.status == SANDBOX_PAUSED || other->row.status == SANDBOX_PAUSING) &&
	     strcmp(other->row.account, a->id) == 0;
	if (n >= p->max_snapshots)
		return err_set(e, ERR_PLAN, EAGAIN, "snapshot_cap_reached",
			       "plan \"%s\" keeps %u snapshots; resume or terminate a paused sandbox first", p->name,
			       p->max_snapshots);
	return 0;
}

/* Answers with the row as it is. */
static int answer_now(struct sandbox *sb, sandbox_done_fn done, void *arg, struct err *e)
{
	struct sandbox_row row = { 0 };

	if (sandbox_row_copy(&sb->row, &row) < 0 || sandbox_defer(sb->m, done, arg, &row) < 0) {
		sandbox_row_clear(&row);
		return err_errno(e, ENOMEM, "can't answer");
	}
	return 0;
}

static int find(struct sandboxes *m, const struct account *a, const char *id, const char *wanted, struct sandbox **ret,
		struct err *e)
{
	struct sandbox_row row = { 0 };
	int r;

	*ret = sandbox_find(m, a, id);
	if (*ret)
		return 0;
	r = sandbox_stored_row(m, a, id, &row, e);
	if (r >= 0)
		r = sandbox_not_ready(id, row.status, wanted, e);
	sandbox_row_clear(&row);
	return r;
}

static int begin_pause(struct sandbox *sb, struct waiter *w, struct err *e)
{
	struct job *j;
	int r;

	sb->row.status = SANDBOX_PAUSING;
	sb->row.paused_ms = clock_now_ms();
	j = job_new(sb, e);
	if (j)
		j->row = snapshot_row_to_json(&sb->row);
	r = j ? store_sandbox_update(sb->m->c.store, &sb->row, e) : -ENOMEM;
	if (!j || r < 0) {
		if (j)
			job_drop(j);
		sb->row.status = SANDBOX_RUNNING;
		sb->row.paused_ms = 0;
		return r;
	}
	j->run = run_pause;
	j->done = on_paused;
	sb->changer = w;
	sandbox_hold_clocks(sb);
	job_start(j);
	return 0;
}

int sandbox_pause(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
		  struct err *e)
{
	struct sandbox *sb;
	struct waiter *w;
	int r = find(m, a, id, "running", &sb, e);

	if (r < 0)
		return r;
	if (sb->row.status == SANDBOX_PAUSED)
		return answer_now(sb, done, arg, e);
	r = check_pause(m, a, sb, e);
	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_errno(e, ENOMEM, "can't pause the sandbox");
	*w = (struct waiter){ .done = done, .arg = arg };
	r = begin_pause(sb, w, e);
	if (r < 0)
		free(w);
	return r;
}

/* ---- resume ---- */

int sandbox_claim(struct sandbox *sb, struct err *e)
{
	int r = snapshot_claim(&sb->m->c.snapshots, sb->row.id, e);

	if (r == -ENOENT)
		r = err_set(e, ERR_NOT_READY, ESTALE, "sandbox_not_ready",
			    "the snapshot of sandbox %s was taken or removed by somebody else", sb->row.id);
	return r;
}

static int resume_live(struct sandbox *sb, struct err *e)
{
	struct sandboxes *m = sb->m;
	int64_t paused_ms = sb->row.paused_ms, expires_ms = sb->row.expires_ms;
	int r = sandbox_claim(sb, e);

	if (r < 0)
		return r;
	row_running(&sb->row);
	r = store_sandbox_update(m->c.store, &sb->row, e);
	if (r == 0) {
		r = cgroup_freeze(m->c.cgroups, sb->slot->name, false, e);
		if (r == 0) {
			release_clocks(sb);
			sandbox_drop_snapshot(sb);
			sandbox_tell(sb, JOURNAL_SANDBOX_RESUMED, NULL);
			return 0;
		}
	}
	sb->row.status = SANDBOX_PAUSED;
	sb->row.paused_ms = paused_ms;
	sb->row.expires_ms = expires_ms;
	(void)store_sandbox_update(m->c.store, &sb->row, NULL);
	(void)snapshot_unclaim(&m->c.snapshots, sb->row.id, NULL);
	return r;
}

int sandbox_resume(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
		   struct err *e)
{
	struct sandbox *sb;
	struct waiter *w;
	int r = find(m, a, id, "paused", &sb, e);

	if (r < 0)
		return r;
	if (sb->row.status == SANDBOX_RUNNING && !sb->init_lost)
		return answer_now(sb, done, arg, e);
	if (sb->row.status != SANDBOX_PAUSED)
		return sandbox_not_ready(id, sb->row.status, "paused", e);
	if (m->stopping)
		return err_set(e, ERR_CAPACITY, ESHUTDOWN, NULL, "the emulator is stopping");
	r = sandbox_check_concurrent(m, a, e);
	if (r < 0)
		return r;
	if (sb->slot && !sb->init_lost) {
		r = resume_live(sb, e);
		return r < 0 ? r : answer_now(sb, done, arg, e);
	}
	if (sb->slot) /* its init broke the protocol and is being ended */
		return err_set(e, ERR_BUSY, EBUSY, NULL, "the sandbox's processes are being ended; try again");
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_errno(e, ENOMEM, "can't resume the sandbox");
	*w = (struct waiter){ .done = done, .arg = arg };
	sb->changer = w;
	r = sandbox_resume_cold(sb, a, e);
	if (r < 0)
		free(TAKE_PTR(sb->changer));
	return r;
}
