/* The doctor: what it finds here, what it finds where something is taken away, and that it leaves nothing. */

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/doctor.h"
#include "emulator/idmap.h"

static const struct doctor_check *find(const struct doctor_report *r, const char *id)
{
	for (size_t i = 0; i < r->n; i++)
		if (strcmp(r->check[i].id, id) == 0)
			return &r->check[i];
	cr_assert_fail("no check '%s'", id);
	return NULL;
}

static struct doctor_report run(const char *state_dir)
{
	struct doctor_options o = { .state_dir = state_dir };
	struct doctor_report r;
	struct err e = ERR_INIT;

	cr_assert_eq(doctor_run(&o, &r, &e), 0, "%s", e.msg);
	for (size_t i = 0; i < r.n; i++) {
		const struct doctor_check *c = &r.check[i];

		fprintf(stderr, "%s %s: %s\n", doctor_status_name(c->status), c->id, c->found);
		cr_expect(c->found[0], "%s says nothing", c->id);
		cr_expect_eq(c->status == DOCTOR_OK || c->status == DOCTOR_SKIP, c->means[0] == '\0', "%s", c->id);
	}
	cr_expect(r.verdict[0]);
	return r;
}

static int count_entries(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	cr_assert(d, "%s", path);
	while (readdir(d))
		n++;
	(void)closedir(d);
	return n - 2;
}

static void make_state_dir(char path[static 32])
{
	struct idmap m;

	idmap_choose(&m);
	(void)snprintf(path, 32, "/tmp/doctor.XXXXXX");
	cr_assert(mkdtemp(path));
	cr_assert_eq(chown(path, m.own_uid, m.own_gid), 0);
}

Test(doctor, status_names)
{
	cr_expect_str_eq(doctor_status_name(DOCTOR_OK), "ok");
	cr_expect_str_eq(doctor_status_name(DOCTOR_SKIP), "skip");
	cr_expect_str_eq(doctor_status_name((enum doctor_status)99), "fail");
}

Test(doctor, every_check_once)
{
	struct doctor_report r = run("/nonexistent/state");

	cr_expect_geq(r.n, 10);
	for (size_t i = 0; i < r.n; i++)
		for (size_t k = 0; k < i; k++)
			cr_expect_str_neq(r.check[i].id, r.check[k].id);
	cr_expect_eq(find(&r, "templates")->status, DOCTOR_WARN);
	cr_expect(strstr(find(&r, "templates")->fix, "template build python-3.12"));
}

Test(doctor, leaves_nothing)
{
	static char before[1 << 20], after[1 << 20];
	char dir[32];
	struct doctor_report r;

	make_state_dir(dir);
	cr_assert_gt(fd_read_file(AT_FDCWD, "/proc/self/mountinfo", before, sizeof(before)), 0);
	r = run(dir);
	cr_assert_gt(fd_read_file(AT_FDCWD, "/proc/self/mountinfo", after, sizeof(after)), 0);
	cr_expect_str_eq(before, after);
	cr_expect_eq(count_entries(dir), 0);
	cr_expect_eq(waitpid(-1, NULL, WNOHANG), -1, "a child is left");
	cr_expect_eq(errno, ECHILD);
	if (find(&r, "userns")->status == DOCTOR_OK)
		cr_expect(strstr(find(&r, "overlay")->found, "in the state dir"), "%s", find(&r, "overlay")->found);
	cr_expect_eq(rmdir(dir), 0);
}

Test(doctor, a_state_dir_that_cannot_be_written)
{
	struct doctor_report r = run("/proc");

	if (find(&r, "userns")->status != DOCTOR_OK)
		cr_skip_test("no user namespaces here");
	cr_expect_eq(find(&r, "overlay")->status, DOCTOR_FAIL);
	cr_expect(strstr(find(&r, "overlay")->fix, "--state-dir"));
	cr_expect_not(r.can_run);
	cr_expect(strstr(r.verdict, "can't run"));
}

Test(doctor, templates_are_counted)
{
	static const char *const names[] = { "python-3.12", "python-3.12-bare", "node-22", "ubuntu-24.04" };
	char dir[32], path[96];
	struct doctor_report r;
	FILE *f;

	make_state_dir(dir);
	(void)snprintf(path, sizeof(path), "%s/templates", dir);
	cr_assert_eq(mkdir(path, 0755), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		r = run(dir);
		cr_expect_eq(find(&r, "templates")->status, DOCTOR_WARN);
		(void)snprintf(path, sizeof(path), "template build %s", names[i]);
		cr_expect(strstr(find(&r, "templates")->fix, path), "%s", find(&r, "templates")->fix);
		(void)snprintf(path, sizeof(path), "%s/templates/%s.json", dir, names[i]);
		f = fopen(path, "w");
		cr_assert(f);
		(void)fclose(f);
	}
	r = run(dir);
	cr_expect_eq(find(&r, "templates")->status, DOCTOR_OK);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		(void)snprintf(path, sizeof(path), "%s/templates/%s.json", dir, names[i]);
		(void)unlink(path);
	}
	(void)snprintf(path, sizeof(path), "%s/templates", dir);
	(void)rmdir(path);
	(void)rmdir(dir);
}

/* A host that allows no user namespaces: made by a namespace whose own limit is zero. In a child, because
 * Criterion's process has threads, and such a one can't unshare (unshare(2), CLONE_NEWUSER). Its exit
 * status says which of its expectations failed. */
static int without_user_namespaces(void)
{
	struct doctor_options o = { .state_dir = "/nonexistent" };
	struct doctor_report r;
	char map[32];

	(void)snprintf(map, sizeof(map), "0 %u 1", geteuid());
	if (unshare(CLONE_NEWUSER) < 0 || fd_write_file(AT_FDCWD, "/proc/self/uid_map", map) < 0 ||
	    fd_write_file(AT_FDCWD, "/proc/sys/user/max_user_namespaces", "0") < 0)
		return 77;
	if (doctor_run(&o, &r, NULL) < 0)
		return 1;
	if (find(&r, "userns")->status != DOCTOR_FAIL || !strstr(find(&r, "userns")->fix, "user.max_user_namespaces"))
		return 2;
	if (find(&r, "overlay")->status != DOCTOR_SKIP || find(&r, "cgroup")->status != DOCTOR_SKIP)
		return 3;
	return r.can_run || !strstr(r.verdict, "user namespaces") ? 4 : 0;
}

Test(doctor, a_host_without_user_namespaces)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(without_user_namespaces());
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		cr_skip_test("no user namespace can be made or limited here");
	cr_assert_eq(WEXITSTATUS(status), 0, "expectation %d", WEXITSTATUS(status));
}

/* Too long for a path: an error, not a cut one. */
Test(doctor, a_state_dir_beyond_path_max)
{
	static char path[8192];
	struct doctor_options o = { .state_dir = path };
	struct doctor_report r;
	struct err e = ERR_INIT;

	memset(path, 'a', sizeof(path) - 1);
	cr_expect_eq(doctor_run(&o, &r, &e), -ENAMETOOLONG);
	cr_expect_eq(e.kind, ERR_INVALID);
}
