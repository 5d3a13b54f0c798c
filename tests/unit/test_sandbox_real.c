/* Sandboxes and execs over the real keeper, init, cgroups and folders; only store and templates are faked. */
#define FAKES_REAL_KERNEL
#include "tests/unit/sandbox_fakes.h"

#include "emulator/base/clock.h"
#include "tests/unit/slow.h"

static struct idmap map;
static struct cgroup_root *cg;
static struct keeper *keeper;
static pid_t keeper_pid;
static char box[SANDBOX_ID_SIZE];

/* In E: a layer of the host's own shell and a few tools, as the sandbox's root owns it. */
static int fill_state(void *arg _unused_)
{
	uid_t uid = idmap_sandbox_uid(&map, 0);
	struct err e = ERR_INIT;
	char cmd[1024];

	if (tree_prepare_state(state_fd, &e) < 0)
		return 1;
	(void)snprintf(
		cmd, sizeof(cmd),
		"cd %s/disk/l && mkdir layer0 && cd layer0 && mkdir -p bin lib64 lib proc sys dev workspace tmp && "
		"for b in sh cat id head sleep wc yes; do p=$(readlink -f $(command -v $b)); cp $p bin/$b; "
		"for l in $(ldd $p | grep -o '/[^ )]*'); do mkdir -p .$(dirname $l); cp -n $l .$l; done; done; "
		"chown -R %u:%u .",
		state_dir, uid, uid);
	return execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
}

static int count_entry(void *arg, const char *slot _unused_)
{
	++*(int *)arg;
	return 0;
}

static void start_all(void)
{
	struct keeper_config kc = { .idmap = &map };
	struct sandboxes_config c = { .loop = &loop, .idmap = &map, .network = { .egress_sock = -1 } };
	struct keeper_events ev;
	struct err e = ERR_INIT;
	struct keeper_started kept = { .userns_fd = -1, .sock = -1 };
	int st;
	pid_t pid;

	log_set_level(LOG_LEVEL_WARN);
	cr_assert(idmap_spawn(&map, fill_state, NULL, &pid, NULL, &e) == 0, "%s", e.msg);
	cr_assert(waitpid(pid, &st, 0) == pid && st == 0);
	kc.cgroups = c.cgroups = cg;
	kc.state_fd = c.state_fd = state_fd;
	cr_assert(keeper_start(&kc, &kept, &e) == 0, "%s", e.msg);
	cr_assert(idmap_enter(&map, kept.userns_fd, &e) == 0, "%s", e.msg);
	(void)close(kept.userns_fd);
	keeper_pid = kept.pid;
	cr_assert(snapshot_dir_open(state_fd, -1, NULL, &c.snapshots, &e) == 0, "%s", e.msg);
	cr_assert(uv_loop_init(&loop) == 0);
	cr_assert(sandboxes_new(&c, &mgr, &e) == 0, "%s", e.msg);
	sandboxes_keeper_events(mgr, &ev);
	cr_assert(keeper_connect(&loop, kept.sock, &ev, &keeper, &e) == 0, "%s", e.msg);
	sandboxes_set_keeper(mgr, keeper);
	cr_assert(sandboxes_sweep(mgr, &e) == 0, "%s", e.msg);
}

static void end_all(void)
{
	int n = 0;

	sandboxes_shutdown(mgr, false, on_stopped, NULL);
	cr_assert(spin(&stopped, 15000), "the shutdown hangs");
	cr_expect(tree_each_slot(state_fd, count_entry, &n) == 0 && n == 0, "a folder is left");
	cr_expect(cgroup_each(cg, count_entry, &n) == 0 && n == 0, "a cgroup is left");
	sandboxes_free(mgr);
	keeper_stop(keeper);
	keeper_free(keeper);
	uv_run(&loop, UV_RUN_DEFAULT);
	cr_expect(uv_loop_close(&loop) == 0, "a handle is left open");
	for (size_t i = 0; i < n_rows; i++)
		sandbox_row_clear(&rows[i]);
	buf_free(&trace);
}

static int wipe(void *arg _unused_)
{
	int n = 0;

	(void)tree_each_slot(state_fd, count_entry, &n);
	(void)tree_remove(state_fd, "disk", NULL);
	(void)tree_remove(state_fd, "snapshots", NULL);
	return tree_remove(state_fd, "templates", NULL) < 0;
}

/* Runs the test in a child, which gives up the host's rights; this half makes and removes what needs them. */
static void in_world(void (*test)(void))
{
	struct err e = ERR_INIT;
	char name[64];
	pid_t pid;
	int st = -1;

	idmap_choose(&map);
	cr_assert(mkdtemp(state_dir));
	cr_assert(chown(state_dir, map.own_uid, map.own_gid) == 0);
	state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)snprintf(name, sizeof(name), "unit-sandbox-%d", getpid());
	cr_assert(cgroup_prepare(name, map.own_uid, map.own_gid, &cg, &e) == 0, "%s", e.msg);
	pid = fork();
	if (pid == 0) {
		start_all();
		test();
		end_all();
		_exit(0);
	}
	cr_assert(waitpid(pid, &st, 0) == pid);
	/* A child that failed left its keeper behind; by design that outlives its daemon. */
	(void)keeper_end_stale(state_fd, NULL, NULL);
	cgroup_destroy_root(cg);
	cgroup_root_free(cg);
	if (idmap_spawn(&map, wipe, NULL, &pid, NULL, &e) == 0)
		(void)waitpid(pid, NULL, 0);
	(void)unlinkat(state_fd, "keeper.sock", 0);
	(void)close(state_fd);
	if (rmdir(state_dir) < 0)
		abort();
	/* What failed was said by the child. */
	if (st != 0)
		abort();
}

struct run {
	bool done;
	struct exec_result r;
	char out[2][4096];
};

static void on_done(void *arg, const struct exec_result *r)
{
	struct run *k = arg;

	k->done = true;
	k->r = *r;
	for (int i = 0; i < 2; i++)
		(void)snprintf(k->out[i], sizeof(k->out[i]), "%s", r->out[i]->p ? r->out[i]->p : "");
}

static struct run run_spec(const struct exec_spec *s)
{
	struct run k = { 0 };
	const struct exec_events ev = { .done = on_done, .arg = &k };
	struct err e = ERR_INIT;
	struct exec *x;

	cr_assert(exec_start(mgr, &team, box, s, &ev, &x, &e) == 0, "%s", e.msg);
	cr_assert(spin(&k.done, 20000), "%s doesn't end", s->command);
	return k;
}

static struct run run(const char *command)
{
	struct exec_spec s = { .command = command };

	return run_spec(&s);
}

static void terminate(void)
{
	struct answer a = { 0 };
	struct err e = ERR_INIT;

	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0, "%s", e.msg);
	cr_assert(spin(&a.done, 12000));
	cr_assert(a.row.status == SANDBOX_TERMINATED);
}

static void test_commands(void)
{
	static const struct {
		const char *command, *out, *err;
		enum exec_reason reason;
		int code;
	} table[] = {
		{ "echo hello; echo bad >&2; exit 3", "hello\n", "bad\n", EXEC_EXITED, 3 },
		{ "pwd; id -u; echo $A $HOME", "/workspace\n0\n1 /root\n", "", EXEC_EXITED, 0 },
		{ "echo a >/dev/stdout; echo b >/dev/stderr; cat /dev/stdin", "a\n", "b\n", EXEC_EXITED, 0 },
		{ "kill -9 $$", "", "", EXEC_SIGNAL, 137 },
		{ "sleep 30 & echo started", "started\n", "", EXEC_EXITED, 0 },
		{ "head -c 3000000 /dev/zero | wc -c", "3000000\n", "", EXEC_EXITED, 0 },
	};
	static const char *const missing[] = { "no-such-program", NULL };
	struct exec_spec s = { .argv = missing };
	struct run k;

	create_running(box, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		k = run(table[i].command);
		cr_assert(k.r.reason == table[i].reason && k.r.exit_code == table[i].code, "%s: %s %d",
			  table[i].command, exec_reason_name(k.r.reason), k.r.exit_code);
		cr_assert_str_eq(k.out[0], table[i].out, "%s: %s", table[i].command, k.out[0]);
		cr_assert_str_eq(k.out[1], table[i].err, "%s: %s", table[i].command, k.out[1]);
	}
	k = run_spec(&s);
	cr_assert(k.r.exit_code == 127);
	cr_assert_str_eq(k.out[1], "orkestr: no-such-program: No such file or directory\n", "%s", k.out[1]);
	s = (struct exec_spec){ .command = "cat /dev/stdin", .stdin_data = "through a pipe", .stdin_len = 14 };
	k = run_spec(&s);
	cr_assert_str_eq(k.out[0], "through a pipe", "%s %s", k.out[0], k.out[1]);
	terminate();
}

Test(sandbox_real, commands, .timeout = 30)
{
	in_world(test_commands);
}

static void test_time_out_and_oom(void)
{
	struct exec_spec s = { .command = "echo before; sleep 30; echo after", .timeout_s = 1 };
	struct sandbox_spec spec = spec_default();
	struct answer a = { 0 };
	struct err e = ERR_INIT;
	struct run k;

	spec.memory_mb = 64;
	cr_assert(sandbox_create(mgr, &team, &spec, on_answer, &a, &e) == 0, "%s", e.msg);
	cr_assert(spin(&a.done, 5000) && a.e.kind == ERR_NONE, "%s", a.e.msg);
	(void)snprintf(box, sizeof(box), "%s", a.row.id);
	k = run_spec(&s);
	cr_assert(k.r.reason == EXEC_TIMEOUT && k.r.duration_ms >= 1000 && k.r.duration_ms < 1000 + slow_ms(500), "%s",
		  exec_reason_name(k.r.reason));
	cr_assert_str_eq(k.out[0], "before\n");
	if (cgroup_root_features(cg)->memory) {
		k = run("x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done");
		cr_assert(k.r.reason == EXEC_OOM && k.r.exit_code == 137, "%s %d", exec_reason_name(k.r.reason),
			  k.r.exit_code);
	}
	k = run("echo still here");
	cr_assert_str_eq(k.out[0], "still here\n");
	terminate();
}

Test(sandbox_real, time_out_and_oom, .timeout = 30)
{
	in_world(test_time_out_and_oom);
}

struct busy {
	struct exec_reader *reader;
	struct exec_result r;
	bool ready, done;
	size_t bytes;
};

static void on_wake(void *arg)
{
	struct busy *b = arg;
	struct exec_event ev;

	while (exec_reader_next(b->reader, &ev)) {
		if (ev.kind == EXEC_EVENT_END) {
			b->done = true;
			b->r = *ev.result;
			return;
		}
		cr_assert(ev.kind == EXEC_EVENT_OUTPUT);
		cr_assert(b->bytes > 0 || ev.n < 6 || strncmp(ev.p, "ready\n", 6) == 0);
		b->bytes += ev.n;
		b->ready = true;
	}
}

/* A hundred children and one that floods its output: all is answered, nothing is left. */
static void test_busy_end(void)
{
	struct busy b = { 0 };
	const struct exec_reader_config c = { .primary = true, .wake = on_wake, .arg = &b };
	struct exec_spec s = { .command = "i=0; while [ $i -lt 100 ]; do sleep 60 & i=$((i+1)); done; echo ready; yes",
			       .streamed = true };
	struct err e = ERR_INIT;
	struct exec *x;

	create_running(box, NULL);
	cr_assert(exec_start(mgr, &team, box, &s, NULL, &x, &e) == 0, "%s", e.msg);
	cr_assert(exec_reader_new(x, &c, &b.reader, &e) == 0, "%s", e.msg);
	cr_assert(spin(&b.ready, 10000));
	terminate();
	cr_assert(b.done && b.r.reason == EXEC_TERMINATED);
	exec_reader_free(b.reader);
}

Test(sandbox_real, busy_end, .timeout = 30)
{
	in_world(test_busy_end);
}

/* The init is killed from outside, as the kernel's OOM killer would. */
static void test_init_killed(void)
{
	struct sandbox_row row = { 0 };
	struct err e = ERR_INIT;
	char path[64], buf[64] = "";
	FILE *f;
	int pid = 0;

	create_running(box, NULL);
	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", keeper_pid, keeper_pid);
	f = fopen(path, "re");
	cr_assert(f && fgets(buf, sizeof(buf), f) && sscanf(buf, "%d", &pid) == 1);
	(void)fclose(f);
	cr_assert(kill(pid, SIGKILL) == 0);
	spin_for(300);
	cr_assert(sandbox_get(mgr, &team, box, &row, &e) == 0);
	cr_assert(row.status == SANDBOX_TERMINATED && strcmp(row.termination_reason, "failed") == 0, "%s",
		  row.termination_reason);
	cr_assert(row.failure);
	sandbox_row_clear(&row);
}

Test(sandbox_real, init_killed, .timeout = 30)
{
	in_world(test_init_killed);
}

static int compare(const void *a, const void *b)
{
	return *(const int64_t *)a > *(const int64_t *)b ? 1 : -1;
}

static int64_t p50(int64_t *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

#define ROUNDS 15

static void test_speed(void)
{
	int64_t create[ROUNDS], exec[ROUNDS], end[ROUNDS], limit = (int64_t)slow_ms(100) * 1000;

	for (size_t i = 0; i < ROUNDS; i++) {
		int64_t t = clock_mono_us();

		create_running(box, NULL);
		create[i] = clock_mono_us() - t;
		(void)run("true");
		t = clock_mono_us();
		(void)run("true");
		exec[i] = clock_mono_us() - t;
		t = clock_mono_us();
		terminate();
		end[i] = clock_mono_us() - t;
	}
	(void)fprintf(stderr, "p50 (least): create %ld (%ld) us, exec %ld (%ld) us, terminate %ld (%ld) us\n",
		      (long)p50(create, ROUNDS), (long)create[0], (long)p50(exec, ROUNDS), (long)exec[0],
		      (long)p50(end, ROUNDS), (long)end[0]);
	/* Far above the figures to reach, which make bench checks: this finds a wait that should not be there. */
	cr_assert(p50(create, ROUNDS) < limit && p50(exec, ROUNDS) < limit / 2 && p50(end, ROUNDS) < limit);
}

Test(sandbox_real, no_needless_waits, .timeout = 30)
{
	in_world(test_speed);
}
