/* Start-up on a keeper that an earlier daemon left: each sandbox whose init lives goes on as it was.
 *
 *   row          its init lives, and so
 *   creating     is rolled back: ended, failed
 *   running      running; thawed, if a resume was cut short before it came to that
 *   pausing      paused, if the snapshot of this very pause is whole; else running again
 *   paused       paused
 *   resuming     the new slot of a cold resume is ended; paused (sandbox_cold.c)
 *   terminating  is ended
 *
 * Slots that no row names (the warm pool's, a create's that had not come to its row) are ended. Nothing here
 * waits for an init: it may be frozen. A sandbox's time went on meanwhile: one whose deadline has passed ends as
 * soon as the loop runs. */

#include <errno.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"

static int add_kept(void *arg, const struct keeper_kept *k)
{
	return slot_adopt(arg, k, NULL);
}

static int add_exec(void *arg, const struct keeper_exec *k)
{
	struct kept_exec *x = malloc(sizeof(*x) + k->note_len);
	struct sandboxes *m = arg;
	struct slot *s;

	HASH_FIND_STR(m->slots, k->slot, s);
	if (!s || !s->kept || !x) {
		for (int i = 0; i < 3; i++)
			if (k->fds[i] >= 0)
				(void)close(k->fds[i]);
		free(x);
		return s && !x ? -ENOMEM : 0;
	}
	*x = (struct kept_exec){ .id = k->id, .lingers = k->lingers, .note_len = k->note_len };
	memcpy(x->fds, k->fds, sizeof(x->fds));
	memcpy(x->note, k->note, k->note_len);
	LL_PREPEND(s->kept->execs, x); /* the keeper tells the newest first */
	return 0;
}

int sandboxes_list_kept(struct sandboxes *m, struct err *e)
{
	const struct keeper_list l = { .kept = add_kept, .exec = add_exec, .arg = m };
	int r = m->keeper ? keeper_list(m->keeper, &l, e) : 0;

	return r == -ENOMEM ? err_errno(e, ENOMEM, "can't take over the sandboxes") : r;
}

void sandboxes_drop_unused(struct sandboxes *m)
{
	struct slot *s, *next;

	HASH_ITER(hh, m->slots, s, next)
	if (s->kept) {
		slot_reserve(s, s->kept->net_index);
		/* Its interface is there until it has died. */
		m->net_hint = MAX(m->net_hint, (uint32_t)(s->kept->net_index + 1));
		/* One that is frozen could not die (v1). */
		(void)cgroup_kill(m->c.cgroups, s->name);
		slot_discard(s);
	}
}

/* What it is to be from now on. */
static enum sandbox_status settled_status(struct sandboxes *m, const struct sandbox_row *row)
{
	if (row->status == SANDBOX_PAUSING)
		return sandbox_has_snapshot(m, row, NULL) ? SANDBOX_PAUSED : SANDBOX_RUNNING;
	return row->status;
}

/* A static one, as the end of a sandbox wants it. */
static const char *static_reason(const char *reason)
{
	static const char *const names[] = { "user", "timeout", "oom", "reset" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (strcmp(reason, names[i]) == 0)
			return names[i];
	return "failed";
}

static void set_clock(struct sandbox *sb)
{
	const struct sandbox_row *row = &sb->row;
	int64_t now = row->status == SANDBOX_PAUSED ? row->paused_ms : clock_now_ms();

	sb->deadline_us = clock_now_us() + (row->expires_ms - now) * 1000;
	if (row->status == SANDBOX_PAUSED)
		sandbox_hold_clocks(sb);
	else
		sandbox_arm_deadline(sb);
}

static void take_network(struct sandbox *sb, const struct slot_kept *k)
{
	sandbox_net_start(sb);
	sb->net_strays = true; /* what the commands of before left behind */
	if (k->net_index < 0)
		return;
	if (sandbox_net_adopt(sb, k->net_index) < 0) {
		log_error("%s: its number in the gateway is not free", sb->row.id);
		return;
	}
	/* A change of mode that was cut short: the kernel has the last word, and nobody was answered. */
	(void)snprintf(sb->row.network, sizeof(sb->row.network), "%s", net_mode_name(k->net_mode));
}

static int fill(struct sandbox *sb, const struct sandbox_row *row, struct slot *s, struct err *e)
{
	struct slot_kept *k = s->kept;
	struct init_events ev;
	int r = sandbox_row_copy(row, &sb->row);

	if (r < 0)
		return err_errno(e, -r, "can't take over a sandbox");
	r = exec_env_build(NULL, row->env, false, &sb->env, e);
	if (r < 0)
		return r;
	sandbox_set_limits(sb);
	if (k->label[0])
		sb->template_digest = strdup(k->label);
	sandbox_init_events(sb, &ev);
	r = init_adopt(sb->m->c.loop, TAKE_FD(s->ctl_sock), TAKE_FD(k->reports_fd), &ev, &sb->init, e);
	if (r < 0)
		return r;
	HASH_ADD_STR(sb->m->by_id, row.id, sb);
	if (!sb->hh.tbl)
		return err_errno(e, ENOMEM, "can't take over a sandbox");
	sb->root_fd = TAKE_FD(k->root_fd);
	/* Later than any number that the earlier daemon may have given. */
	sb->next_exec = (uint64_t)clock_real_ms();
	sb->slot = s;
	s->limits = sb->limits;
	s->ev = (struct slot_events){ .dead = sandbox_on_slot_dead, .arg = sb };
	return 0;
}

/* From the row's state to a settled one. */
static int settle(struct sandbox *sb, struct err *e)
{
	struct sandboxes *m = sb->m;
	struct sandbox_row *row = &sb->row;
	enum sandbox_status was = row->status;
	bool mode_differs = sb->slot->kept && sb->net_index >= 0;
	int r = 0;

	row->status = settled_status(m, row);
	if (was == SANDBOX_PAUSING && row->status == SANDBOX_RUNNING) {
		row->expires_ms += MAX(clock_now_ms() - row->paused_ms, INT64_C(0));
		row->paused_ms = 0;
	}
	if (row->status != was || mode_differs)
		r = store_sandbox_update(m->c.store, row, e);
	if (r < 0)
		return r;
	if (row->status == SANDBOX_RUNNING && cgroup_root_features(m->c.cgroups)->freeze &&
	    cgroup_freeze(m->c.cgroups, sb->slot->name, false, NULL) < 0)
		log_error("%s: its processes can't be thawed", row->id);
	sb->snapshot = row->status == SANDBOX_PAUSED;
	if (row->status == SANDBOX_TERMINATING) {
		sb->end_reason = static_reason(row->termination_reason);
		slot_kill(sb->slot);
		(void)cgroup_kill(m->c.cgroups, sb->slot->name);
	} else {
		set_clock(sb);
	}
	return 0;
}

int sandbox_adopt(struct sandboxes *m, const struct sandbox_row *row, bool *ret, struct err *e)
{
	struct sandbox *sb;
	struct slot *s;
	int r;

	*ret = false;
	HASH_FIND_STR(m->slots, row->slot, s);
	/* Without a root its init had not come to be a sandbox's. */
	if (!s || !s->kept || row->status == SANDBOX_CREATING || row->status == SANDBOX_RESUMING ||
	    s->kept->root_fd < 0)
		return 0;
	sb = sandbox_alloc(m);
	if (!sb)
		return err_errno(e, ENOMEM, "can't take over the sandboxes");
	r = fill(sb, row, s, e);
	if (r < 0) {
		sandbox_discard(sb);
		return r;
	}
	take_network(sb, s->kept);
	r = settle(sb, e);
	if (r >= 0 && sandbox_has_processes(sb))
		exec_adopt_all(sb, s->kept);
	slot_kept_free(TAKE_PTR(s->kept));
	if (r < 0)
		return r;
	log_info("%s: taken over, %s", sb->row.id, sandbox_status_name(sb->row.status));
	*ret = true;
	return 0;
}
