/* Where this process's cgroups are: /proc/self/mountinfo says which hierarchy is mounted where (and which
 * part of it, in a container), /proc/self/cgroup says which group of each one the process is in. See
 * proc_pid_mountinfo(5) and cgroups(7). */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"

#define LAYOUT_TEXT_MAX (1u << 20)

static const struct {
	const char *name;
	unsigned int bit;
} v1_controllers[] = {
	{ "cpu", CGROUP_CPU },	 { "cpuacct", CGROUP_CPUACCT }, { "memory", CGROUP_MEMORY },
	{ "pids", CGROUP_PIDS }, { "freezer", CGROUP_FREEZER },
};

/* The v1 controllers named in a comma-separated list of n bytes. */
static unsigned int controllers_of(const char *list, size_t n)
{
	unsigned int bits = 0;

	while (n > 0) {
		const char *comma = memchr(list, ',', n);
		size_t w = comma ? (size_t)(comma - list) : n;

		for (size_t i = 0; i < ARRAY_SIZE(v1_controllers); i++)
			if (strlen(v1_controllers[i].name) == w && memcmp(v1_controllers[i].name, list, w) == 0)
				bits |= v1_controllers[i].bit;
		if (!comma)
			break;
		list += w + 1;
		n -= w + 1;
	}
	return bits;
}

/* The next field of a line that ends at end; *p moves behind it. */
static size_t next_field(const char **p, const char *end, const char **ret)
{
	size_t n;

	while (*p < end && **p == ' ')
		(*p)++;
	*ret = *p;
	while (*p < end && **p != ' ')
		(*p)++;
	n = (size_t)(*p - *ret);
	return n;
}

/* A path field with its octal escapes ("\040") undone. */
static int unescape(const char *s, size_t n, char *ret, size_t cap)
{
	size_t o = 0;

	for (size_t i = 0; i < n; i++) {
		char c = s[i];

		if (c == '\\' && i + 3 < n) {
			c = (char)((s[i + 1] - '0') << 6 | (s[i + 2] - '0') << 3 | (s[i + 3] - '0'));
			i += 3;
		}
		if (o + 1 >= cap)
			return -ENAMETOOLONG;
		ret[o++] = c;
	}
	ret[o] = '\0';
	return 0;
}

/* The path of the process's group in the hierarchy with these controllers (0: the v2 tree). */
static int own_path(const char *self, unsigned int controllers, bool unified, char *ret, size_t cap)
{
	for (const char *line = self; *line;) {
		const char *end = strchrnul(line, '\n'), *list, *path;

		list = memchr(line, ':', (size_t)(end - line));
		path = list ? memchr(list + 1, ':', (size_t)(end - list - 1)) : NULL;
		if (path) {
			size_t n = (size_t)(path - list - 1);
			bool is_v2 = n == 0 && list == line + 1 && *line == '0';

			if (unified ? is_v2 : (controllers_of(list + 1, n) & controllers) != 0) {
				n = (size_t)(end - path - 1);
				if (n >= cap)
					return -ENAMETOOLONG;
				memcpy(ret, path + 1, n);
				ret[n] = '\0';
				return 0;
			}
		}
		line = *end ? end + 1 : end;
	}
	return -ENOENT;
}

/* Fills m->own: `path` seen through a mount that shows `root` of the hierarchy at m->base. */
static int place_own(struct cgroup_mount *m, const char *root, const char *path)
{
	const char *rest = path;
	size_t n = strlen(root);

	if (strcmp(root, "/") != 0) {
		if (strncmp(path, root, n) != 0 || (path[n] != '/' && path[n] != '\0'))
			return -ENOENT;
		rest = path + n;
	}
	if (strncmp(rest, "/..", 3) == 0)
		return -ENOENT; /* the group is outside what this cgroup namespace shows */
	if (strcmp(rest, "/") == 0)
		rest = "";
	return text_format(m->own, sizeof(m->own), "%s%s", m->base, rest) < 0 ? -ENAMETOOLONG : 0;
}

static void add_mount(struct cgroup_layout *l, const char *line, const char *end, const char *self)
{
	const char *p = line, *root_at, *base_at, *type, *field, *opts;
	char root[PATH_MAX], path[PATH_MAX];
	size_t root_len, base_len, n, type_len;
	struct cgroup_mount *m = &l->m[l->n];
	unsigned int seen = 0;
	bool seen_unified = false;

	for (int i = 0; i < 3; i++)
		(void)next_field(&p, end, &field);
	root_len = next_field(&p, end, &root_at);
	base_len = next_field(&p, end, &base_at);
	do
		n = next_field(&p, end, &field);
	while (n > 0 && !(n == 1 && *field == '-'));
	type_len = next_field(&p, end, &type);
	(void)next_field(&p, end, &field);
	n = next_field(&p, end, &opts);
	m->unified = type_len == 7 && memcmp(type, "cgroup2", 7) == 0;
	m->controllers = type_len == 6 && memcmp(type, "cgroup", 6) == 0 ? controllers_of(opts, n) : 0;
	for (size_t i = 0; i < l->n; i++) {
		seen |= l->m[i].controllers;
		seen_unified |= l->m[i].unified;
	}
	if (m->unified ? seen_unified : m->controllers == 0 || (m->controllers & seen))
		return;
	if (unescape(root_at, root_len, root, sizeof(root)) < 0 ||
	    unescape(base_at, base_len, m->base, sizeof(m->base)) < 0 ||
	    own_path(self, m->controllers, m->unified, path, sizeof(path)) < 0 || place_own(m, root, path) < 0)
		return; /* not one this process can use; another mount of it may be */
	l->n++;
}

int cgroup_layout_parse(const char *mountinfo, const char *self, struct cgroup_layout *ret)
{
	ret->n = 0;
	for (const char *line = mountinfo; *line && ret->n < CGROUP_MAX_TREES;) {
		const char *end = strchrnul(line, '\n');

		add_mount(ret, line, end, self);
		line = *end ? end + 1 : end;
	}
	return ret->n > 0 ? 0 : -ENOENT;
}

int cgroup_layout_read(struct cgroup_layout *ret, struct err *e)
{
	_cleanup_free_ char *mounts = malloc(LAYOUT_TEXT_MAX), *self = malloc(LAYOUT_TEXT_MAX);
	ssize_t n;

	if (!mounts || !self)
		return err_errno(e, ENOMEM, "reading the cgroup mounts");
	n = fd_read_file(AT_FDCWD, "/proc/self/mountinfo", mounts, LAYOUT_TEXT_MAX);
	if (n >= 0)
		n = fd_read_file(AT_FDCWD, "/proc/self/cgroup", self, LAYOUT_TEXT_MAX);
	if (n < 0)
		return err_errno(e, (int)-n, "reading the cgroup mounts");
	if (cgroup_layout_parse(mounts, self, ret) < 0)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL, "no cgroup hierarchy is mounted here");
	return 0;
}

const struct cgroup_mount *cgroup_layout_unified(const struct cgroup_layout *l)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->m[i].unified)
			return &l->m[i];
	return NULL;
}
