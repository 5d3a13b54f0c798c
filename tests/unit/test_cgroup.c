/* Cgroups, on whatever this host has: v2 or v1/hybrid as root, v2 as a user with a systemd session, none
 * otherwise. Each kernel test runs as the emulator does: a process prepares with the caller's rights, then
 * its child works on the groups from inside a user namespace as an id without host rights; afterwards
 * nothing may be left. Skips say why; MUST_RUN=1 makes them failures. */

#include "tests/unit/cgroup_session.h"

/* ---- arguments ---- */

Test(cgroup, refuses_bad_instance_names)
{
	static const char *const names[] = { "", "..", "a/b", "UPPER", "a\nb" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct cgroup_root *r = NULL;
		struct err e = ERR_INIT;

		cr_expect_eq(cgroup_prepare(names[i], 0, 0, &r, &e), -EINVAL);
		cr_expect_eq(e.kind, ERR_INVALID);
		cr_expect_null(r);
	}
}

/* ---- the kernel ---- */

static int missing_is_explained(struct cgroup_root *r)
{
	const struct cgroup_features *f = cgroup_root_features(r);
	bool all = f->cpu && f->memory && f->pids && f->freeze && f->kill && f->cpu_reading && f->memory_reading;

	CHECK(all == (cgroup_why(r)[0] == '\0'));
	CHECK(strcmp(cgroup_backend_name(cgroup_root_backend(r)), cgroup_root_backend(r) == CGROUP_V2 ? "v2" : "v1") ==
	      0);
	return SESSION_OK;
}

Test(cgroup, missing_is_explained)
{
	session((struct need){ 0 }, missing_is_explained);
}

Test(cgroup, none_is_explained_and_harmless)
{
	struct cgroup_usage u;
	struct cgroup_root *r;
	struct err e = ERR_INIT;
	pid_t pid = fork();
	int status;

	cr_assert(pid >= 0);
	if (pid == 0) {
		/* an id without a session and without rights has nothing to ask */
		if (geteuid() == 0)
			CHECK(setgroups(0, NULL) == 0 && setresgid(64999, 64999, 64999) == 0 &&
			      setresuid(64999, 64999, 64999) == 0);
		(void)setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
		CHECK(cgroup_prepare("unit-none", geteuid(), getegid(), &r, &e) == 0);
		if (cgroup_root_backend(r) != CGROUP_NONE)
			_exit(SESSION_SKIP);
		CHECK(!cgroup_root_features(r)->cpu && !cgroup_root_features(r)->freeze);
		CHECK(strlen(cgroup_why(r)) > 20);
		CHECK(cgroup_create(r, "s-1", &roomy, &e) == 0);
		CHECK(cgroup_attach(r, "s-1", getpid(), &e) == 0);
		CHECK(cgroup_read(r, "s-1", &u) == -ENOTSUP);
		CHECK(cgroup_freeze(r, "s-1", true, &e) == -ENOTSUP && e.kind == ERR_UNAVAILABLE);
		CHECK(cgroup_kill(r, "s-1") == -ENOTSUP);
		CHECK(cgroup_open_for_clone(r, "s-1") == -ENOTSUP);
		CHECK(cgroup_remove(r, "s-1") == 0);
		cgroup_destroy_root(r);
		cgroup_root_free(r);
		_exit(SESSION_OK);
	}
	status = wait_status(pid);
	cr_assert(WIFEXITED(status));
	if (WEXITSTATUS(status) == SESSION_SKIP)
		cr_skip_test("this user has cgroups even without a session");
	cr_assert(WEXITSTATUS(status) == SESSION_OK);
}

static int count(void *arg, const char *slot)
{
	CHECK(strncmp(slot, "s-", 2) == 0);
	(*(int *)arg)++;
	return 0;
}

static int stop_at_first(_unused_ void *arg, _unused_ const char *slot)
{
	return 7;
}

static int groups_come_and_go(struct cgroup_root *r)
{
	static const char *const bad[] = { "", "..", "a/b", "../daemon", "S", "a.b", "daemon/", "x\n" };
	struct err e = ERR_INIT;
	struct cgroup_limits none = { 0 };
	int n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		CHECK(cgroup_create(r, bad[i], &roomy, &e) == -EINVAL && e.kind == ERR_INVALID);
		CHECK(cgroup_remove(r, bad[i]) == -EINVAL);
		CHECK(cgroup_kill(r, bad[i]) == -EINVAL);
		CHECK(cgroup_attach(r, bad[i], getpid(), NULL) == -EINVAL);
	}
	CHECK(cgroup_create(r, "s-bad", &none, &e) == -EINVAL);
	CHECK(cgroup_each(r, count, &n) == 0 && n == 0);
	CHECK(cgroup_create(r, "s-1", &roomy, &e) == 0);
	CHECK(cgroup_create(r, "s-1", &roomy, &e) == -EEXIST && e.kind == ERR_EXISTS);
	CHECK(cgroup_create(r, "s-2", &roomy, &e) == 0);
	CHECK(cgroup_each(r, count, &n) == 0 && n == 2);
	CHECK(cgroup_each(r, stop_at_first, NULL) == 7);
	CHECK(cgroup_remove(r, "s-1") == 0);
	CHECK(cgroup_remove(r, "s-1") == 0);
	CHECK(cgroup_set_limits(r, "s-1", &roomy, NULL) < 0);
	CHECK(cgroup_attach(r, "s-1", getpid(), NULL) < 0);
	n = 0;
	CHECK(cgroup_each(r, count, &n) == 0 && n == 1);
	return SESSION_OK; /* s-2 is left for cgroup_destroy_root */
}

Test(cgroup, groups_come_and_go)
{
	session((struct need){ 0 }, groups_come_and_go);
}

/* A group another crash left in one hierarchy only is still found and removed. */
static int a_half_made_group_is_found(struct cgroup_root *r)
{
	int n = 0;

	CHECK(mkdirat(r->tree[r->n_trees - 1].fd, "s-half", 0755) == 0);
	CHECK(cgroup_each(r, count, &n) == 0 && n == 1);
	CHECK(cgroup_remove(r, "s-half") == 0);
	/* and a failed create leaves none of it in the others */
	CHECK(mkdirat(r->tree[r->n_trees - 1].fd, "s-half", 0755) == 0);
	CHECK(cgroup_create(r, "s-half", &roomy, NULL) == -EEXIST);
	for (size_t i = 0; i + 1 < r->n_trees; i++)
		CHECK(faccessat(r->tree[i].fd, "s-half", F_OK, 0) < 0);
	return SESSION_OK;
}

Test(cgroup, a_half_made_group_is_found)
{
	session((struct need){ 0 }, a_half_made_group_is_found);
}

static void expect_file(struct cgroup_root *r, unsigned int controller, const char *file, const char *want)
{
	for (size_t i = 0; i < r->n_trees; i++) {
		char path[64], text[64];

		if (!(r->tree[i].controllers & controller))
			continue;
		(void)snprintf(path, sizeof(path), "s-1/%s", file);
		CHECK(fd_read_file(r->tree[i].fd, path, text, sizeof(text)) > 0);
		text[strcspn(text, "\n")] = '\0';
		if (strcmp(text, want) != 0)
			fprintf(stderr, "%s: '%s', not '%s'\n", file, text, want);
		CHECK(strcmp(text, want) == 0);
		return;
	}
	CHECK(false && "a tree with the controller");
}

static int limits_stick(struct cgroup_root *r)
{
	static const struct cgroup_limits steps[] = {
		{ .cpu_millis = 500, .memory_bytes = 128 * MIB, .pids_max = 10 },
		{ .cpu_millis = 2000, .memory_bytes = 512 * MIB, .pids_max = 20 },
		{ .cpu_millis = 10, .memory_bytes = 16 * MIB, .pids_max = 1 },
	};
	static const char *const v2_cpu[] = { "50000 100000", "200000 100000", "1000 100000" };
	static const char *const quota[] = { "50000", "200000", "1000" };
	static const char *const memory[] = { "134217728", "536870912", "16777216" };
	static const char *const pids[] = { "10", "20", "1" };
	bool v2 = cgroup_root_backend(r) == CGROUP_V2;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		CHECK((i == 0 ? cgroup_create : cgroup_set_limits)(r, "s-1", &steps[i], NULL) == 0);
		if (r->features.cpu)
			expect_file(r, CGROUP_CPU, v2 ? "cpu.max" : "cpu.cfs_quota_us", v2 ? v2_cpu[i] : quota[i]);
		expect_file(r, CGROUP_MEMORY, v2 ? "memory.max" : "memory.limit_in_bytes", memory[i]);
		expect_file(r, CGROUP_PIDS, "pids.max", pids[i]);
		if (v2) {
			expect_file(r, CGROUP_MEMORY, "memory.oom.group", "0");
			if (faccessat(r->tree[0].fd, "s-1/memory.swap.max", F_OK, 0) == 0)
				expect_file(r, CGROUP_MEMORY, "memory.swap.max", "0");
		}
	}
	CHECK(cgroup_remove(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, limits_stick)
{
	session((struct need){ .memory = true, .pids = true }, limits_stick);
}

static int fork_until_refused(_unused_ void *arg)
{
	int made = 0;

	for (; made < 20; made++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(pause_forever(NULL));
		if (pid < 0)
			break;
	}
	return made < 20 && errno == EAGAIN ? made : 100;
}

static int pids_are_limited(struct cgroup_root *r)
{
	struct cgroup_limits l = roomy;
	struct cgroup_usage u;
	int status;
	pid_t pid;

	l.pids_max = 4;
	CHECK(cgroup_create(r, "s-1", &l, NULL) == 0);
	pid = start_in(r, "s-1", fork_until_refused, NULL);
	status = wait_status(pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	CHECK(cgroup_read(r, "s-1", &u) == 0);
	CHECK(u.pids == 3 && u.pids_denied >= 1);
	CHECK(cgroup_remove(r, "s-1") == -EBUSY);
	CHECK(cgroup_kill(r, "s-1") == 0);
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, pids_are_limited)
{
	session((struct need){ .pids = true, .freeze = true }, pids_are_limited);
}

static int eat_memory(void *arg)
{
	size_t n = *(size_t *)arg;
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < n; i += 4096)
		p[i] = 1;
	return p[n / 2];
}

static int memory_is_limited(struct cgroup_root *r)
{
	struct cgroup_limits l = roomy;
	size_t much = 96 * MIB, little = 8 * MIB;
	struct cgroup_usage u;
	int status;

	l.memory_bytes = 32 * MIB;
	CHECK(cgroup_create(r, "s-1", &l, NULL) == 0);
	status = wait_status(start_in(r, "s-1", eat_memory, &little));
	CHECK(WIFEXITED(status));
	CHECK(cgroup_read(r, "s-1", &u) == 0 && u.oom_kills == 0);
	status = wait_status(start_in(r, "s-1", eat_memory, &much));
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CHECK(cgroup_read(r, "s-1", &u) == 0);
	CHECK(u.oom_kills == 1);
	CHECK(u.working_set_bytes <= u.memory_bytes && u.memory_bytes <= l.memory_bytes);
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, memory_is_limited)
{
	session((struct need){ .memory = true }, memory_is_limited);
}

#define CACHE_MIB 24

/* Writes a file of CACHE_MIB, twice over: its pages are cache that can be had back. */
static int write_file(void *arg)
{
	static char piece[MIB];
	int fd = *(const int *)arg;

	for (size_t i = 0; i < CACHE_MIB; i++)
		if (write(fd, piece, sizeof(piece)) != (ssize_t)sizeof(piece))
			return 1;
	return fsync(fd) < 0;
}

/* What the kernel could take back is charged, but no part of the working set. */
static int cache_is_no_working_set(struct cgroup_root *r)
{
	bool v2 = cgroup_root_backend(r) == CGROUP_V2;
	uint64_t charged = 0, inactive = 0;
	struct cgroup_tree *t = NULL;
	struct cgroup_usage u;
	int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	CHECK(fd >= 0);
	CHECK(cgroup_create(r, "s-1", &roomy, NULL) == 0);
	CHECK(wait_status(start_in(r, "s-1", write_file, &fd)) == 0);
	for (size_t i = 0; i < r->n_trees; i++)
		if (r->tree[i].controllers & CGROUP_MEMORY)
			t = &r->tree[i];
	CHECK(t != NULL);
	/* Nobody is in the group, but per-cpu charges still come home for a moment. */
	for (int i = 0; i < 50; i++, sleep_ms(20)) {
		CHECK(cgroup_read_u64(t->fd, "s-1", v2 ? "memory.current" : "memory.usage_in_bytes", &charged) == 0);
		CHECK(cgroup_read_key(t->fd, "s-1", "memory.stat", v2 ? "inactive_file" : "total_inactive_file",
				      &inactive) == 0);
		CHECK(cgroup_read(r, "s-1", &u) == 0);
		if (u.memory_bytes == charged && u.memory_bytes - u.working_set_bytes == inactive)
			break;
	}
	CHECK(u.memory_bytes == charged && u.memory_bytes - u.working_set_bytes == inactive);
	CHECK(inactive >= CACHE_MIB / 2 * MIB && u.working_set_bytes < CACHE_MIB / 2 * MIB);
	(void)close(fd);
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, cache_is_no_working_set)
{
	session((struct need){ .memory = true }, cache_is_no_working_set);
}

static int burn(void *arg)
{
	int64_t until = clock_mono_us() + *(int64_t *)arg;

	while (clock_mono_us() < until)
		;
	return 0;
}

static int cpu_is_counted(struct cgroup_root *r)
{
	int64_t us = 60000;
	struct cgroup_usage u;

	CHECK(cgroup_create(r, "s-1", &roomy, NULL) == 0);
	CHECK(cgroup_read(r, "s-1", &u) == 0 && u.cpu_usec == 0);
	CHECK(wait_status(start_in(r, "s-1", burn, &us)) == 0);
	CHECK(cgroup_read(r, "s-1", &u) == 0);
	/* the machine may be busy with others: at least a tenth, and never more than the time that passed */
	CHECK(u.cpu_usec >= 6000 && u.cpu_usec < 1000000);
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, cpu_is_counted)
{
	session((struct need){ 0 }, cpu_is_counted);
}

static int cpu_is_limited(struct cgroup_root *r)
{
	struct cgroup_limits l = roomy;
	int64_t us = 1000000;
	struct cgroup_usage u;

	l.cpu_millis = 100;
	CHECK(cgroup_create(r, "s-1", &l, NULL) == 0);
	CHECK(wait_status(start_in(r, "s-1", burn, &us)) == 0);
	CHECK(cgroup_read(r, "s-1", &u) == 0);
	/* 10 % of a second, and one period more */
	CHECK(u.cpu_usec > 5000 && u.cpu_usec <= 250000);
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, cpu_is_limited)
{
	session((struct need){ .cpu = true }, cpu_is_limited);
}

static int tick(void *arg)
{
	volatile uint64_t *n = arg;

	while (++*n > 0)
		sleep_ms(1);
	return 0;
}

static bool moves(volatile uint64_t *n)
{
	uint64_t then = *n;

	for (int i = 0; i < 100 && *n == then; i++)
		sleep_ms(10);
	return *n != then;
}

static int frozen_stands_still(struct cgroup_root *r)
{
	volatile uint64_t *n = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t then;
	int status;
	pid_t pid;

	CHECK(n != MAP_FAILED);
	CHECK(cgroup_create(r, "s-1", &roomy, NULL) == 0);
	CHECK(cgroup_freeze(r, "s-1", true, NULL) == 0); /* an empty group */
	CHECK(cgroup_freeze(r, "s-1", false, NULL) == 0);
	pid = start_in(r, "s-1", tick, (void *)(uintptr_t)n);
	for (int round = 0; round < 3; round++) {
		CHECK(moves(n));
		CHECK(cgroup_freeze(r, "s-1", true, NULL) == 0);
		then = *n;
		sleep_ms(30);
		CHECK(*n == then);
		CHECK(cgroup_freeze(r, "s-1", true, NULL) == 0); /* again: still so */
		CHECK(cgroup_freeze(r, "s-1", false, NULL) == 0);
	}
	CHECK(moves(n));
	/* what is frozen can be killed */
	CHECK(cgroup_freeze(r, "s-1", true, NULL) == 0);
	CHECK(cgroup_kill(r, "s-1") == 0);
	status = wait_status(pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CHECK(remove_soon(r, "s-1") == 0);
	CHECK(cgroup_freeze(r, "s-1", true, NULL) < 0);
	return SESSION_OK;
}

Test(cgroup, frozen_stands_still)
{
	session((struct need){ .freeze = true }, frozen_stands_still);
}

static int fork_a_few(_unused_ void *arg)
{
	for (int i = 0; i < 3; i++)
		if (fork() == 0)
			(void)fork();
	return pause_forever(NULL);
}

static int kill_reaches_everything(struct cgroup_root *r)
{
	int status;
	pid_t pid;

	CHECK(cgroup_create(r, "s-1", &roomy, NULL) == 0);
	pid = start_in(r, "s-1", fork_a_few, NULL);
	sleep_ms(50);
	CHECK(cgroup_kill(r, "s-1") == 0);
	status = wait_status(pid);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, kill_reaches_everything)
{
	session((struct need){ .freeze = true }, kill_reaches_everything);
}

static int clone_puts_it_there(struct cgroup_root *r)
{
	struct clone_args a = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD };
	struct cgroup_usage u;
	int fd, status;
	pid_t pid;

	CHECK(cgroup_create(r, "s-1", &roomy, NULL) == 0);
	fd = cgroup_open_for_clone(r, "s-1");
	if (cgroup_root_backend(r) != CGROUP_V2) {
		CHECK(fd == -ENOTSUP);
		return SESSION_OK;
	}
	CHECK(fd >= 0);
	CHECK(cgroup_open_for_clone(r, "s-none") == -ENOENT);
	a.cgroup = (unsigned int)fd;
	pid = sys_clone3(&a);
	if (pid == 0)
		_exit(pause_forever(NULL));
	CHECK(pid > 0);
	CHECK(!r->features.pids || (cgroup_read(r, "s-1", &u) == 0 && u.pids == 1));
	CHECK(cgroup_remove(r, "s-1") == -EBUSY);
	CHECK(cgroup_kill(r, "s-1") == 0);
	status = wait_status(pid);
	CHECK(WIFSIGNALED(status));
	CHECK(remove_soon(r, "s-1") == 0);
	return SESSION_OK;
}

Test(cgroup, clone_puts_it_there)
{
	session((struct need){ 0 }, clone_puts_it_there);
}

/* ---- v2 without systemd ---- */

static void hide_systemd(void)
{
	CHECK(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	if (access("/run/systemd", F_OK) == 0)
		CHECK(mount("tmpfs", "/run/systemd", "tmpfs", 0, NULL) == 0);
}

static bool root_on_pure_v2(void)
{
	return geteuid() == 0 && access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
}

static int everything(struct cgroup_root *r)
{
	CHECK(limits_stick(r) == 0);
	CHECK(pids_are_limited(r) == 0);
	CHECK(memory_is_limited(r) == 0);
	CHECK(frozen_stands_still(r) == 0);
	CHECK(clone_puts_it_there(r) == 0);
	return SESSION_OK;
}

/* A child of the nearest group that gives its children controllers; the janitor takes it away. */
Test(cgroup, v2_child_of_a_group)
{
	char name[32];
	int status;
	pid_t pid;

	if (!root_on_pure_v2())
		cr_skip_test("needs root and cgroup v2");
	(void)snprintf(name, sizeof(name), "unit-%d", getpid());
	pid = fork();
	if (pid == 0) {
		struct cgroup_root *r;

		hide_systemd();
		r = prepare(name);
		CHECK(cgroup_root_backend(r) == CGROUP_V2 && r->tree[0].parent_fd >= 0);
		CHECK(in_userns(everything, r) == 0);
		cgroup_destroy_root(r);
		_exit(0);
	}
	status = wait_status(pid);
	cr_assert(gone(name));
	cr_assert_eq(status, 0);
}

/* The group the launcher was started in, when it is alone there. */
Test(cgroup, v2_own_group)
{
	char group[64], path[96];
	int status;
	pid_t pid;

	if (!root_on_pure_v2())
		cr_skip_test("needs root and cgroup v2");
	(void)snprintf(group, sizeof(group), "/sys/fs/cgroup/unit-own-%d", getpid());
	cr_assert_eq(mkdir(group, 0755), 0);
	pid = fork();
	if (pid == 0) {
		struct cgroup_root *r;

		hide_systemd();
		(void)snprintf(path, sizeof(path), "%s/cgroup.procs", group);
		CHECK(fd_write_file(AT_FDCWD, path, "0") == 0);
		r = prepare("unit-own");
		CHECK(cgroup_root_backend(r) == CGROUP_V2 && r->tree[0].parent_fd < 0);
		CHECK(in_userns(everything, r) == 0);
		cgroup_destroy_root(r);
		_exit(0);
	}
	status = wait_status(pid);
	(void)snprintf(path, sizeof(path), "%s/daemon", group);
	cr_expect_eq(remove_at(AT_FDCWD, path), 0);
	cr_expect_eq(remove_at(AT_FDCWD, group), 0, "more than the leaf was left");
	cr_assert_eq(status, 0);
}

/* ---- v1 ---- */

/* The v1 freezer stands in where there is no v2 tree: take that away, and do the same again. */
static int v1_freezer_alone(struct cgroup_root *r)
{
	struct cgroup_layout *l = malloc(sizeof(*l));
	int k;

	CHECK(l && cgroup_layout_read(l, NULL) == 0);
	for (size_t i = 0; i < l->n; i++)
		if (l->m[i].unified)
			l->m[i--] = l->m[--l->n];
	r->leash = -1;
	(void)snprintf(r->top, sizeof(r->top), CGROUP_PREFIX "unit-%d", getppid());
	k = cgroup_v1_prepare(r, l, HOST_ID, HOST_ID, NULL);
	free(l);
	return k;
}

Test(cgroup, v1_freezer_alone)
{
	struct cgroup_root *r = calloc(1, sizeof(*r));
	char name[32];
	int status;
	pid_t pid;

	cr_assert(r);
	(void)snprintf(name, sizeof(name), "unit-%d", getpid());
	if (geteuid() != 0 || access("/sys/fs/cgroup/freezer", F_OK) < 0) {
		free(r);
		cr_skip_test("no v1 freezer here, or not root");
	}
	pid = fork();
	if (pid == 0) {
		CHECK(v1_freezer_alone(r) == 0);
		CHECK(r->features.freeze && r->features.kill);
		CHECK(in_userns(frozen_stands_still, r) == 0);
		CHECK(in_userns(kill_reaches_everything, r) == 0);
		cgroup_destroy_root(r);
		cgroup_root_free(r);
		_exit(0);
	}
	status = wait_status(pid);
	free(r);
	cr_assert(gone(name));
	cr_assert_eq(status, 0);
}

/* ---- an emulator that died ---- */

static pid_t *orphan; /* shared */

static int leave_an_orphan(struct cgroup_root *r)
{
	CHECK(cgroup_create(r, "s-old", &roomy, NULL) == 0);
	*orphan = fork();
	CHECK(*orphan >= 0);
	if (*orphan == 0) {
		cgroup_root_free(r); /* as a sandbox's init does: it holds nothing of the emulator's */
		(void)sys_close_range(0, ~0u, 0);
		_exit(pause_forever(NULL));
	}
	CHECK(cgroup_attach(r, "s-old", *orphan, NULL) == 0);
	return SESSION_OK;
}

static int adopt(struct cgroup_root *r)
{
	struct cgroup_usage u;
	int n = 0;

	CHECK(cgroup_each(r, count, &n) == 0 && n == 1);
	CHECK(cgroup_read(r, "s-old", &u) == 0);
	CHECK(cgroup_create(r, "s-new", &roomy, NULL) == 0);
	CHECK(wait_status(start_in(r, "s-new", burn, &(int64_t){ 1000 })) == 0);
	CHECK(cgroup_remove(r, "s-old") == -EBUSY);
	CHECK(cgroup_kill(r, "s-old") == 0);
	CHECK(remove_soon(r, "s-old") == 0);
	CHECK(remove_soon(r, "s-new") == 0);
	return SESSION_OK;
}

/* In a process of its own: prepare, run fn in the namespace; clean up or vanish. */
static int run_once(const char *name, int (*fn)(struct cgroup_root *r), bool clean)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct cgroup_root *r = prepare(name);
		int k = has(r, (struct need){ .freeze = true }) ? in_userns(fn, r) : SESSION_SKIP;

		if (clean)
			cgroup_destroy_root(r);
		_exit(k);
	}
	status = wait_status(pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : SESSION_FAILED;
}

Test(cgroup, the_next_run_adopts)
{
	char name[32];
	int k;

	orphan = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert(orphan != MAP_FAILED);
	(void)snprintf(name, sizeof(name), "unit-%d", getpid());
	k = run_once(name, leave_an_orphan, false);
	if (k == SESSION_OK)
		k = run_once(name, adopt, true);
	if (*orphan > 0)
		(void)kill(*orphan, SIGKILL);
	cr_assert(gone(name));
	if (k == SESSION_SKIP)
		skip("this host gives us no cgroups");
	cr_assert_eq(k, SESSION_OK);
}

static int leave_an_empty_group(struct cgroup_root *r)
{
	CHECK(cgroup_create(r, "s-old", &roomy, NULL) == 0);
	return SESSION_OK;
}

/* Whatever an emulator leaves when it is killed, someone takes away: systemd its scope, the janitor the rest. */
Test(cgroup, a_killed_run_leaves_nothing)
{
	char name[32];
	int k;

	(void)snprintf(name, sizeof(name), "unit-%d", getpid());
	k = run_once(name, leave_an_empty_group, false);
	cr_assert(gone(name));
	if (k == SESSION_SKIP)
		skip("this host gives us no cgroups");
	cr_assert_eq(k, SESSION_OK);
}
