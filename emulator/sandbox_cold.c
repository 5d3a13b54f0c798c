/* Resume of a paused sandbox whose processes are gone: a new slot, the snapshot unpacked into its upper, an
 * init on the same template's layers. A failure at any step leaves it paused, its snapshot untouched; only
 * when the row says running does the snapshot go. */

#include <errno.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "emulator/worker.h"

void sandbox_gone_cold(struct sandbox *sb)
{
	log_warn("%s: its processes are gone while it was paused; its disk can still be resumed", sb->row.id);
	sb->slot = NULL;
	if (sb->init)
		init_free(TAKE_PTR(sb->init));
	sb->init_lost = false;
	sandbox_leave_root(sb->m, &sb->root_fd);
	sandbox_net_stop(sb);
	exec_end_all(sb);
	linger_close_all(sb);
	if (sb->m->stopping)
		sandbox_let_go(sb);
}

void sandbox_cold_failed(struct sandbox *sb, const struct err *e)
{
	struct slot *s = TAKE_PTR(sb->slot);

	log_error("%s: not resumed: %s", sb->row.id, e->msg);
	(void)uv_timer_stop(&sb->timer);
	if (sb->job)
		job_leave(sb->job);
	if (s)
		slot_discard(s);
	if (sb->init)
		init_free(TAKE_PTR(sb->init));
	sb->init_lost = false;
	closep(&sb->root_fd);
	sandbox_net_stop(sb);
	template_ref_put(TAKE_PTR(sb->template));
	sb->row.status = SANDBOX_PAUSED;
	(void)snapshot_unclaim(&sb->m->c.snapshots, sb->row.id, NULL);
	if (store_sandbox_update(sb->m->c.store, &sb->row, NULL) < 0)
		log_error("%s: its row can't be written", sb->row.id);
	sandbox_changed(sb, e);
}

static void on_limit(uv_timer_t *t)
{
	struct err e = ERR_INIT;

	(void)err_set(&e, ERR_INTERNAL, ETIMEDOUT, NULL, "the sandbox was not ready after %d s",
		      SANDBOX_CREATE_MS / 1000);
	sandbox_cold_failed(t->data, &e);
}

void sandbox_cold_ready(struct sandbox *sb, const struct err *e, int root_fd)
{
	struct sandbox_row *row = &sb->row;
	int64_t left_ms = row->expires_ms - row->paused_ms, paused_ms = row->paused_ms, expires_ms = row->expires_ms;
	struct err own = ERR_INIT;

	if (e) {
		sandbox_cold_failed(sb, e);
		return;
	}
	sb->root_fd = root_fd;
	row->status = SANDBOX_RUNNING;
	row->expires_ms = clock_now_ms() + left_ms;
	row->paused_ms = 0;
	if (keeper_hold(sb->m->keeper, row->slot, root_fd, init_reports(sb->init),
			sb->template_digest ? sb->template_digest : "", &own) < 0 ||
	    store_sandbox_update(sb->m->c.store, row, &own) < 0) {
		row->paused_ms = paused_ms;
		row->expires_ms = expires_ms;
		sandbox_cold_failed(sb, &own);
		return;
	}
	row->memory_lost = true;
	sb->held_us = 0;
	sb->deadline_us = clock_now_us() + left_ms * 1000;
	sandbox_arm_deadline(sb);
	sandbox_meter_begin(sb);
	template_ref_put(TAKE_PTR(sb->template));
	sandbox_drop_snapshot(sb);
	log_info("%s: resumed from its disk alone", row->id);
	sandbox_tell(sb, JOURNAL_SANDBOX_RESUMED, "from its disk alone");
	sandbox_changed(sb, NULL);
}

static int run_unpack(struct job *j)
{
	const struct idmap *map = j->m->c.idmap;
	struct snapshot_dir d = j->m->c.snapshots;
	int fds[] = { j->m->c.state_fd, d.dir_fd };
	int r = worker_keep_only(fds, ARRAY_SIZE(fds));

	d.state_fd = fds[0];
	d.dir_fd = fds[1];
	return r < 0 ? r
		     : snapshot_unpack(&d, &j->snapshot, j->slot, idmap_sandbox_uid(map, 0),
				       map && map->kind == IDMAP_SINGLE, &j->shared->cancelled, &j->shared->e);
}

static void use_slot(struct sandbox *sb, const struct err *net)
{
	struct err e = ERR_INIT;

	if (sb->row.status != SANDBOX_RESUMING)
		return; /* ended meanwhile */
	if (net)
		sandbox_cold_failed(sb, net);
	else if (sandbox_use_slot(sb, &e) < 0)
		sandbox_cold_failed(sb, &e);
}

static void on_unpacked(struct job *j, const struct err *err)
{
	struct sandbox *sb = j->sb;
	struct err e = ERR_INIT;

	if (!sb || sb->row.status != SANDBOX_RESUMING)
		return;
	if (err) {
		sandbox_cold_failed(sb, err);
		return;
	}
	(void)uv_timer_start(&sb->timer, on_limit, SANDBOX_CREATE_MS, 0);
	if (strcmp(sb->row.network, "off") == 0)
		use_slot(sb, NULL);
	else if (sandbox_net_connect(sb, use_slot, &e) < 0)
		sandbox_cold_failed(sb, &e);
}

static void on_slot_ready(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;
	struct snapshot_info info;
	struct err e = ERR_INIT;
	struct job *j;

	if (err) {
		sb->slot = NULL;
		sandbox_cold_failed(sb, err);
		return;
	}
	(void)uv_timer_stop(&sb->timer); /* a large disk takes its time */
	j = snapshot_load(&sb->m->c.snapshots, sb->row.id, &info, &e) < 0 ? NULL : job_new(sb, &e);
	if (!j) {
		sandbox_cold_failed(sb, &e);
		return;
	}
	j->snapshot = info;
	j->run = run_unpack;
	j->done = on_unpacked;
	job_start(j);
}

/* The layers must be those that the snapshot is the difference to. */
static int get_template(struct sandbox *sb, const struct snapshot_info *i, struct err *e)
{
	const char *now;
	int r = template_ref_get(sb->m, i->template_name, &sb->template, e);

	if (r < 0)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
			       "the sandbox was made of template \"%s\" (%s), which is not here any more",
			       i->template_name, i->template_digest);
	now = sb->template->t->digest ? sb->template->t->digest : "";
	if (strcmp(now, i->template_digest) == 0)
		return 0;
	r = err_set(e, ERR_UNAVAILABLE, ESTALE, "template_unavailable",
		    "the sandbox was made of template \"%s\" as it was then (%s); now it is another (%s)",
		    i->template_name, i->template_digest, now);
	template_ref_put(TAKE_PTR(sb->template));
	return r;
}

static int start(struct sandbox *sb, struct err *e)
{
	const struct slot_events ev = { .ready = on_slot_ready, .dead = sandbox_on_slot_dead, .arg = sb };
	struct sandboxes *m = sb->m;
	struct slot *warm = pool_take(m, &ev, strcmp(sb->row.network, "off") != 0);
	int r;

	if (warm)
		(void)snprintf(sb->row.slot, sizeof(sb->row.slot), "%s", warm->name);
	else
		slot_new_name(sb->row.slot);
	sb->row.status = SANDBOX_RESUMING;
	r = store_sandbox_update(m->c.store, &sb->row, e);
	if (r >= 0 && !warm)
		r = slot_make(m, sb->row.slot, &sb->limits, &ev, &sb->slot, e);
	if (r < 0) {
		if (warm)
			slot_discard(warm);
		sb->row.status = SANDBOX_PAUSED;
		(void)store_sandbox_update(m->c.store, &sb->row, NULL);
		return r;
	}
	(void)uv_timer_start(&sb->timer, on_limit, SANDBOX_CREATE_MS, 0);
	if (warm) {
		sb->slot = warm;
		on_slot_ready(sb, NULL);
	}
	return 0;
}

int sandbox_resume_cold(struct sandbox *sb, const struct account *a, struct err *e)
{
	struct snapshot_info info;
	int r;

	if (sb->m->c.strict_resume)
		return err_set(
			e, ERR_NOT_READY, ESRCH, "memory_lost",
			"the processes of sandbox %s are gone; without --strict-resume its disk alone would be resumed",
			sb->row.id);
	if (sb->net_pending) /* of a try that failed: its answer would be taken for this one's */
		return err_set(e, ERR_BUSY, EBUSY, NULL, "the sandbox's network is being taken apart; try again");
	/* It may have come from elsewhere: another plan, another host. */
	r = sandbox_check_network(sb->m, plan_get(a->plan), sb->row.network, e);
	if (r >= 0)
		r = sandbox_claim(sb, e);
	if (r < 0)
		return r;
	r = snapshot_load(&sb->m->c.snapshots, sb->row.id, &info, e);
	if (r == -ENOENT)
		r = err_set(e, ERR_UNAVAILABLE, ENOENT, "snapshot_damaged", "the snapshot of %s is gone", sb->row.id);
	if (r >= 0)
		r = get_template(sb, &info, e);
	if (r < 0) {
		(void)snapshot_unclaim(&sb->m->c.snapshots, sb->row.id, NULL);
		return r;
	}
	if (!sb->template_digest)
		sb->template_digest = strdup(info.template_digest);
	r = start(sb, e);
	if (r < 0) {
		template_ref_put(TAKE_PTR(sb->template));
		(void)snapshot_unclaim(&sb->m->c.snapshots, sb->row.id, NULL);
	}
	return r;
}

/* ---- start-up ---- */

bool sandbox_has_snapshot(struct sandboxes *m, const struct sandbox_row *row, struct err *e)
{
	struct snapshot_info info;

	if (snapshot_load(&m->c.snapshots, row->id, &info, e) < 0)
		return false;
	if (info.paused_ms == row->paused_ms && row->paused_ms != 0)
		return true;
	(void)err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "its snapshot is of an earlier pause");
	return false;
}

int sandbox_load_paused(struct sandboxes *m, struct sandbox_row *row, bool *ret, struct err *e)
{
	enum sandbox_status was = row->status;
	struct err why = ERR_INIT;
	int r;

	*ret = false;
	if (was != SANDBOX_PAUSED && was != SANDBOX_PAUSING && was != SANDBOX_RESUMING)
		return 0;
	if (!sandbox_has_snapshot(m, row, &why)) {
		log_warn("%s: was %s and can't be resumed: %s", row->id, sandbox_status_name(was), why.msg);
		if (was == SANDBOX_PAUSED && why.kind == ERR_NOT_FOUND)
			row->status = SANDBOX_TERMINATED;
		return 0;
	}
	/* An earlier run may have been about to resume it. */
	r = snapshot_unclaim(&m->c.snapshots, row->id, e);
	row->status = SANDBOX_PAUSED;
	if (r >= 0 && was != SANDBOX_PAUSED)
		r = store_sandbox_update(m->c.store, row, e);
	if (r >= 0)
		r = sandbox_add_paused(m, row, e);
	*ret = r >= 0;
	return r;
}
