/* Snapshots come and go without this emulator's doing: imported, removed (`snapshot` on the command line), paused or
 * resumed by another emulator that shares the folder. What is there is looked at when it matters (an id that is not
 * known, a paused one, a list) and once a second, which costs one fstat(2) while nothing changes.
 *
 *   a snapshot nobody here knows         -> a paused sandbox, its row from the manifest
 *   a paused one's snapshot is gone      -> terminated, "moved": somebody else has it, or removed it
 *   "moved", and its snapshot is back    -> paused again
 *
 * A rename decides (rootfs/snapshot_dir.h); everything here only follows. */

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "emulator/snapshot_row.h"
#include "rootfs/json.h"

#define LOOK_MS 1000
/* A folder's time is the kernel's tick: what changes within one is not told apart. */
#define TICK_NS INT64_C(50000000)

bool sandbox_is_moved(const struct sandbox_row *row)
{
	return row->status == SANDBOX_TERMINATED && strcmp(row->termination_reason, SANDBOX_MOVED) == 0;
}

int sandbox_add_paused(struct sandboxes *m, const struct sandbox_row *row, struct err *e)
{
	struct sandbox *sb = sandbox_alloc(m);
	int r = sb ? sandbox_row_copy(row, &sb->row) : -ENOMEM;

	if (r >= 0)
		r = exec_env_build(NULL, row->env, false, &sb->env, e);
	if (r >= 0) {
		sandbox_set_limits(sb);
		sb->snapshot = true;
		HASH_ADD_STR(m->by_id, row.id, sb);
		if (!sb->hh.tbl)
			r = -ENOMEM;
	}
	if (r >= 0)
		return 0;
	if (sb)
		sandbox_discard(sb);
	return e && e->kind != ERR_NONE ? r : err_errno(e, ENOMEM, "can't load a paused sandbox");
}

/* 1: there is a row, and it is none that a snapshot brings back. */
static int may_adopt(struct sandboxes *m, const struct sandbox_row *row, struct err *e)
{
	struct sandbox_row old = { 0 };
	bool same;
	int r = store_sandbox_get(m->c.store, row->id, &old, e);

	if (r < 0)
		return e->kind == ERR_NOT_FOUND ? 0 : r;
	same = strcmp(old.account, row->account) == 0 && sandbox_is_moved(&old) && old.paused_ms <= row->paused_ms;
	sandbox_row_clear(&old);
	return !same;
}

static int adopt(struct sandboxes *m, const char *id, struct err *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	struct sandbox_row row = { 0 };
	struct snapshot_info info;
	int r = snapshot_load(&m->c.snapshots, id, &info, e);

	if (r >= 0)
		r = snapshot_manifest(&m->c.snapshots, id, &o, e);
	if (r >= 0)
		r = snapshot_row_from_json(o, &row, e);
	if (r >= 0) {
		struct err why = ERR_INIT;

		r = may_adopt(m, &row, &why);
		if (r < 0 && e)
			*e = why;
	}
	if (r == 0)
		r = store_sandbox_put(m->c.store, &row, e);
	if (r == 0) {
		r = sandbox_add_paused(m, &row, e);
		if (r == 0)
			log_info("%s: a snapshot of it was found; it can be resumed here", id);
	}
	sandbox_row_clear(&row);
	return MIN(r, 0);
}

static void on_snapshot(void *arg, const char *id)
{
	struct sandboxes *m = arg;
	struct err e = ERR_INIT;
	struct sandbox *sb;

	HASH_FIND(hh, m->by_id, id, strlen(id), sb);
	if (sb)
		sb->looked = m->looks;
	else if (adopt(m, id, &e) < 0 && e.kind != ERR_NOT_FOUND)
		log_warn("snapshot %s: %s", id, e.msg);
}

static void moved(struct sandbox *sb)
{
	log_info("%s: its snapshot was taken or removed by somebody else", sb->row.id);
	sb->snapshot = false;
	sandbox_end(sb, SANDBOX_MOVED, NULL);
}

/* True once for each change, and again while the change is too new to be told from the next. */
static bool has_changed(struct sandboxes *m)
{
	struct stat st;
	int64_t age;

	if (fstat(m->c.snapshots.dir_fd, &st) < 0)
		return false;
	if (st.st_mtim.tv_sec == m->looked_at.tv_sec && st.st_mtim.tv_nsec == m->looked_at.tv_nsec)
		return false;
	age = clock_real_ms() * 1000000 - ((int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
	if (age > TICK_NS)
		m->looked_at = st.st_mtim;
	return true;
}

void sandboxes_look(struct sandboxes *m)
{
	struct sandbox *sb, *next;
	struct err e = ERR_INIT;
	int r;

	if (m->stopping || !has_changed(m))
		return;
	m->looks++;
	r = snapshot_each(&m->c.snapshots, on_snapshot, m, &e);
	if (r < 0) {
		log_warn("%s", e.msg);
		return;
	}
	if (r > 0) /* look again in any case */
		m->looked_at = (struct timespec){ 0 };
	HASH_ITER(hh, m->by_id, sb, next)
	if (sb->row.status == SANDBOX_PAUSED && sb->snapshot && sb->looked != m->looks &&
	    !snapshot_available(&m->c.snapshots, sb->row.id))
		moved(sb);
}

static void on_look(uv_timer_t *t)
{
	sandboxes_look(t->data);
}

void sandboxes_look_start(struct sandboxes *m)
{
	(void)uv_timer_start(&m->look_timer, on_look, LOOK_MS, LOOK_MS);
}

int sandbox_snapshot(struct sandboxes *m, const struct account *a, const char *id, struct json_object **ret,
		     bool *ret_lost, struct err *e)
{
	struct sandbox *sb = sandbox_find(m, a, id);
	struct sandbox_row row = { 0 };
	int r = 0;

	*ret = NULL;
	*ret_lost = false;
	if (!sb) {
		r = sandbox_stored_row(m, a, id, &row, e);
		sandbox_row_clear(&row);
		return r;
	}
	if (sb->row.status == SANDBOX_PAUSED) {
		r = snapshot_manifest(&m->c.snapshots, id, ret, e);
		if (r >= 0)
			json_object_object_del(*ret, "row");
		return r;
	}
	if (sb->row.status == SANDBOX_RUNNING && snapshot_lost(m->c.state_fd, sb->row.slot, ret, NULL) >= 0)
		*ret_lost = true;
	return 0;
}

/* ---- a stop ---- */

void sandbox_let_go(struct sandbox *sb)
{
	struct sandboxes *m = sb->m;

	if (sb->slot) { /* sandbox_gone_cold comes back here */
		slot_kill(sb->slot);
		(void)cgroup_kill(m->c.cgroups, sb->slot->name);
		return;
	}
	log_info("%s: stays paused", sb->row.id);
	HASH_DEL(m->by_id, sb);
	sandbox_discard(sb);
	sandboxes_check_stopped(m);
}
