#pragma once
/* Fixture of test_cgroup.c: a session runs a test's body as the emulator runs (prepare with the caller's
 * rights, work from inside a user namespace without them) and checks that nothing is left afterwards. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"
#include "tests/unit/check.h"
#include "tests/unit/slow.h"

#define MIB (1024ull * 1024)
#define HOST_ID 100000u /* the emulator's id when root runs the tests */

static const struct cgroup_limits roomy = { .cpu_millis = 1000, .memory_bytes = 256 * MIB, .pids_max = 64 };

enum { SESSION_OK, SESSION_FAILED, SESSION_SKIP = 77 };

static void sleep_ms(long ms)
{
	(void)nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static int wait_status(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return status;
}

static void write_proc(pid_t pid, const char *file, const char *text)
{
	char path[64];

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	CHECK(fd_write_file(AT_FDCWD, path, text) == 0);
}

/* Runs fn in a new user namespace as its id 0, which on the host is HOST_ID or the caller itself. */
static int in_userns(int (*fn)(struct cgroup_root *r), struct cgroup_root *r)
{
	int ready[2], go[2], status;
	char map[64], c = 0;
	pid_t pid;

	CHECK(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
		CHECK(unshare(CLONE_NEWUSER) == 0);
		CHECK(write(ready[1], &c, 1) == 1 && read(go[0], &c, 1) == 1);
		CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
		_exit(fn(r));
	}
	CHECK(read(ready[0], &c, 1) == 1);
	if (geteuid() != 0)
		write_proc(pid, "setgroups", "deny");
	(void)snprintf(map, sizeof(map), "0 %u 1", geteuid() == 0 ? HOST_ID : getegid());
	write_proc(pid, "gid_map", map);
	(void)snprintf(map, sizeof(map), "0 %u 1", geteuid() == 0 ? HOST_ID : geteuid());
	write_proc(pid, "uid_map", map);
	CHECK(write(go[1], &c, 1) == 1);
	status = wait_status(pid);
	for (int i = 0; i < 2; i++) {
		(void)close(ready[i]);
		(void)close(go[i]);
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : SESSION_FAILED;
}

static struct cgroup_root *prepare(const char *name)
{
	struct cgroup_root *r = NULL;
	struct err e = ERR_INIT;
	uid_t uid = geteuid() == 0 ? HOST_ID : geteuid();
	gid_t gid = geteuid() == 0 ? HOST_ID : getegid();
	int k = cgroup_prepare(name, uid, gid, &r, &e);

	if (k < 0)
		fprintf(stderr, "cgroup_prepare: %s\n", e.msg);
	CHECK(k == 0 && r);
	if (cgroup_why(r)[0])
		fprintf(stderr, "cgroups: %s\n", cgroup_why(r));
	return r;
}

static char wanted_folder[128];

static int look(const char *path, _unused_ const struct stat *st, int type, _unused_ struct FTW *f)
{
	return type == FTW_D && strstr(path, wanted_folder) != NULL;
}

/* True once no cgroup folder of that name exists any more (systemd and the janitor need a moment). */
static bool gone(const char *name)
{
	(void)snprintf(wanted_folder, sizeof(wanted_folder), CGROUP_PREFIX "%s", name);
	for (int i = 0; i < 100; i++) {
		if (nftw("/sys/fs/cgroup", look, 16, FTW_PHYS) == 0)
			return true;
		sleep_ms(100);
	}
	return false;
}

static void skip(const char *why)
{
	const char *must = getenv("MUST_RUN");

	cr_assert(!must || strcmp(must, "1") != 0, "must run, but: %s", why);
	cr_skip_test("%s", why);
}

/* What a test needs of the host; the body runs when it is there. */
struct need {
	bool cpu, memory, pids, freeze;
};

static bool has(const struct cgroup_root *r, struct need n)
{
	const struct cgroup_features *f = cgroup_root_features(r);

	return cgroup_root_backend(r) != CGROUP_NONE && (!n.cpu || f->cpu) && (!n.memory || f->memory) &&
	       (!n.pids || f->pids) && (!n.freeze || (f->freeze && f->kill));
}

static void session(struct need n, int (*body)(struct cgroup_root *r))
{
	char name[32];
	int status;
	pid_t pid;

	(void)snprintf(name, sizeof(name), "unit-%d", getpid());
	pid = fork();
	cr_assert(pid >= 0);
	if (pid == 0) {
		struct cgroup_root *r = prepare(name);
		int k = SESSION_SKIP;

		if (has(r, n)) {
			k = in_userns(body, r);
			cgroup_destroy_root(r);
		}
		cgroup_root_free(r);
		_exit(k);
	}
	status = wait_status(pid);
	cr_assert(gone(name), "a cgroup of %s is left", name);
	cr_assert(WIFEXITED(status), "the session died: status %d", status);
	if (WEXITSTATUS(status) == SESSION_SKIP)
		skip("this host does not give us the cgroup controllers this test needs");
	cr_assert(WEXITSTATUS(status) == SESSION_OK);
}

/* A child that waits in the group before it does anything. */
static pid_t start_in(struct cgroup_root *r, const char *slot, int (*fn)(void *arg), void *arg)
{
	int go[2];
	char c = 0;
	pid_t pid;

	CHECK(pipe2(go, O_CLOEXEC) == 0);
	pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
		CHECK(read(go[0], &c, 1) == 1);
		_exit(fn(arg));
	}
	CHECK(cgroup_attach(r, slot, pid, NULL) == 0);
	CHECK(write(go[1], &c, 1) == 1);
	(void)close(go[0]);
	(void)close(go[1]);
	return pid;
}

static int pause_forever(_unused_ void *arg)
{
	while (pause() < 0)
		;
	return 0;
}

/* rmdir, tried for a second (slow.h) while the last processes go. */
static int remove_at(int dirfd, const char *path)
{
	int k = -1;

	for (uint64_t i = 0; i < slow_ms(200) && k < 0; i++) {
		k = unlinkat(dirfd, path, AT_REMOVEDIR);
		if (k < 0)
			sleep_ms(5);
	}
	return k;
}

/* A zombie may stay in its group for a moment after it was reaped. */
static int remove_soon(struct cgroup_root *r, const char *slot)
{
	int k = -EBUSY;

	for (uint64_t i = 0; i < slow_ms(200) && k == -EBUSY; i++) {
		k = cgroup_remove(r, slot);
		if (k == -EBUSY)
			sleep_ms(5);
	}
	return k;
}
