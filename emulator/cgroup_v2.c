/* cgroup v2, the backend of nearly every user's machine. Theory of operation:
 *
 *   <ours>/             given to the emulator's id; no process of its own ("no internal processes" rule)
 *     daemon/           launcher, keeper, daemon, workers
 *     sandboxes/        cpu, memory and pids enabled for what is below
 *       <slot>/         one sandbox
 *
 * <ours> is one of
 *   scope     a transient scope with Delegate=yes from systemd (the user's, or the system's for root);
 *   own       the group the launcher was started in, if it is alone there and the group was handed over for
 *             that (a unit with Delegate=yes; or no systemd at all, as in a container of its own);
 *   child     without systemd: a child of the nearest group above us that lets us enable controllers.
 *
 * Moving a process needs write access to cgroup.procs of the target and of the common ancestor of source
 * and target: that is <ours>, which is why everything of the emulator is below it, and why it is given away
 * with its cgroup.procs. Its limits are not: memory.max and the like of <ours> stay the owner's of above. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"
#include "emulator/delegate.h"

#define CPU_PERIOD_US 100000

static const struct {
	const char *name, *enable;
	unsigned int bit;
} controllers[] = {
	{ "cpu", "+cpu", CGROUP_CPU },
	{ "memory", "+memory", CGROUP_MEMORY },
	{ "pids", "+pids", CGROUP_PIDS },
};

/* Bits of the controllers named in cgroup.controllers or cgroup.subtree_control. */
static unsigned int controllers_in(int dirfd, const char *file)
{
	char text[512], padded[520], word[16];
	unsigned int bits = 0;

	if (fd_read_file(dirfd, file, text, sizeof(text)) < 0)
		return 0;
	text[strcspn(text, "\n")] = '\0';
	(void)text_format(padded, sizeof(padded), " %s ", text);
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++) {
		(void)text_format(word, sizeof(word), " %s ", controllers[i].name);
		if (strstr(padded, word))
			bits |= controllers[i].bit;
	}
	return bits;
}

/* Enables what can be; returns what is on for the children. */
static unsigned int enable_controllers(int dirfd)
{
	/* one at a time: a single word the kernel refuses would refuse them all */
	for (size_t i = 0; i < ARRAY_SIZE(controllers); i++)
		(void)fd_write_file(dirfd, "cgroup.subtree_control", controllers[i].enable);
	return controllers_in(dirfd, "cgroup.subtree_control");
}

static bool may_manage(int dirfd)
{
	return faccessat(dirfd, ".", W_OK | X_OK, AT_EACCESS) == 0 &&
	       faccessat(dirfd, "cgroup.procs", W_OK, AT_EACCESS) == 0 &&
	       faccessat(dirfd, "cgroup.subtree_control", W_OK, AT_EACCESS) == 0;
}

/* True if the calling process is the only one in the group. */
static bool alone_in(int dirfd)
{
	char text[64], mine[16];

	(void)text_format(mine, sizeof(mine), "%d\n", getpid());
	return fd_read_file(dirfd, "cgroup.procs", text, sizeof(text)) >= 0 && strcmp(text, mine) == 0;
}

/* systemd marks a group it has handed over; one without the mark it may rearrange at any time. */
static bool marked_delegated(int dirfd)
{
	static const char *const marks[] = { "user.delegate", "trusted.delegate" };
	char v[2];

	for (size_t i = 0; i < ARRAY_SIZE(marks); i++)
		if (fgetxattr(dirfd, marks[i], v, sizeof(v)) == 1 && v[0] == '1')
			return true;
	return false;
}

/* Takes top_fd (and parent_fd) as the tree of r. */
static int use(struct cgroup_root *r, int top_fd, int parent_fd, uid_t uid, gid_t gid, struct err *e)
{
	struct cgroup_tree *t = &r->tree[0];
	int k = 0;

	*t = (struct cgroup_tree){ .fd = -1, .top_fd = top_fd, .parent_fd = parent_fd, .unified = true };
	r->n_trees = 1;
	t->fd = cgroup_unified_make(top_fd, uid, gid, e);
	if (t->fd < 0)
		return t->fd;
	if (parent_fd >= 0)
		k = cgroup_janitor_start(r, e);
	if (k == 0)
		k = cgroup_unified_enter(top_fd, e);
	if (k < 0)
		return k;
	(void)enable_controllers(top_fd);
	t->controllers = enable_controllers(t->fd);
	return 0;
}

static int use_own(struct cgroup_root *r, const struct cgroup_mount *m, uid_t uid, gid_t gid, struct err *e)
{
	int fd = cgroup_open_dir(AT_FDCWD, m->own);

	if (fd < 0)
		return err_errno(e, -fd, "opening %s", m->own);
	if (!may_manage(fd) || !alone_in(fd) || (delegate_systemd_runs() && !marked_delegated(fd))) {
		closep(&fd);
		return err_set(e, ERR_UNAVAILABLE, EBUSY, NULL, "the emulator's own cgroup is not delegated to it");
	}
	return use(r, fd, -1, uid, gid, e);
}

static int use_scope(struct cgroup_root *r, const struct cgroup_mount *m, uid_t uid, gid_t gid, struct err *e)
{
	_cleanup_free_ struct cgroup_layout *l = malloc(sizeof(*l));
	char unit[sizeof(r->top) + 8], *at;
	const struct cgroup_mount *now;
	int k, fd;

	if (!l)
		return err_errno(e, ENOMEM, "cgroups");
	(void)text_format(unit, sizeof(unit), "%s.scope", r->top);
	k = delegate_scope(unit, m->base, e);
	if (k == 0)
		k = cgroup_layout_read(l, e);
	if (k < 0)
		return k;
	now = cgroup_layout_unified(l);
	at = now ? strstr(now->own, unit) : NULL;
	if (!at)
		return err_set(e, ERR_UNAVAILABLE, ESRCH, NULL, "systemd started %s but did not move us into it", unit);
	at[strlen(unit)] = '\0';
	fd = cgroup_open_dir(AT_FDCWD, now->own);
	if (fd < 0)
		return err_errno(e, -fd, "opening %s", now->own);
	return use(r, fd, -1, uid, gid, e);
}

/* True if groups below this one may have controllers and processes. Only the real root (it has no
 * cgroup.type) may have processes of its own too. It must be asked first: the kernel does let cpu and pids be
 * enabled in a group with processes, but that makes it the root of a threaded subtree, where no group can
 * have a process (cgroups(7), "Creating a threaded subtree"). */
static bool may_be_parent(int dirfd)
{
	char c;

	return faccessat(dirfd, "cgroup.type", F_OK, 0) < 0 || fd_read_file(dirfd, "cgroup.procs", &c, sizeof(c)) == 0;
}

/* The nearest group from ours upwards that gives its children controllers; without any, the nearest one
 * where we may make a group at all (freezing, killing and CPU readings need no controller). */
static int find_parent(const struct cgroup_mount *m, struct err *e)
{
	_cleanup_close_ int fallback = -1;
	char path[PATH_MAX];

	(void)text_format(path, sizeof(path), "%s", m->own);
	while (strlen(path) >= strlen(m->base)) {
		_cleanup_close_ int fd = cgroup_open_dir(AT_FDCWD, path);

		if (fd >= 0 && may_manage(fd)) {
			if (may_be_parent(fd) && (enable_controllers(fd) & (CGROUP_MEMORY | CGROUP_PIDS)))
				return TAKE_FD(fd);
			if (fallback < 0)
				fallback = TAKE_FD(fd);
		}
		*strrchr(path, '/') = '\0';
	}
	if (fallback >= 0)
		return TAKE_FD(fallback);
	return err_set(
		e, ERR_UNAVAILABLE, EACCES, NULL,
		"no cgroup here is writable for this user: in a container, start it with --privileged (docker) or "
		"--systemd=always (podman); elsewhere run the emulator with sudo");
}

static int use_child(struct cgroup_root *r, const struct cgroup_mount *m, uid_t uid, gid_t gid, struct err *e)
{
	int parent_fd = find_parent(m, e), fd;

	if (parent_fd < 0)
		return parent_fd;
	fd = cgroup_make_top(parent_fd, r->top);
	if (fd < 0) {
		closep(&parent_fd);
		return err_errno(e, -fd, "making a cgroup in %s", m->own);
	}
	return use(r, fd, parent_fd, uid, gid, e);
}

static void describe(struct cgroup_root *r)
{
	struct cgroup_tree *t = &r->tree[0];
	bool freeze = faccessat(t->fd, "cgroup.freeze", F_OK, 0) == 0;
	bool can_kill = faccessat(t->fd, "cgroup.kill", F_OK, 0) == 0;
	char missing[32];
	const char *fix;

	r->features = (struct cgroup_features){
		.cpu = t->controllers & CGROUP_CPU,
		.memory = t->controllers & CGROUP_MEMORY,
		.pids = t->controllers & CGROUP_PIDS,
		.freeze = freeze,
		.kill = can_kill,
		.cpu_reading = faccessat(t->fd, "cpu.stat", F_OK, 0) == 0,
		.memory_reading = t->controllers & CGROUP_MEMORY,
	};
	(void)text_format(missing, sizeof(missing), "%s%s%s", r->features.cpu ? "" : " cpu",
			  r->features.memory ? "" : " memory", r->features.pids ? "" : " pids");
	if (delegate_systemd_runs() && geteuid() != 0)
		fix = "systemd does not delegate it to users' sessions: sudo mkdir -p "
		      "/etc/systemd/system/user@.service.d && "
		      "printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n' | sudo tee "
		      "/etc/systemd/system/user@.service.d/delegate.conf && sudo systemctl daemon-reload && "
		      "sudo systemctl restart user@$(id -u)";
	else if (delegate_systemd_runs())
		fix = "the kernel has it off: see cat /sys/fs/cgroup/cgroup.controllers";
	else
		fix = "other processes are in the way of enabling it: mkdir -p /sys/fs/cgroup/init && "
		      "xargs -rn1 < /sys/fs/cgroup/cgroup.procs > /sys/fs/cgroup/init/cgroup.procs";
	if (missing[0])
		(void)snprintf(r->why, sizeof(r->why), "no cgroup limit for:%s; %s", missing, fix);
	else if (!freeze || !can_kill)
		(void)snprintf(r->why, sizeof(r->why), "cgroups can't be %s here: that needs Linux 5.14 or later",
			       freeze ? "killed" : "frozen");
}

/* Lets go of a try that failed halfway, so that the next kind starts afresh. */
static void let_go(struct cgroup_root *r)
{
	if (r->n_trees == 0)
		return;
	closep(&r->tree[0].fd);
	closep(&r->tree[0].top_fd);
	if (r->tree[0].parent_fd >= 0)
		(void)cgroup_remove_tree(r->tree[0].parent_fd, r->top, 3);
	closep(&r->tree[0].parent_fd);
	closep(&r->leash);
	r->n_trees = 0;
}

int cgroup_v2_prepare(struct cgroup_root *r, const struct cgroup_layout *l, uid_t uid, gid_t gid, struct err *e)
{
	const struct cgroup_mount *m = cgroup_layout_unified(l);
	int k;

	if (!m)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL, "no cgroup v2 hierarchy is mounted here");
	r->ops = &cgroup_v2_ops;
	k = use_own(r, m, uid, gid, e);
	if (k < 0) {
		let_go(r);
		k = delegate_systemd_runs() ? use_scope(r, m, uid, gid, e) : use_child(r, m, uid, gid, e);
	}
	if (k < 0) {
		let_go(r);
		return k;
	}
	describe(r);
	return 0;
}

static int v2_set_limits(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e)
{
	int fd = r->tree[0].fd, k = 0;
	char text[48];

	if (r->features.cpu) {
		(void)text_format(text, sizeof(text), "%llu %d",
				  (unsigned long long)l->cpu_millis * (CPU_PERIOD_US / 1000), CPU_PERIOD_US);
		k = cgroup_write(fd, slot, "cpu.max", text);
	}
	if (k == 0 && r->features.memory) {
		k = cgroup_write_u64(fd, slot, "memory.max", l->memory_bytes);
		/* absent where the kernel has no swap accounting */
		if (k == 0 && cgroup_write(fd, slot, "memory.swap.max", "0") == -EACCES)
			k = -EACCES;
	}
	if (k == 0 && r->features.pids)
		k = cgroup_write_u64(fd, slot, "pids.max", l->pids_max);
	return k < 0 ? err_errno(e, -k, "limiting the cgroup %s", slot) : 0;
}

static int v2_read(struct cgroup_root *r, const char *slot, struct cgroup_usage *ret)
{
	int fd = r->tree[0].fd, k = 0;
	uint64_t cache = 0;

	if (r->features.cpu_reading)
		k = cgroup_read_key(fd, slot, "cpu.stat", "usage_usec", &ret->cpu_usec);
	if (k == 0 && r->features.memory_reading) {
		k = cgroup_read_u64(fd, slot, "memory.current", &ret->memory_bytes);
		if (k == 0)
			k = cgroup_read_key(fd, slot, "memory.stat", "inactive_file", &cache);
		ret->working_set_bytes = ret->memory_bytes - MIN(cache, ret->memory_bytes);
		if (k == 0)
			k = cgroup_read_key(fd, slot, "memory.events", "oom_kill", &ret->oom_kills);
	}
	if (k == 0 && r->features.pids) {
		k = cgroup_read_u64(fd, slot, "pids.current", &ret->pids);
		(void)cgroup_read_key(fd, slot, "pids.events", "max", &ret->pids_denied);
	}
	return k;
}

static int v2_freeze(struct cgroup_root *r, const char *slot, bool freeze, struct err *e)
{
	if (!r->features.freeze)
		return err_set(e, ERR_UNAVAILABLE, ENOTSUP, NULL, "nothing can be frozen here: %s", r->why);
	return cgroup_unified_freeze(r->tree[0].fd, slot, freeze, e);
}

static int v2_kill(struct cgroup_root *r, const char *slot)
{
	return r->features.kill ? cgroup_unified_kill(r->tree[0].fd, slot) : -ENOTSUP;
}

const struct cgroup_ops cgroup_v2_ops = {
	.backend = CGROUP_V2,
	.set_limits = v2_set_limits,
	.read = v2_read,
	.freeze = v2_freeze,
	.kill = v2_kill,
};
