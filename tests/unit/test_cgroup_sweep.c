#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/cgroup-internal.h"

static struct cgroup_layout layout;

/* Makes own/orkestr-emulator-NAME/... in each hierarchy that lets us; returns in how many. */
static int make(const char *name, char paths[][PATH_MAX])
{
	int n = 0;

	cr_assert_eq(cgroup_layout_read(&layout, NULL), 0);
	for (size_t i = 0; i < layout.n; i++) {
		char top[PATH_MAX + 128], slot[PATH_MAX + 160];

		(void)snprintf(top, sizeof(top), "%s/" CGROUP_PREFIX "%s", layout.m[i].own, name);
		(void)snprintf(slot, sizeof(slot), "%s/s-1", top);
		if (strlen(slot) >= PATH_MAX || mkdir(top, 0755) < 0)
			continue;
		cr_assert_eq(mkdir(slot, 0755), 0);
		memcpy(paths[n++], top, strlen(top) + 1);
	}
	return n;
}

Test(cgroup_sweep, removes_what_is_left_and_only_that)
{
	static char mine[CGROUP_MAX_TREES][PATH_MAX], other[CGROUP_MAX_TREES][PATH_MAX];
	struct err e = ERR_INIT;
	int n = make("sweep-test", mine), m;

	if (n == 0)
		cr_skip_test("no cgroup hierarchy here lets us make a group");
	m = make("sweep-test-2", other);
	cr_assert_eq(m, n);
	cr_assert_eq(cgroup_sweep("sweep-test", &e), 0, "%s", e.msg);
	for (int i = 0; i < n; i++) {
		cr_assert_neq(access(mine[i], F_OK), 0, "%s is still there", mine[i]);
		cr_assert_eq(access(other[i], F_OK), 0, "%s was another's", other[i]);
	}
	cr_assert_eq(cgroup_sweep("sweep-test", &e), 0); /* nothing is fine too */
	cr_assert_eq(cgroup_sweep("sweep-test-2", &e), 0, "%s", e.msg);
	cr_assert_eq(cgroup_sweep("../x", &e), -EINVAL);
}

Test(cgroup_sweep, ends_what_runs_in_it)
{
	static char mine[CGROUP_MAX_TREES][PATH_MAX];
	const struct cgroup_mount *unified;
	struct err e = ERR_INIT;
	char file[PATH_MAX + 64], pid_s[16];
	int n = make("sweep-kill", mine), status;
	pid_t pid;

	unified = cgroup_layout_unified(&layout);
	(void)snprintf(file, sizeof(file), "%s/" CGROUP_PREFIX "sweep-kill/s-1/cgroup.procs",
		       unified ? unified->own : "");
	if (n == 0 || !unified || access(file, W_OK) < 0) {
		(void)cgroup_sweep("sweep-kill", NULL);
		cr_skip_test("no v2 tree here lets us make a group");
	}
	pid = fork();
	if (pid == 0) {
		(void)pause();
		_exit(0);
	}
	(void)snprintf(pid_s, sizeof(pid_s), "%d", pid);
	cr_assert_eq(fd_write_file(AT_FDCWD, file, pid_s), 0);
	cr_assert_eq(cgroup_sweep("sweep-kill", &e), 0, "%s", e.msg);
	cr_assert_eq(waitpid(pid, &status, WNOHANG), pid);
	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	for (int i = 0; i < n; i++)
		cr_assert_neq(access(mine[i], F_OK), 0);
}
