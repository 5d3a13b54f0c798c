/* Cgroups: the part that is the same for every backend. A root is one to six open directories ("trees");
 * a sandbox's group is a folder of the same name in each. v2 has one tree, v1/hybrid several, none zero:
 * so making, attaching to, listing and removing groups needs no backend at all, and only limits, readings,
 * freezing and killing go through struct cgroup_ops.
 *
 * Everything after cgroup_prepare is relative to those directories, so it works from inside a user
 * namespace and whatever the rights of the folders above are. */

#include "emulator/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"

bool cgroup_word_valid(const char *s, size_t max)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");

	return n > 0 && n <= max && s[n] == '\0';
}

static int check_slot(const char *slot)
{
	return cgroup_word_valid(slot, CGROUP_SLOT_MAX) ? 0 : -EINVAL;
}

static void close_trees(struct cgroup_root *r)
{
	for (size_t i = 0; i < r->n_trees; i++) {
		closep(&r->tree[i].fd);
		closep(&r->tree[i].top_fd);
		closep(&r->tree[i].parent_fd);
	}
	r->n_trees = 0;
	closep(&r->leash);
}

static int choose_backend(struct cgroup_root *r, uid_t uid, gid_t gid, struct err *e)
{
	_cleanup_free_ struct cgroup_layout *l = malloc(sizeof(*l));
	unsigned int v1 = 0;
	int k;

	if (!l)
		return err_errno(e, ENOMEM, "cgroups");
	k = cgroup_layout_read(l, e);
	if (k < 0)
		return k;
	for (size_t i = 0; i < l->n; i++)
		v1 |= l->m[i].controllers;
	if (v1 & (CGROUP_CPU | CGROUP_MEMORY | CGROUP_PIDS))
		return cgroup_v1_prepare(r, l, uid, gid, e);
	return cgroup_v2_prepare(r, l, uid, gid, e);
}

int cgroup_prepare(const char *name, uid_t uid, gid_t gid, struct cgroup_root **ret, struct err *e)
{
	struct err why = ERR_INIT;
	struct cgroup_root *r;

	if (!cgroup_word_valid(name, CGROUP_NAME_MAX))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a name for a cgroup: '%.64s'", name);
	r = calloc(1, sizeof(*r));
	if (!r)
		return err_errno(e, ENOMEM, "cgroups");
	r->leash = -1;
	(void)text_format(r->top, sizeof(r->top), CGROUP_PREFIX "%s", name);
	if (choose_backend(r, uid, gid, &why) < 0) {
		close_trees(r);
		r->ops = &cgroup_none_ops;
		r->features = (struct cgroup_features){ 0 };
		(void)snprintf(r->why, sizeof(r->why), "%s", why.msg);
	}
	*ret = r;
	return 0;
}

void cgroup_root_free(struct cgroup_root *r)
{
	if (!r)
		return;
	close_trees(r);
	free(r);
}

enum cgroup_backend cgroup_root_backend(const struct cgroup_root *r)
{
	return r->ops->backend;
}

const char *cgroup_backend_name(enum cgroup_backend b)
{
	static const char *const names[] = { [CGROUP_NONE] = "none", [CGROUP_V1] = "v1", [CGROUP_V2] = "v2" };

	return (size_t)b < ARRAY_SIZE(names) ? names[b] : "none";
}

const struct cgroup_features *cgroup_root_features(const struct cgroup_root *r)
{
	return &r->features;
}

const char *cgroup_why(const struct cgroup_root *r)
{
	return r->why;
}

int cgroup_set_limits(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e)
{
	if (check_slot(slot) < 0 || l->cpu_millis < 10 || l->memory_bytes == 0 || l->pids_max == 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "limits out of range");
	return r->ops->set_limits(r, slot, l, e);
}

int cgroup_create(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e)
{
	size_t made = 0;
	int k = 0;

	if (check_slot(slot) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a name for a cgroup: '%.64s'", slot);
	for (; made < r->n_trees; made++)
		if (mkdirat(r->tree[made].fd, slot, 0755) < 0) {
			k = err_errno(e, errno, "making the cgroup %s", slot);
			if (e && k == -EEXIST)
				e->kind = ERR_EXISTS;
			break;
		}
	if (k == 0)
		k = cgroup_set_limits(r, slot, l, e);
	if (k < 0)
		while (made > 0)
			(void)unlinkat(r->tree[--made].fd, slot, AT_REMOVEDIR);
	return k;
}

int cgroup_open_for_clone(struct cgroup_root *r, const char *slot)
{
	int fd;

	if (check_slot(slot) < 0)
		return -EINVAL;
	if (r->ops->backend != CGROUP_V2)
		return -ENOTSUP;
	fd = openat(r->tree[0].fd, slot, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int cgroup_attach(struct cgroup_root *r, const char *slot, pid_t pid, struct err *e)
{
	int fds[CGROUP_MAX_TREES], k = 0, len;
	char path[CGROUP_SLOT_MAX + 16], text[16];
	size_t n = 0;

	if (check_slot(slot) < 0 || pid < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "bad cgroup or process");
	(void)text_format(path, sizeof(path), "%s/cgroup.procs", slot);
	len = text_format(text, sizeof(text), "%d", pid);
	for (; n < r->n_trees && k == 0; n++) {
		fds[n] = openat(r->tree[n].fd, path, O_WRONLY | O_CLOEXEC);
		if (fds[n] < 0)
			k = err_errno(e, errno, "opening the cgroup %s", slot);
	}
	/* All files are open before the first write: the kernel's lock over all threads costs a grace
	 * period of RCU (milliseconds) when it was idle, and next to nothing right after. */
	for (size_t i = 0; i < n && k == 0; i++)
		if (write(fds[i], text, (size_t)len) != len)
			k = err_errno(e, errno, "moving process %d into the cgroup %s", pid, slot);
	for (size_t i = 0; i < n; i++)
		closep(&fds[i]);
	return k;
}

int cgroup_read(struct cgroup_root *r, const char *slot, struct cgroup_usage *ret)
{
	struct cgroup_usage u = { 0 };
	int k = check_slot(slot);

	if (k == 0)
		k = r->ops->read(r, slot, &u);
	if (k == 0)
		*ret = u;
	return k;
}

static int open_counter(struct cgroup_root *r, const char *slot, unsigned int controller, const char *v1,
			const char *v2)
{
	char path[CGROUP_SLOT_MAX + 32];

	for (size_t i = 0; i < r->n_trees; i++) {
		const struct cgroup_tree *t = &r->tree[i];

		if (!(t->controllers & controller))
			continue;
		(void)text_format(path, sizeof(path), "%s/%s", slot, t->unified ? v2 : v1);
		return openat(t->fd, path, O_RDONLY | O_CLOEXEC);
	}
	return -1;
}

void cgroup_counters_open(struct cgroup_root *r, const char *slot, struct cgroup_counters *ret)
{
	*ret = (struct cgroup_counters){ -1, -1 };
	if (check_slot(slot) < 0)
		return;
	ret->oom_fd = open_counter(r, slot, CGROUP_MEMORY, "memory.oom_control", "memory.events");
	ret->denied_fd = open_counter(r, slot, CGROUP_PIDS, "pids.events", "pids.events");
}

void cgroup_counters_close(struct cgroup_counters *c)
{
	closep(&c->oom_fd);
	closep(&c->denied_fd);
}

static int read_counter(int fd, const char *key, uint64_t *ret)
{
	char text[512];
	ssize_t n = fd < 0 ? 0 : pread(fd, text, sizeof(text) - 1, 0);

	if (fd < 0)
		return -ENOTSUP;
	if (n < 0)
		return -errno;
	text[n] = '\0';
	return cgroup_find_key(text, key, ret);
}

int cgroup_counters_oom_kills(const struct cgroup_counters *c, uint64_t *ret)
{
	return read_counter(c->oom_fd, "oom_kill", ret);
}

int cgroup_counters_pids_denied(const struct cgroup_counters *c, uint64_t *ret)
{
	return read_counter(c->denied_fd, "max", ret);
}

int cgroup_freeze(struct cgroup_root *r, const char *slot, bool freeze, struct err *e)
{
	if (check_slot(slot) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a name for a cgroup");
	return r->ops->freeze(r, slot, freeze, e);
}

int cgroup_kill(struct cgroup_root *r, const char *slot)
{
	int k = check_slot(slot);

	return k < 0 ? k : r->ops->kill(r, slot);
}

int cgroup_each_pid(struct cgroup_root *r, const char *slot, int (*fn)(void *arg, pid_t pid), void *arg)
{
	char path[CGROUP_SLOT_MAX + 16], line[32];
	_cleanup_fclose_ FILE *f = NULL;
	int k = check_slot(slot), fd;
	uint64_t pid;

	if (k < 0 || r->n_trees == 0)
		return k < 0 ? k : -ENOTSUP;
	(void)text_format(path, sizeof(path), "%s/cgroup.procs", slot);
	fd = openat(r->tree[0].fd, path, O_RDONLY | O_CLOEXEC);
	f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f) {
		k = -errno;
		closep(&fd);
		return k;
	}
	while (k == 0 && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (text_parse_u64(line, 1, INT32_MAX, &pid) == 0)
			k = fn(arg, (pid_t)pid);
	}
	return k;
}

int cgroup_remove(struct cgroup_root *r, const char *slot)
{
	int k = check_slot(slot), ret = 0;

	if (k < 0)
		return k;
	for (size_t i = 0; i < r->n_trees; i++) {
		k = cgroup_remove_tree(r->tree[i].fd, slot, 8);
		if (k < 0)
			ret = k;
	}
	return ret;
}

/* Reads the names of the groups in a tree into a list the caller frees with free_names. */
struct names {
	char **v;
	size_t n, cap;
};

static void free_names(struct names *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->v[i]);
	free(l->v);
}

static int add_name(struct names *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->v[i], name) == 0)
			return 0;
	if (l->n == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		char **v = reallocarray(l->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n] = strdup(name);
	if (!l->v[l->n])
		return -ENOMEM;
	l->n++;
	return 0;
}

static void closedirp(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

static int collect_names(int dirfd, struct names *l)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(closedirp) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;
	int k = 0;

	if (!d) {
		k = -errno;
		closep(&fd);
		return k;
	}
	while (k == 0 && (de = readdir(d)))
		if (de->d_type == DT_DIR && cgroup_word_valid(de->d_name, CGROUP_SLOT_MAX))
			k = add_name(l, de->d_name);
	return k;
}

int cgroup_each(struct cgroup_root *r, int (*fn)(void *arg, const char *slot), void *arg)
{
	_cleanup_(free_names) struct names l = { 0 };
	int k = 0;

	/* A crash may have left a group in some trees only. And fn may remove what it is called with. */
	for (size_t i = 0; i < r->n_trees && k == 0; i++)
		k = collect_names(r->tree[i].fd, &l);
	for (size_t i = 0; i < l.n && k == 0; i++)
		k = fn(arg, l.v[i]);
	return k;
}

static int remove_one(void *arg, const char *slot)
{
	(void)cgroup_remove(arg, slot);
	return 0;
}

void cgroup_destroy_root(struct cgroup_root *r)
{
	(void)cgroup_each(r, remove_one, r);
	for (size_t i = 0; i < r->n_trees; i++) {
		struct cgroup_tree *t = &r->tree[i];

		if (t->top_fd >= 0) {
			(void)unlinkat(t->top_fd, "sandboxes", AT_REMOVEDIR);
			/* Busy, if the caller is still in it; systemd or the janitor then takes it. */
			(void)unlinkat(t->top_fd, "daemon", AT_REMOVEDIR);
		}
		/* Needs the caller's first rights; without them this is the janitor's. */
		if (t->parent_fd >= 0)
			(void)unlinkat(t->parent_fd, r->top, AT_REMOVEDIR);
	}
}
