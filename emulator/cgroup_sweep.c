/* What an emulator left that was killed together with its keeper and its janitor: the next start adopts
 * such a subtree; `clean` has to take it away. Nothing is made here, only removed.
 *
 * A systemd scope is no matter of ours: systemd drops it with its last process. The rest stands in the
 * group that the emulator was started from or, on v2, in one above it; whoever cleans may be in another
 * group, so each one from ours up to the mount is looked at. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"

#define SWEEP_TRIES 40 /* with 50 ms between them: killed processes need a moment to be gone */

static int remove_top(int parent_fd, const char *top)
{
	int r = 0;

	for (int i = 0; i < SWEEP_TRIES; i++) {
		_cleanup_close_ int fd = cgroup_open_dir(parent_fd, top);

		if (fd < 0)
			return fd == -ENOENT ? 0 : fd;
		(void)fd_write_file(fd, "cgroup.kill", "1"); /* only the v2 tree has it, on hybrid hosts too */
		r = cgroup_remove_tree(parent_fd, top, 3);
		if (r != -EBUSY)
			return r;
		(void)nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
	}
	return r;
}

static int sweep_mount(struct cgroup_mount *m, const char *top)
{
	char *slash;
	int r = 0;

	if (strstr(m->own, top)) /* started from inside of what it should remove */
		return -EBUSY;
	while (strlen(m->own) >= strlen(m->base)) {
		_cleanup_close_ int fd = cgroup_open_dir(AT_FDCWD, m->own);

		if (fd >= 0)
			r = MIN(r, remove_top(fd, top));
		slash = strrchr(m->own, '/');
		if (!slash)
			break;
		*slash = '\0';
	}
	return r;
}

static unsigned int count_mount(struct cgroup_mount *m, const char *top)
{
	unsigned int n = 0;
	char *slash;

	while (strlen(m->own) >= strlen(m->base)) {
		_cleanup_close_ int fd = cgroup_open_dir(AT_FDCWD, m->own);
		_cleanup_close_ int found = fd < 0 ? -1 : cgroup_open_dir(fd, top);

		n += found >= 0;
		slash = strrchr(m->own, '/');
		if (!slash)
			break;
		*slash = '\0';
	}
	return n;
}

unsigned int cgroup_count(const char *name)
{
	_cleanup_free_ struct cgroup_layout *l = malloc(sizeof(*l));
	char top[CGROUP_NAME_MAX + sizeof(CGROUP_PREFIX)];
	unsigned int n = 0;

	if (!l || !cgroup_word_valid(name, CGROUP_NAME_MAX) || cgroup_layout_read(l, NULL) < 0)
		return 0;
	(void)text_format(top, sizeof(top), CGROUP_PREFIX "%s", name);
	for (size_t i = 0; i < l->n; i++)
		n += count_mount(&l->m[i], top);
	return n;
}

int cgroup_sweep(const char *name, struct err *e)
{
	_cleanup_free_ struct cgroup_layout *l = malloc(sizeof(*l));
	char top[CGROUP_NAME_MAX + sizeof(CGROUP_PREFIX)];
	int r = 0;

	if (!l)
		return err_errno(e, ENOMEM, "cgroups");
	if (!cgroup_word_valid(name, CGROUP_NAME_MAX))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a name for a cgroup: '%.64s'", name);
	if (cgroup_layout_read(l, NULL) < 0)
		return 0; /* no cgroups at all: none of ours */
	(void)text_format(top, sizeof(top), CGROUP_PREFIX "%s", name);
	/* The v2 tree first: its kill empties the others. */
	for (size_t i = 0; i < l->n; i++)
		if (l->m[i].unified)
			r = MIN(r, sweep_mount(&l->m[i], top));
	for (size_t i = 0; i < l->n; i++)
		if (!l->m[i].unified)
			r = MIN(r, sweep_mount(&l->m[i], top));
	return r < 0 ? err_errno(e, -r, "cannot remove the cgroup %s", top) : 0;
}
