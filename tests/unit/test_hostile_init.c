/* A sandbox that took over its PID 1, against the daemon's real end of its socket and the real manager. The test is the
 * init of two sandboxes: one lies, floods, and sends what nobody asked for; the other does its work. Whatever the first
 * does, the second's commands end with the results it sent, and nothing of either is left at the end. */

#define FAKES_REAL_INIT
#include "tests/unit/sandbox_fakes.h"

#include <sys/resource.h>

#include "emulator/base/fd.h"
#include "emulator/proto.h"

TestSuite(hostile_init, .init = set_up, .fini = tear_down, .timeout = 60);

struct box {
	char id[SANDBOX_ID_SIZE];
	int peer;
	int reports; /* the writing end */
};

struct run {
	bool done;
	int exit_code;
	enum exec_reason reason;
	struct exec *x;
	uint64_t number; /* init's name for it */
};

static void say(const struct box *b, const void *m, size_t n, const int *fds, size_t n_fds)
{
	(void)!fd_send_msg(b->peer, m, n, fds, n_fds);
}

static int report(const struct box *b, const void *m, size_t n)
{
	return write(b->reports, m, n) == (ssize_t)n ? 0 : -1;
}

static void say_ready(struct box *b)
{
	const struct init_header h = { INIT_MAGIC, INIT_READY };
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), p[2];

	cr_assert(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
	say(b, &h, sizeof(h), (int[]){ root, p[0] }, 2);
	closep(&root);
	closep(&p[0]);
	b->reports = p[1];
}

static void say_exited(const struct box *b, uint64_t number, int code)
{
	const union init_report m = {
		.exited = { .h = { INIT_MAGIC, INIT_EXITED }, .id = number, .kind = INIT_EXIT_CODE, .value = code }
	};

	(void)report(b, &m, sizeof(m));
}

/* The next message from the daemon, descriptors closed (so a command's pipes are at their end). 0: none. */
static ssize_t hear(const struct box *b, union init_msg *m)
{
	int fds[FD_MSG_MAX_FDS];
	size_t n_fds = 0;
	ssize_t n = fd_recv_msg(b->peer, m, sizeof(*m), fds, ARRAY_SIZE(fds), &n_fds);

	while (n_fds > 0)
		(void)close(fds[--n_fds]);
	return MAX(n, 0);
}

static void turn(int times)
{
	for (int i = 0; i < times; i++)
		(void)uv_run(&loop, UV_RUN_NOWAIT);
}

static void begin(struct box *b, struct answer *a)
{
	struct sandbox_spec s = spec_default();
	union init_msg m;
	size_t mine = n_spawned;
	struct err e;

	cr_assert(sandbox_create(mgr, &team, &s, on_answer, a, &e) == 0, "%s", e.msg);
	for (int i = 0; i < 200 && (n_spawned == mine || peers[mine] == 0); i++)
		turn(1);
	b->peer = peers[mine];
	b->reports = -1;
	cr_assert(b->peer > 0);
	turn(5);
	cr_assert(fd_set_nonblock(b->peer, true) == 0);
	cr_assert(hear(b, &m) == sizeof(m.configure) && m.h.type == INIT_CONFIGURE);
}

static void create(struct box *b)
{
	struct answer a = { 0 };

	begin(b, &a);
	say_ready(b);
	cr_assert(spin(&a.done, 5000) && a.e.kind == ERR_NONE, "%s", a.e.msg);
	(void)snprintf(b->id, sizeof(b->id), "%s", a.row.id);
}

static void on_exec_done(void *arg, const struct exec_result *r)
{
	struct run *k = arg;

	cr_assert(!k->done, "told twice");
	k->done = true;
	k->exit_code = r->exit_code;
	k->reason = r->reason;
}

static int start(const struct box *b, struct run *k, struct err *e)
{
	const struct exec_spec s = { .command = "x", .cwd = "/" };
	const struct exec_events ev = { .done = on_exec_done, .arg = k };
	union init_msg m;
	int r = exec_start(mgr, &team, b->id, &s, &ev, &k->x, e);

	if (r < 0)
		return r;
	if (hear(b, &m) > 0 && m.h.type == INIT_EXEC)
		k->number = m.exec.id;
	return 0;
}

/* The other sandbox does a command, and hears what it was. */
static void still_works(const struct box *honest)
{
	struct run k = { 0 };
	struct err e = ERR_INIT;

	cr_assert(start(honest, &k, &e) == 0, "%s", e.msg);
	say_exited(honest, k.number, 7);
	cr_assert(spin(&k.done, 5000));
	cr_assert(k.exit_code == 7 && k.reason == EXEC_EXITED, "%d", k.exit_code);
	cr_assert(row_of((char *)(uintptr_t)honest->id)->status == SANDBOX_RUNNING);
}

static void end_of(struct box *b)
{
	closep(&b->peer);
	closep(&b->reports);
}

static size_t open_fds(void)
{
	size_t n = 0;

	for (int fd = 3; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* ---- lies ---- */

static void lie_bytes(const struct box *b)
{
	(void)report(b, "hello", 5);
}

static void lie_magic(const struct box *b)
{
	const union init_report m = { .exited = { .h = { INIT_MAGIC + 1, INIT_EXITED }, .id = 1 } };

	(void)report(b, &m, sizeof(m));
}

static void lie_short(const struct box *b)
{
	const union init_report m = { .exited = { .h = { INIT_MAGIC, INIT_EXITED }, .id = 1 } };

	(void)report(b, &m, sizeof(m) - 4);
}

static void lie_long(const struct box *b)
{
	static char big[65536];

	(void)report(b, big, sizeof(big));
}

static void lie_type(const struct box *b)
{
	const union init_report m = { .h = { INIT_MAGIC, 99 } };

	(void)report(b, &m, sizeof(m));
}

static void lie_our_type(const struct box *b)
{
	const union init_report m = { .h = { INIT_MAGIC, INIT_SIGNAL } };

	(void)report(b, &m, sizeof(m));
}

static void lie_ready_again(const struct box *b)
{
	const union init_report m = { .h = { INIT_MAGIC, INIT_READY } };

	(void)report(b, &m, sizeof(m));
}

static void lie_failed_after_ready(const struct box *b)
{
	const union init_report m = { .h = { INIT_MAGIC, INIT_FAILED } };

	(void)report(b, &m, sizeof(m));
}

static void lie_endlessly(const struct box *b)
{
	const union init_report m = { .started = { .h = { INIT_MAGIC, INIT_STARTED }, .id = 1 << 20, .pid = 2 } };

	for (int i = 0; i < 2000; i++)
		while (report(b, &m, sizeof(m)) < 0)
			turn(1);
}

static void lie_hang_up(const struct box *b)
{
	(void)shutdown(b->peer, SHUT_RDWR);
}

/* Believed, for what it is worth: they are about itself. */
static void lie_ids(const struct box *b)
{
	static const uint64_t ids[] = { 0, 1, 2, 3, UINT64_MAX, UINT64_MAX / 2 };

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		const union init_report m = { .started = {
						      .h = { INIT_MAGIC, INIT_STARTED }, .id = ids[i], .pid = 2 } };

		(void)report(b, &m, sizeof(m));
		say_exited(b, ids[i], 255);
		say_exited(b, ids[i], 255);
	}
}

Test(hostile_init, lies)
{
	static void (*const lies[])(
		const struct box *) = { lie_bytes,     lie_magic,    lie_short,	      lie_long,
					lie_type,      lie_our_type, lie_ready_again, lie_failed_after_ready,
					lie_endlessly, lie_hang_up };
	struct box honest;
	size_t before;

	create(&honest);
	before = open_fds();
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct run theirs = { 0 }, ours = { 0 };
		struct err e = ERR_INIT;
		struct box hostile;

		create(&hostile);
		cr_assert(start(&hostile, &theirs, &e) == 0 && start(&honest, &ours, &e) == 0);
		lies[i](&hostile);
		cr_assert(spin(&theirs.done, 5000), "lie %zu: its command never ended", i);
		cr_expect(theirs.reason == EXEC_TERMINATED, "lie %zu: reason %d", i, theirs.reason);
		cr_expect(!ours.done, "lie %zu", i);
		say_exited(&honest, ours.number, 0);
		cr_assert(spin(&ours.done, 5000) && ours.exit_code == 0);
		still_works(&honest);
		for (int k = 0; k < 200 && row_of(hostile.id)->status != SANDBOX_TERMINATED; k++)
			spin_for(10);
		cr_expect(row_of(hostile.id)->status == SANDBOX_TERMINATED, "lie %zu: status %d", i,
			  row_of(hostile.id)->status);
		cr_expect_str_eq(row_of(hostile.id)->termination_reason, "failed");
		end_of(&hostile);
		for (int k = 0; k < 100 && open_fds() != before; k++)
			spin_for(20);
		cr_expect(open_fds() == before, "lie %zu: %zu descriptors, not %zu", i, open_fds(), before);
	}
	end_of(&honest);
}

/* Numbers of commands are a sandbox's own: one can't end another's, nor its own twice. */
Test(hostile_init, exits_that_were_none)
{
	struct box honest, hostile;
	struct run ours = { 0 }, theirs = { 0 };
	struct err e = ERR_INIT;

	create(&honest);
	create(&hostile);
	cr_assert(start(&honest, &ours, &e) == 0 && start(&hostile, &theirs, &e) == 0);
	lie_ids(&hostile);
	spin_for(100);
	cr_expect(!ours.done);
	cr_assert(theirs.done && theirs.exit_code == 255);
	cr_expect(row_of(hostile.id)->status == SANDBOX_RUNNING);
	still_works(&honest);
	still_works(&hostile);
	end_of(&hostile);
	end_of(&honest);
}

/* Instead of its root and its pipe: a file, a folder that can be read, nothing, the root alone, a pipe's writing end,
 * what is no pipe; or the truth with a text without end; or more than that. */
Test(hostile_init, wrong_roots)
{
	struct box honest;
	size_t before;

	create(&honest);
	before = open_fds();
	for (int i = 0; i < 9; i++) {
		struct init_failed_msg failed = { .h = { INIT_MAGIC, INIT_FAILED }, .errnum = -5 };
		const struct init_exited_msg early = { .h = { INIT_MAGIC, INIT_EXITED }, .id = 1 };
		const struct init_header h = { INIT_MAGIC, INIT_READY };
		int fds[3] = { open(i == 0 ? "/dev/null" : "/", O_RDONLY | O_CLOEXEC), -1, -1 };
		int root = open("/", O_PATH | O_CLOEXEC);
		struct answer a = { 0 };
		struct box hostile;

		cr_assert(pipe2(fds + 1, O_CLOEXEC) == 0);
		begin(&hostile, &a);
		memset(failed.text, 'x', sizeof(failed.text));
		if (i < 2)
			say(&hostile, &h, sizeof(h), fds, 2);
		else if (i == 2)
			say(&hostile, &h, sizeof(h), NULL, 0);
		else if (i == 3)
			say(&hostile, &h, sizeof(h), &root, 1);
		else if (i == 4)
			say(&hostile, &h, sizeof(h), (int[]){ root, fds[2] }, 2);
		else if (i == 5)
			say(&hostile, &h, sizeof(h), (int[]){ root, fds[0] }, 2);
		else if (i == 6)
			say(&hostile, &failed, sizeof(failed), NULL, 0);
		else if (i == 7)
			say(&hostile, &early, sizeof(early), NULL, 0);
		for (int k = 0; i == 8 && k < 2; k++)
			say(&hostile, &h, sizeof(h), (int[]){ root, fds[1] }, 2);
		closep(&root);
		for (int k = 0; k < 3; k++)
			closep(&fds[k]);
		cr_assert(spin(&a.done, 5000), "%d", i);
		cr_expect(a.e.kind != ERR_NONE && a.e.msg[0], "%d", i);
		end_of(&hostile);
		for (int k = 0; k < 100 && open_fds() != before; k++)
			spin_for(20);
		cr_expect(open_fds() == before, "%d: %zu descriptors, not %zu", i, open_fds(), before);
	}
	still_works(&honest);
	end_of(&honest);
}

/* Not its fault at all: the daemon has no descriptor left for its root. That create is refused for want of room, the
 * sandbox that runs is not touched, and then all goes on. */
Test(hostile_init, a_daemon_without_descriptors)
{
	struct rlimit all, none;
	struct box honest, late;
	struct answer a = { 0 };

	create(&honest);
	begin(&late, &a);
	say_ready(&late);
	cr_assert(getrlimit(RLIMIT_NOFILE, &all) == 0);
	none = (struct rlimit){ .rlim_cur = 3, .rlim_max = all.rlim_max };
	cr_assert(setrlimit(RLIMIT_NOFILE, &none) == 0);
	turn(20);
	cr_assert(setrlimit(RLIMIT_NOFILE, &all) == 0);
	cr_assert(spin(&a.done, 5000));
	cr_expect(a.e.kind == ERR_CAPACITY, "kind %d: %s", a.e.kind, a.e.msg);
	end_of(&late);
	still_works(&honest);
	create(&late);
	still_works(&late);
	end_of(&late);
	end_of(&honest);
}

/* One that never stops talking gets its turn, and no more: the other's exit is heard within a few turns of the loop,
 * though the socket of the first is never empty. */
Test(hostile_init, a_flood)
{
	const union init_report m = { .started = { .h = { INIT_MAGIC, INIT_STARTED }, .id = UINT64_MAX, .pid = 77 } };
	struct box honest, hostile;
	struct run ours = { 0 };
	struct err e = ERR_INIT;
	size_t sent = 0;
	int turns = 0;

	create(&honest);
	create(&hostile);
	cr_assert(start(&honest, &ours, &e) == 0);
	say_exited(&honest, ours.number, 3);
	for (; !ours.done && turns < 50; turns++) {
		while (report(&hostile, &m, sizeof(m)) == 0)
			sent++;
		(void)uv_run(&loop, UV_RUN_NOWAIT);
	}
	cr_assert(ours.done && ours.exit_code == 3, "not in %d turns; %zu messages", turns, sent);
	cr_expect(sent > 100);
	still_works(&honest);
	end_of(&hostile);
	end_of(&honest);
}

/* It never reads: what waits for it is bounded, and it can be terminated all the same. */
Test(hostile_init, never_reads)
{
	struct box honest, hostile;
	struct answer a = { 0 };
	struct err e = ERR_INIT;
	static struct run runs[4096];
	size_t n = 0, ended = 0;
	int r = 0;

	create(&honest);
	create(&hostile);
	while (n < ARRAY_SIZE(runs) && r >= 0) {
		const struct exec_spec s = { .command = "x", .cwd = "/", .timeout_s = EXEC_NO_TIMEOUT };
		const struct exec_events ev = { .done = on_exec_done, .arg = &runs[n] };

		r = exec_start(mgr, &team, hostile.id, &s, &ev, &runs[n].x, &e);
		n += r >= 0;
	}
	cr_assert(r < 0 && (e.kind == ERR_BUSY || e.kind == ERR_CAPACITY), "%zu, kind %d", n, e.kind);
	still_works(&honest);
	cr_assert(sandbox_terminate(mgr, &team, hostile.id, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 5000) && a.row.status == SANDBOX_TERMINATED);
	for (size_t i = 0; i < n; i++)
		ended += runs[i].done;
	cr_expect(ended == n, "%zu of %zu were told", ended, n);
	end_of(&hostile);
	still_works(&honest);
	end_of(&honest);
}
