/* cgroup v1 and hybrid hosts. Theory of operation:
 *
 * One folder, CGROUP_PREFIX + name, in every v1 hierarchy that limits or counts something we need (cpu,
 * cpuacct, memory, pids; two of them may be mounted as one), below the calling process's own group so
 * that a container's limits keep holding. Only root can make it; it is then given to the emulator's id,
 * which makes the sandboxes' groups in it. Where the v2 tree is mounted too (hybrid) it has no controller,
 * but cgroup.freeze and cgroup.kill, which the v1 freezer lacks or does worse (a v1-frozen process can't
 * even be killed); the freezer hierarchy is used only without it.
 *
 * v1 lets a writer of cgroup.procs move a process whose uid or saved uid equals its own euid, wherever
 * that process was. The v2 tree asks for write access to the common ancestor instead, so the calling
 * process moves into the leaf "daemon" there. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"

#define CPU_PERIOD_US 100000
#define V1_WANTED (CGROUP_CPU | CGROUP_CPUACCT | CGROUP_MEMORY | CGROUP_PIDS)

static struct cgroup_tree *tree_of(struct cgroup_root *r, unsigned int controller)
{
	for (size_t i = 0; i < r->n_trees; i++)
		if (r->tree[i].controllers & controller)
			return &r->tree[i];
	return NULL;
}

static struct cgroup_tree *unified_of(struct cgroup_root *r)
{
	for (size_t i = 0; i < r->n_trees; i++)
		if (r->tree[i].unified)
			return &r->tree[i];
	return NULL;
}

static int add_tree(struct cgroup_root *r, const struct cgroup_mount *m, uid_t uid, gid_t gid, struct err *e)
{
	struct cgroup_tree *t = &r->tree[r->n_trees];
	int k;

	*t = (struct cgroup_tree){ .fd = -1, .top_fd = -1, .parent_fd = -1 };
	t->controllers = m->controllers;
	t->unified = m->unified;
	r->n_trees++;
	t->parent_fd = open(m->own, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (t->parent_fd < 0)
		return err_errno(e, errno, "opening %s", m->own);
	t->fd = cgroup_make_top(t->parent_fd, r->top);
	if (t->fd < 0)
		return err_errno(e, -t->fd, "making a cgroup in %s", m->own);
	k = cgroup_give(t->fd, uid, gid, false);
	if (k == 0)
		k = cgroup_give_children(t->fd, uid, gid);
	return k < 0 ? err_errno(e, -k, "giving the cgroup %s to the emulator's id", m->own) : 0;
}

static void drop_last_tree(struct cgroup_root *r)
{
	struct cgroup_tree *t = &r->tree[--r->n_trees];

	(void)cgroup_remove_tree(t->parent_fd, r->top, 3);
	closep(&t->fd);
	closep(&t->top_fd);
	closep(&t->parent_fd);
}

/* Hybrid: the v2 tree for freezing and killing. Without it the v1 freezer serves, so a failure is none. */
static bool add_unified(struct cgroup_root *r, const struct cgroup_layout *l, uid_t uid, gid_t gid)
{
	const struct cgroup_mount *m = cgroup_layout_unified(l);
	struct cgroup_tree *t = &r->tree[r->n_trees];

	if (!m)
		return false;
	if (add_tree(r, m, uid, gid, NULL) == 0 && faccessat(t->parent_fd, "cgroup.procs", W_OK, AT_EACCESS) == 0) {
		t->top_fd = TAKE_FD(t->fd);
		t->fd = cgroup_unified_make(t->top_fd, uid, gid, NULL);
	}
	if (t->top_fd >= 0 && t->fd >= 0 && faccessat(t->fd, "cgroup.freeze", F_OK, 0) == 0 &&
	    faccessat(t->fd, "cgroup.kill", F_OK, 0) == 0)
		return true;
	drop_last_tree(r);
	return false;
}

static void undo(struct cgroup_root *r)
{
	for (size_t i = 0; i < r->n_trees; i++)
		if (r->tree[i].parent_fd >= 0)
			(void)cgroup_remove_tree(r->tree[i].parent_fd, r->top, 3);
}

static void describe(struct cgroup_root *r, unsigned int have, bool unified)
{
	bool freezer = unified || (have & CGROUP_FREEZER);

	r->features = (struct cgroup_features){
		.cpu = have & CGROUP_CPU,
		.memory = have & CGROUP_MEMORY,
		.pids = have & CGROUP_PIDS,
		.freeze = freezer,
		.kill = freezer,
		.cpu_reading = have & CGROUP_CPUACCT,
		.memory_reading = have & CGROUP_MEMORY,
	};
	if (!freezer || (have & V1_WANTED) != V1_WANTED)
		(void)snprintf(r->why, sizeof(r->why),
			       "this host's cgroup v1 lacks:%s%s%s%s%s; mount that below /sys/fs/cgroup, or boot with "
			       "systemd.unified_cgroup_hierarchy=1",
			       have & CGROUP_CPU ? "" : " cpu", have & CGROUP_CPUACCT ? "" : " cpuacct",
			       have & CGROUP_MEMORY ? "" : " memory", have & CGROUP_PIDS ? "" : " pids",
			       freezer ? "" : " freezer");
}

/* The trees of every hierarchy that has a controller of `wanted`. */
static int add_trees(struct cgroup_root *r, const struct cgroup_layout *l, unsigned int wanted, uid_t uid, gid_t gid,
		     unsigned int *have, struct err *e)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->m[i].controllers & wanted & ~*have) {
			int k = add_tree(r, &l->m[i], uid, gid, e);

			if (k < 0)
				return k;
			*have |= l->m[i].controllers;
		}
	return 0;
}

int cgroup_v1_prepare(struct cgroup_root *r, const struct cgroup_layout *l, uid_t uid, gid_t gid, struct err *e)
{
	unsigned int have = 0;
	bool unified = false;
	int k;

	r->ops = &cgroup_v1_ops;
	k = add_trees(r, l, V1_WANTED, uid, gid, &have, e);
	if (k == 0) {
		unified = add_unified(r, l, uid, gid);
		if (!unified)
			k = add_trees(r, l, CGROUP_FREEZER, uid, gid, &have, e);
	}
	if (k == 0)
		k = cgroup_janitor_start(r, e);
	if (k < 0) {
		undo(r);
		if (k == -EACCES || k == -EPERM || k == -EROFS)
			(void)err_set(e, ERR_UNAVAILABLE, -k, NULL,
				      "this host has cgroup v1, whose limits only root can set: start the emulator "
				      "with sudo, or boot with systemd.unified_cgroup_hierarchy=1");
		return k;
	}
	if (unified && cgroup_unified_enter(unified_of(r)->top_fd, NULL) < 0) {
		drop_last_tree(r);
		unified = false;
	}
	describe(r, have, unified);
	return 0;
}

static int set_memory(int fd, const char *slot, uint64_t bytes)
{
	static const char limit[] = "memory.limit_in_bytes", both[] = "memory.memsw.limit_in_bytes";
	/* memory+swap may never be below memory: which one comes first depends on the direction */
	int k = cgroup_write_u64(fd, slot, limit, bytes), m = cgroup_write_u64(fd, slot, both, bytes);

	if (k < 0 && m == 0)
		k = cgroup_write_u64(fd, slot, limit, bytes);
	return k < 0 ? k : m == -ENOENT ? 0 : m;
}

static int v1_set_limits(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e)
{
	struct cgroup_tree *cpu = tree_of(r, CGROUP_CPU), *memory = tree_of(r, CGROUP_MEMORY);
	struct cgroup_tree *pids = tree_of(r, CGROUP_PIDS);
	int k = 0;

	if (cpu) {
		k = cgroup_write_u64(cpu->fd, slot, "cpu.cfs_period_us", CPU_PERIOD_US);
		if (k == 0)
			k = cgroup_write_u64(cpu->fd, slot, "cpu.cfs_quota_us",
					     (uint64_t)l->cpu_millis * (CPU_PERIOD_US / 1000));
	}
	if (k == 0 && memory)
		k = set_memory(memory->fd, slot, l->memory_bytes);
	if (k == 0 && pids)
		k = cgroup_write_u64(pids->fd, slot, "pids.max", l->pids_max);
	return k < 0 ? err_errno(e, -k, "limiting the cgroup %s", slot) : 0;
}

static int v1_read(struct cgroup_root *r, const char *slot, struct cgroup_usage *ret)
{
	struct cgroup_tree *cpu = tree_of(r, CGROUP_CPUACCT), *memory = tree_of(r, CGROUP_MEMORY);
	struct cgroup_tree *pids = tree_of(r, CGROUP_PIDS);
	uint64_t ns = 0, cache = 0;
	int k = 0;

	if (cpu)
		k = cgroup_read_u64(cpu->fd, slot, "cpuacct.usage", &ns);
	ret->cpu_usec = ns / 1000;
	if (k == 0 && memory) {
		k = cgroup_read_u64(memory->fd, slot, "memory.usage_in_bytes", &ret->memory_bytes);
		if (k == 0)
			k = cgroup_read_key(memory->fd, slot, "memory.stat", "total_inactive_file", &cache);
		ret->working_set_bytes = ret->memory_bytes - MIN(cache, ret->memory_bytes);
		/* Linux before 4.13 does not count them */
		(void)cgroup_read_key(memory->fd, slot, "memory.oom_control", "oom_kill", &ret->oom_kills);
	}
	if (k == 0 && pids) {
		k = cgroup_read_u64(pids->fd, slot, "pids.current", &ret->pids);
		(void)cgroup_read_key(pids->fd, slot, "pids.events", "max", &ret->pids_denied);
	}
	return k;
}

/* The v1 freezer tells nobody when it is done: look, with growing pauses. */
static int freezer_set(int fd, const char *slot, bool freeze)
{
	const char *want = freeze ? "FROZEN" : "THAWED";
	int64_t until = clock_mono_us() + CGROUP_FREEZE_TIMEOUT_MS * 1000;
	long pause_ns = 50000;
	int k = cgroup_write(fd, slot, "freezer.state", want);

	while (k == 0) {
		char state[16];

		k = cgroup_read_word(fd, slot, "freezer.state", state, sizeof(state));
		if (k < 0 || strcmp(state, want) == 0)
			break;
		if (clock_mono_us() > until)
			k = -ETIMEDOUT;
		(void)nanosleep(&(struct timespec){ .tv_nsec = pause_ns }, NULL);
		pause_ns = MIN(pause_ns * 2, 20000000L);
	}
	if (k < 0 && freeze)
		(void)cgroup_write(fd, slot, "freezer.state", "THAWED");
	return k;
}

static int v1_freeze(struct cgroup_root *r, const char *slot, bool freeze, struct err *e)
{
	struct cgroup_tree *unified = unified_of(r), *freezer = tree_of(r, CGROUP_FREEZER);
	int k;

	if (unified)
		return cgroup_unified_freeze(unified->fd, slot, freeze, e);
	if (!freezer)
		return err_set(e, ERR_UNAVAILABLE, ENOTSUP, NULL, "nothing can be frozen here: %s", r->why);
	k = freezer_set(freezer->fd, slot, freeze);
	return k < 0 ? err_errno(e, -k, "%s the cgroup %s", freeze ? "freezing" : "thawing", slot) : 0;
}

/* Frozen, the group can neither fork nor exit, so the list of its processes is whole and no pid in it is
 * anyone else's; the signals take effect when it thaws. */
static int freezer_kill(int fd, const char *slot)
{
	char path[PATH_MAX], line[32];
	_cleanup_fclose_ FILE *f = NULL;
	int k, procs;
	uint64_t pid;

	k = freezer_set(fd, slot, true);
	if (k < 0)
		return k;
	(void)text_format(path, sizeof(path), "%s/cgroup.procs", slot);
	procs = openat(fd, path, O_RDONLY | O_CLOEXEC);
	f = procs < 0 ? NULL : fdopen(procs, "r");
	if (!f) {
		k = -errno;
		closep(&procs);
	}
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (text_parse_u64(line, 2, INT32_MAX, &pid) == 0 && kill((pid_t)pid, SIGKILL) < 0 && errno != ESRCH)
			k = -errno;
	}
	(void)cgroup_write(fd, slot, "freezer.state", "THAWED");
	return k;
}

static int v1_kill(struct cgroup_root *r, const char *slot)
{
	struct cgroup_tree *unified = unified_of(r), *freezer = tree_of(r, CGROUP_FREEZER);

	if (unified)
		return cgroup_unified_kill(unified->fd, slot);
	return freezer ? freezer_kill(freezer->fd, slot) : -ENOTSUP;
}

const struct cgroup_ops cgroup_v1_ops = {
	.backend = CGROUP_V1,
	.set_limits = v1_set_limits,
	.read = v1_read,
	.freeze = v1_freeze,
	.kill = v1_kill,
};
