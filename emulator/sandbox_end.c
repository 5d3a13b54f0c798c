/* The end of a sandbox, whoever asked for it, and the answers to those who wait for it. */

#include <errno.h>
#include <string.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"

uint64_t sandbox_oom_kills(struct sandbox *sb)
{
	if (sb->slot)
		(void)cgroup_counters_oom_kills(slot_counters(sb->slot), &sb->oom_last);
	return sb->oom_last;
}

uint64_t sandbox_pids_denied(struct sandbox *sb)
{
	if (sb->slot)
		(void)cgroup_counters_pids_denied(slot_counters(sb->slot), &sb->denied_last);
	return sb->denied_last;
}

/* Whether it was written. The processes end all the same. */
static bool save(struct sandbox *sb)
{
	struct err e = ERR_INIT;

	if (store_sandbox_update(sb->m->c.store, &sb->row, &e) >= 0)
		return true;
	log_error("%s: its row can't be written: %s", sb->row.id, e.msg);
	return false;
}

/* ---- rows of ended sandboxes for which there was no room on the disk ---- */

struct unsaved {
	struct unsaved *next;
	struct sandbox_row row;
};

static void save_later(struct sandboxes *m, const struct sandbox_row *row)
{
	struct unsaved *u = calloc(1, sizeof(*u));

	if (!u || sandbox_row_copy(row, &u->row) < 0) {
		free(u); /* then it has failed, for whoever asks */
		return;
	}
	LL_PREPEND(m->unsaved, u);
}

void sandboxes_save_unsaved(struct sandboxes *m)
{
	struct unsaved *u, *next;

	LL_FOREACH_SAFE(m->unsaved, u, next)
	{
		if (store_sandbox_update(m->c.store, &u->row, NULL) < 0)
			return; /* it is still full */
		LL_DELETE(m->unsaved, u);
		sandbox_row_clear(&u->row);
		free(u);
	}
}

void sandboxes_forget_unsaved(struct sandboxes *m)
{
	struct unsaved *u, *next;

	LL_FOREACH_SAFE(m->unsaved, u, next)
	{
		sandbox_row_clear(&u->row);
		free(u);
	}
	m->unsaved = NULL;
}

const struct sandbox_row *sandboxes_unsaved(const struct sandboxes *m, const char *id)
{
	const struct unsaved *u;

	LL_FOREACH(m->unsaved, u)
	{
		if (strcmp(u->row.id, id) == 0)
			return &u->row;
	}
	return NULL;
}

static void on_cold_end(uv_timer_t *t)
{
	sandbox_ended(t->data, 0);
}

void sandbox_end(struct sandbox *sb, const char *reason, const struct err *failure)
{
	bool frozen = sb->row.status == SANDBOX_PAUSING || sb->row.status == SANDBOX_PAUSED;

	if (sb->row.status == SANDBOX_TERMINATING)
		return;
	/* Somebody else may have it by now. */
	if (sb->row.status == SANDBOX_PAUSED && sb->snapshot &&
	    snapshot_claim(&sb->m->c.snapshots, sb->row.id, NULL) == -ENOENT) {
		sb->snapshot = false;
		reason = SANDBOX_MOVED;
	}
	sb->end_reason = reason;
	sb->end_ms = clock_now_ms();
	sb->end_us = clock_mono_us();
	if (failure)
		sb->failure = *failure;
	(void)uv_timer_stop(&sb->timer);
	sandbox_meter_end(sb);
	/* A create that is undone goes from creating to failed in its row, with nothing between. */
	sb->row.status = SANDBOX_TERMINATING;
	if (!failure) {
		/* For a next start that has to finish this. */
		(void)snprintf(sb->row.termination_reason, sizeof(sb->row.termination_reason), "%s", reason);
		(void)save(sb);
	}
	if (!sb->slot) { /* paused, and its processes gone before */
		(void)uv_timer_start(&sb->timer, on_cold_end, 0, 0);
		return;
	}
	slot_kill(sb->slot);
	/* The v1 freezer keeps even SIGKILL from its processes; this thaws it. */
	if (frozen)
		(void)cgroup_kill(sb->m->c.cgroups, sb->slot->name);
}

static void on_closed(uv_handle_t *h)
{
	struct sandbox *sb = h->data;

	ledger_free(sb->ledger);
	exec_env_free(sb->env);
	free(sb->template_digest);
	template_ref_put(sb->template);
	sandbox_row_clear(&sb->row);
	free(sb);
}

void sandbox_discard(struct sandbox *sb)
{
	if (sb->net_pending) {
		sb->net_abandoned = true;
		return;
	}
	uv_close((uv_handle_t *)&sb->timer, on_closed);
}

/* Why it ended, for the row. Memory is blamed only for an init that nobody asked to die. */
static const char *reason_of(struct sandbox *sb, int status)
{
	const char *reason = sb->end_reason ? sb->end_reason : "failed";

	if (strcmp(reason, "failed") == 0 && sb->failure.kind == ERR_NONE && !sb->m->keeper_lost &&
	    WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && sandbox_oom_kills(sb) > sb->oom_seen)
		return "oom";
	return reason;
}

static void settle_row(struct sandbox *sb, const char *reason)
{
	struct sandbox_row *row = &sb->row;
	bool failed = sb->failure.kind != ERR_NONE;

	row->status = failed ? SANDBOX_FAILED : SANDBOX_TERMINATED;
	/* The clock may have been moved since its end began; what its processes took to go is real. */
	row->terminated_ms = sb->end_us ? sb->end_ms + (clock_mono_us() - sb->end_us) / 1000 : clock_now_ms();
	(void)snprintf(row->termination_reason, sizeof(row->termination_reason), "%s", reason);
	if (failed && !row->failure)
		row->failure = strdup(sb->failure.msg);
	/* A power cut must not bring back one that was paused and then ended. */
	if ((!sb->snapshot || store_sandbox_update_synced(sb->m->c.store, row, NULL) < 0) && !save(sb))
		save_later(sb->m, row);
	sandbox_tell(sb, failed ? JOURNAL_SANDBOX_FAILED : JOURNAL_SANDBOX_TERMINATED, failed ? row->failure : reason);
	if (failed)
		sb->m->failed++;
	else
		sb->m->terminated++;
}

static void answer(struct sandbox *sb)
{
	struct waiter *w, *next;
	struct err e = sb->failure;

	LL_FOREACH_SAFE(sb->enders, w, next)
	{
		w->done(w->arg, NULL, &sb->row);
		free(w);
	}
	if (sb->changer) {
		struct err ended = ERR_INIT;

		(void)sandbox_not_ready(sb->row.id, sb->row.status, "paused or running", &ended);
		sandbox_changed(sb, &ended);
	}
	w = sb->creator;
	if (w) {
		if (e.kind == ERR_NONE && strcmp(sb->row.termination_reason, "user") != 0 &&
		    strcmp(sb->row.termination_reason, "reset") != 0)
			(void)err_set(&e, ERR_INTERNAL, EIO, NULL, "the sandbox ended while it was being created");
		if (e.kind == ERR_NONE)
			(void)err_set(&e, ERR_NOT_READY, ECANCELED, "sandbox_not_ready",
				      "the sandbox was terminated while it was being created");
		w->done(w->arg, &e, NULL);
		free(w);
	}
}

void sandbox_ended(struct sandbox *sb, int status)
{
	struct sandboxes *m = sb->m;
	const char *reason = reason_of(sb, status);

	(void)uv_timer_stop(&sb->timer);
	sandbox_meter_end(sb);
	sb->slot = NULL;
	if (sb->init)
		init_free(TAKE_PTR(sb->init));
	sandbox_leave_root(m, &sb->root_fd);
	sandbox_net_stop(sb);
	if (sb->job)
		job_leave(sb->job);
	settle_row(sb, reason);
	sandbox_drop_snapshot(sb);
	log_info("%s: %s (%s)", sb->row.id, sandbox_status_name(sb->row.status), reason);
	/* Out of the table first: a callback may look it up, or make another. */
	HASH_DEL(m->by_id, sb);
	exec_end_all(sb);
	linger_close_all(sb);
	answer(sb);
	sandbox_discard(sb);
	sandboxes_check_stopped(m);
}

static int terminate_stored(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done,
			    void *arg, struct err *e)
{
	struct sandbox_row row = { 0 };
	int r = sandbox_stored_row(m, a, id, &row, e);

	if (r < 0)
		return r;
	if (sandbox_defer(m, done, arg, &row) < 0) {
		sandbox_row_clear(&row);
		return err_errno(e, ENOMEM, "can't answer");
	}
	return 0;
}

int sandbox_terminate(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
		      struct err *e)
{
	struct sandbox *sb = sandbox_find(m, a, id);
	struct waiter *w;

	if (!sb)
		return terminate_stored(m, a, id, done, arg, e);
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_errno(e, ENOMEM, "can't end the sandbox");
	*w = (struct waiter){ .done = done, .arg = arg };
	LL_APPEND(sb->enders, w);
	sandbox_end(sb, "user", NULL);
	return 0;
}
