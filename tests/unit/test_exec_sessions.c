/* Execs beyond their first reader, in the faked world: the registry and its bounds, readers, stdin, signals,
 * terminals (of this host's devpts). */

#include "tests/unit/sandbox_fakes.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "emulator/base/clock.h"
#include "emulator/exec-internal.h"

static char box[SANDBOX_ID_SIZE];

static void set_up_box(void)
{
	set_up();
	create_running(box, NULL);
}

TestSuite(exec_sessions, .init = set_up_box, .fini = tear_down, .timeout = 60);

/* A reader and what it got. */
struct view {
	struct exec_reader *r;
	struct buf out[2];
	uint64_t last_id, missed;
	unsigned int gaps, wakes;
	bool hold, ended;
	struct exec_result result;
};

static void view_read(void *arg)
{
	struct view *v = arg;
	struct exec_event ev;

	v->wakes++;
	while (v->r && !v->hold && exec_reader_next(v->r, &ev)) {
		cr_assert(!v->ended && ev.id > v->last_id, "ids rise");
		v->last_id = ev.id;
		if (ev.kind == EXEC_EVENT_END) {
			v->ended = true;
			v->result = *ev.result;
		} else if (ev.kind == EXEC_EVENT_GAP) {
			v->gaps++;
			v->missed += ev.missed;
		} else {
			cr_assert(buf_add(&v->out[ev.stream], ev.p, ev.n) == 0);
		}
	}
}

static struct view view_init(void)
{
	return (struct view){ .out = { BUF_INIT(64u << 20), BUF_INIT(64u << 20) } };
}

static void view_free(struct view *v)
{
	exec_reader_free(TAKE_PTR(v->r));
	buf_free(&v->out[0]);
	buf_free(&v->out[1]);
}

static void attach(struct view *v, struct exec *x, uint64_t after)
{
	const struct exec_reader_config c = { .after = after, .primary = true, .wake = view_read, .arg = v };
	struct err e = ERR_INIT;

	cr_assert(exec_reader_new(x, &c, &v->r, &e) == 0, "%s", e.msg);
	v->last_id = after == EXEC_AFTER_OUTPUT ? 0 : after;
	view_read(v);
}

static struct exec *start(const struct exec_spec *s)
{
	struct err e = ERR_INIT;
	struct exec *x;

	cr_assert(exec_start(mgr, &team, box, s, NULL, &x, &e) == 0, "%s", e.msg);
	return x;
}

static struct exec *find(const char *id)
{
	struct err e = ERR_INIT;
	struct exec *x;

	if (exec_find(mgr, &team, box, id, &x, &e) == 0)
		return x;
	cr_assert(e.kind == ERR_NOT_FOUND && strcmp(e.reason, "exec_not_found") == 0);
	return NULL;
}

static bool has_ended(const char *id)
{
	struct exec *x = find(id);

	return x && !info_of(x).running;
}

static bool wait_ended(const char *id)
{
	return spin_until(has_ended(id), 4000);
}

/* ---- the registry ---- */

static int count(void *arg, const struct exec_info *i)
{
	char(*last)[EXEC_ID_SIZE] = arg;

	cr_expect((*last)[0] == '\0' || strcmp(i->id, *last) < 0, "the newest first");
	(void)snprintf(*last, sizeof(*last), "%s", i->id);
	return 0;
}

Test(exec_sessions, registry_keeps_so_many)
{
	struct exec_spec s = { .command = "true", .background = true };
	char ids[REGISTRY_MAX + 6][EXEC_ID_SIZE], last[EXEC_ID_SIZE] = "";
	struct sandbox *sb = sandbox_find(mgr, &team, box);
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		(void)snprintf(ids[i], EXEC_ID_SIZE, "%s", exec_id(start(&s)));
		cr_assert(wait_ended(ids[i]));
	}
	cr_expect(sb->n_ended == REGISTRY_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
		cr_expect((find(ids[i]) != NULL) == (i >= 6), "%zu", i);
	cr_expect(exec_each(mgr, &team, box, count, &last, &e) == 0);
	cr_expect_str_eq(last, ids[6]);
	cr_expect(exec_each(mgr, &freebie, box, count, &last, &e) < 0 && e.kind == ERR_NOT_FOUND);
}

Test(exec_sessions, registry_forgets_with_time)
{
	struct exec_spec s = { .command = "true", .background = true };
	char old[EXEC_ID_SIZE], young[EXEC_ID_SIZE];
	struct view v = view_init();

	(void)snprintf(old, sizeof(old), "%s", exec_id(start(&s)));
	cr_assert(wait_ended(old));
	(void)snprintf(young, sizeof(young), "%s", exec_id(start(&s)));
	cr_assert(wait_ended(young));
	attach(&v, find(old), EXEC_AFTER_OUTPUT);
	cr_expect(uv_is_active((uv_handle_t *)&mgr->ended_timer));
	find(old)->ended_us -= (int64_t)(REGISTRY_MS + 1000) * 1000;
	cr_expect(!find(old) && find(young));
	/* Whoever reads it still has it. */
	cr_expect_str_eq(exec_id(exec_reader_exec(v.r)), old);
	cr_expect(v.ended && v.result.exit_code == 0);
	find(young)->ended_us -= (int64_t)(REGISTRY_MS + 1000) * 1000;
	cr_expect(!find(young));
	cr_expect(!uv_is_active((uv_handle_t *)&mgr->ended_timer), "nothing to wait for");
	view_free(&v);
}

Test(exec_sessions, registry_keeps_so_much)
{
	struct exec_spec s = { .command = "head -c 2000000 /dev/zero", .background = true };
	char first[EXEC_ID_SIZE] = "", id[EXEC_ID_SIZE];

	for (size_t i = 0; i < REGISTRY_BYTES / (EXEC_LOG_HEAD + EXEC_LOG_TAIL) + 2; i++) {
		(void)snprintf(id, sizeof(id), "%s", exec_id(start(&s)));
		if (!first[0])
			(void)snprintf(first, sizeof(first), "%s", id);
		cr_assert(wait_ended(id));
		cr_expect(mgr->ended_bytes <= REGISTRY_BYTES);
	}
	cr_expect(!find(first) && find(id));
}

Test(exec_sessions, what_is_shown)
{
	static const char *const argv[] = { "/bin/sh", "-c", "sleep 0.1; echo $0 $1", "a b", "", NULL };
	struct exec_spec s = { .argv = argv, .background = true, .timeout_s = EXEC_NO_TIMEOUT };
	char longer[3000], id[EXEC_ID_SIZE];
	struct exec_info i;
	struct exec *x = start(&s);

	i = info_of(x);
	cr_expect(i.running && i.n_args == 5 && !i.shell && !i.args_cut && i.pid == 0 && i.result == NULL);
	cr_expect(memcmp(i.args, "/bin/sh\0-c\0sleep 0.1; echo $0 $1\0a b\0", 38) == 0);
	cr_expect(i.timeout_s == EXEC_NO_TIMEOUT && i.background && !i.stdin_open && i.last_id == 1);
	spin_for(5);
	(void)snprintf(id, sizeof(id), "%s", exec_id(x));
	cr_assert(wait_ended(id));
	i = info_of(find(id));
	cr_expect(i.pid > 1 && i.bytes[0] == 4 && i.last_id == 6 && i.ended_ms >= i.started_ms &&
		  i.result->exit_code == 0);
	memset(longer, 'x', sizeof(longer));
	memcpy(longer, "true ", 5);
	longer[sizeof(longer) - 1] = '\0';
	s = (struct exec_spec){ .command = longer, .background = true };
	i = info_of(start(&s));
	cr_expect(i.shell && i.args_cut && i.n_args == 1 && strlen(i.args) == 1023);
	spin_for(100);
}

/* ---- readers ---- */

Test(exec_sessions, positions)
{
	struct exec_spec s = { .command = "echo hello; sleep 0.3; echo world", .streamed = true };
	struct view v = view_init(), w = view_init(), late = view_init();
	struct exec_reader *r;
	struct err e = ERR_INIT;
	struct exec *x = start(&s);

	attach(&v, x, 0);
	(void)spin_until(v.out[0].len > 0, 2000);
	cr_expect(v.last_id == 7 && v.out[0].len == 6);
	cr_expect(exec_reader_new(x, &(struct exec_reader_config){ .after = 8, .wake = view_read }, &r, &e) < 0 &&
		  e.kind == ERR_INVALID);
	attach(&w, x, 4);
	cr_expect_str_eq(w.out[0].p, "lo\n");
	cr_assert(spin(&v.ended, 2000));
	cr_expect(w.ended && v.last_id == 14 && w.last_id == 14);
	cr_expect_str_eq(w.out[0].p, "lo\nworld\n");
	attach(&late, x, 13);
	cr_expect(late.ended && late.out[0].len == 0 && exec_reader_over(late.r));
	exec_reader_free(TAKE_PTR(late.r));
	late.ended = false;
	attach(&late, x, 14);
	cr_expect(!late.ended && exec_reader_over(late.r), "it has had the end");
	cr_expect(exec_reader_new(x, &(struct exec_reader_config){ .after = 15, .wake = view_read }, &r, &e) < 0);
	view_free(&v);
	view_free(&w);
	view_free(&late);
}

/* The end alone: not woken by output. */
Test(exec_sessions, end_only)
{
	struct exec_spec s = { .command = "i=0; while [ $i -lt 20 ]; do echo x; sleep 0.01; i=$((i+1)); done; exit 3",
			       .background = true };
	struct view v = view_init();

	attach(&v, start(&s), EXEC_AFTER_OUTPUT);
	cr_assert(spin(&v.ended, 3000));
	cr_expect(v.wakes <= 3 && v.out[0].len == 0 && v.result.exit_code == 3, "%u", v.wakes);
	view_free(&v);
}

static bool has_stood_still(const struct exec *x, uint64_t *seen)
{
	uint64_t before = info_of(x).bytes[0];

	spin_for(slow_ms(100));
	*seen = info_of(x).bytes[0];
	return *seen == before;
}

/* Turns the loop until its output has stood still for a while: how much that is. */
static uint64_t settled(const struct exec *x)
{
	uint64_t seen = 0;

	cr_assert(spin_until(has_stood_still(x, &seen), 5000), "%lu", (unsigned long)seen);
	return seen;
}

/* Only the primary reader holds the command up; when it leaves a detached one, the next takes its place. */
Test(exec_sessions, who_is_waited_for)
{
	/* In pieces, so that no machine is through with it before the third reader comes. */
	struct exec_spec s = {
		.command = "i=0; while [ $i -lt 400 ]; do yes | head -c 50000; sleep 0.005; i=$((i+1)); done; exit 5",
		.streamed = true,
		.detach = true,
		.timeout_s = (uint32_t)(slow_ms(60000) / 1000)
	};
	struct view one = view_init(), two = view_init(), three = view_init();
	struct exec *x = start(&s);
	uint64_t seen;

	one.hold = two.hold = true;
	attach(&one, x, 0);
	attach(&two, x, 0);
	(void)spin_until(info_of(x).bytes[0] > 0, 2000);
	seen = settled(x);
	cr_expect(seen < 1000000, "%lu", (unsigned long)seen);
	/* The second one goes: it makes no difference. The first one goes: the command runs on. */
	exec_reader_free(TAKE_PTR(two.r));
	spin_for(100);
	cr_expect(info_of(x).bytes[0] == seen);
	exec_reader_free(TAKE_PTR(one.r));
	cr_expect(spin_until(info_of(x).bytes[0] > seen, 100));
	three.hold = true;
	attach(&three, x, 1);
	(void)settled(x);
	cr_expect(info_of(x).running, "the third one is waited for");
	three.hold = false;
	view_read(&three);
	cr_assert(spin(&three.ended, 10000));
	cr_expect(three.out[0].len + three.missed == 20000000 && three.result.exit_code == 5);
	cr_expect(last_signal == 0);
	view_free(&one);
	view_free(&two);
	view_free(&three);
}

Test(exec_sessions, background_waits_for_nobody)
{
	struct exec_spec s = { .command = "yes | head -c 5000000", .background = true, .detach = true };
	_cleanup_buf_ struct buf text = BUF_INIT(4u << 20);
	struct view v = view_init();
	char id[EXEC_ID_SIZE];
	struct exec *x = start(&s);
	bool truncated;

	(void)snprintf(id, sizeof(id), "%s", exec_id(x));
	v.hold = true;
	attach(&v, x, 0);
	cr_assert(wait_ended(id));
	v.hold = false;
	view_read(&v);
	cr_expect(v.ended && v.gaps == 1 && v.missed + v.out[0].len == 5000000);
	cr_assert(exec_text(x, EXEC_STDOUT, &text, &truncated) == 0);
	cr_expect(truncated && text.len > v.out[0].len && text.len < v.out[0].len + 100);
	view_free(&v);
}

/* Every reader hears of the sandbox's end, and may read on after it. */
Test(exec_sessions, sandbox_ends)
{
	struct exec_spec s = { .command = "echo x; exec sleep 60", .streamed = true },
			 b = { .command = "sleep 60", .background = true };
	struct view v = view_init(), w = view_init(), done = view_init();
	struct exec_spec t = { .command = "echo done", .background = true };
	struct answer a = { 0 };
	struct err e;
	char id[EXEC_ID_SIZE];

	(void)snprintf(id, sizeof(id), "%s", exec_id(start(&t)));
	cr_assert(wait_ended(id));
	done.hold = true;
	attach(&done, find(id), 0);
	attach(&v, start(&s), 0);
	attach(&w, start(&b), EXEC_AFTER_OUTPUT);
	(void)spin_until(v.out[0].len > 0, 2000);
	cr_assert(sandbox_terminate(mgr, &team, box, on_answer, &a, &e) == 0);
	cr_assert(spin(&a.done, 2000));
	cr_expect(v.ended && w.ended && v.result.reason == EXEC_TERMINATED && w.result.by == EXEC_BY_SANDBOX);
	cr_expect_str_eq(v.out[0].p, "x\n");
	done.hold = false;
	view_read(&done);
	cr_expect(done.ended && done.result.exit_code == 0 && strcmp(done.out[0].p, "done\n") == 0);
	cr_expect(exec_find(mgr, &team, box, id, &(struct exec *){ NULL }, &e) < 0 && e.kind == ERR_NOT_READY);
	view_free(&v);
	view_free(&w);
	view_free(&done);
}

/* ---- stdin ---- */

Test(exec_sessions, stdin_open)
{
	struct exec_spec s = { .command = "cat; echo end",
			       .background = true,
			       .stdin_open = true,
			       .stdin_data = "first ",
			       .stdin_len = 6 };
	struct view v = view_init();
	struct err e = ERR_INIT;
	size_t waiting = 99;
	struct exec *x = start(&s);

	attach(&v, x, 0);
	cr_assert(exec_stdin(x, "second ", 7, false, &waiting, &e) == 0 && waiting == 0);
	(void)spin_until(v.out[0].len >= 13, 2000);
	cr_expect_str_eq(v.out[0].p, "first second ");
	cr_expect(info_of(x).stdin_open && info_of(x).running);
	cr_assert(exec_stdin(x, "third\n", 6, true, &waiting, &e) == 0);
	cr_expect(exec_stdin(x, "", 0, false, &waiting, &e) < 0 && strcmp(e.reason, "stdin_closed") == 0);
	cr_assert(spin(&v.ended, 2000));
	cr_expect_str_eq(v.out[0].p, "first second third\nend\n");
	cr_expect(exec_stdin(x, "x", 1, false, &waiting, &e) < 0 && strcmp(e.reason, "exec_ended") == 0);
	view_free(&v);
}

Test(exec_sessions, stdin_bounds)
{
	struct exec_spec s = { .command = "sleep 0.5; wc -c", .background = true, .stdin_open = true };
	static char big[EXEC_STDIN_MAX + 1];
	struct view v = view_init();
	struct err e = ERR_INIT;
	struct exec *x = start(&s);
	size_t waiting = 0, sent = 0;

	attach(&v, x, 0);
	cr_expect(exec_stdin(x, big, sizeof(big), false, &waiting, &e) < 0 && e.kind == ERR_TOO_LARGE);
	while (exec_stdin(x, big, 100000, false, &waiting, &e) == 0)
		sent += 100000;
	cr_expect(e.kind == ERR_BUSY && strcmp(e.reason, "stdin_full") == 0);
	cr_expect(waiting <= EXEC_STDIN_MAX && sent - waiting <= 1u << 20 && sent > 900000, "%zu %zu", sent, waiting);
	/* What came before a refusal is there, what was refused is not. */
	spin_for(700);
	cr_assert(exec_stdin(x, "abc", 3, true, &waiting, &e) == 0);
	cr_assert(spin(&v.ended, 2000));
	cr_expect(strtoul(v.out[0].p, NULL, 10) == sent + 3, "%s of %zu", v.out[0].p, sent + 3);
	view_free(&v);
}

Test(exec_sessions, stdin_nobody_reads)
{
	struct exec_spec s = { .command = "exec 0<&-; sleep 0.3", .background = true, .stdin_open = true };
	static char big[200000];
	struct view v = view_init();
	struct err e = ERR_INIT;
	struct exec *x = start(&s);
	size_t waiting;

	attach(&v, x, 0);
	cr_assert(exec_stdin(x, big, sizeof(big), false, &waiting, &e) == 0);
	spin_for(150);
	cr_expect(exec_stdin(x, "x", 1, false, &waiting, &e) < 0 && strcmp(e.reason, "stdin_closed") == 0);
	cr_assert(spin(&v.ended, 2000));
	cr_expect(v.result.exit_code == 0);
	view_free(&v);
}

/* ---- signals, the end, forensics ---- */

Test(exec_sessions, signals_and_the_end)
{
	struct exec_spec s = { .command = "exec sleep 60", .background = true, .detach = true };
	struct view v = view_init();
	struct err e = ERR_INIT;
	struct exec *x = start(&s);

	attach(&v, x, 0);
	cr_assert(exec_signal(x, SIGUSR1, false, &e) == 0);
	cr_assert(spin(&v.ended, 2000));
	cr_expect(v.result.reason == EXEC_SIGNAL && v.result.signal == SIGUSR1 && v.result.by == EXEC_BY_NONE);
	cr_expect(exec_signal(x, SIGUSR1, true, &e) < 0 && strcmp(e.reason, "exec_ended") == 0);
	view_free(&v);
	v = view_init();
	x = start(&s);
	attach(&v, x, 0);
	cr_assert(exec_end(x, &e) == 0);
	cr_assert(exec_end(x, &e) == 0);
	cr_assert(spin(&v.ended, 2000));
	cr_expect(v.result.reason == EXEC_TERMINATED && v.result.by == EXEC_BY_REQUEST && v.result.signal == SIGTERM);
	/* Again, for what it may have left behind. */
	spin_for(2100);
	cr_expect(last_signal == SIGKILL);
	cr_assert(exec_end(x, &e) == 0);
	cr_expect(last_signal == SIGTERM);
	spin_for(2100);
	cr_expect(last_signal == SIGKILL);
	view_free(&v);
}

Test(exec_sessions, counts_while_it_ran)
{
	struct exec_spec s = { .command = "sleep 0.2; exit 1", .background = true };
	struct view v = view_init();

	pids_denied = 7;
	oom_kills = 3;
	attach(&v, start(&s), 0);
	pids_denied += 2;
	oom_kills += 1;
	cr_assert(spin(&v.ended, 2000));
	cr_expect(v.result.pids_denied == 2 && v.result.oom_kills == 1 && v.result.reason == EXEC_EXITED);
	view_free(&v);
}

/* ---- terminals ---- */

Test(exec_sessions, terminal)
{
	struct exec_spec s = { .command = "test -t 0 && test -t 1 && test -t 2 && tty && echo $TERM && read line && "
					  "echo \"<$line>\"; exec sleep 60",
			       .pty = { 24, 80 },
			       .background = true };
	struct view v = view_init();
	struct err e = ERR_INIT;
	struct exec *x;
	size_t waiting;

	first_uid = 0; /* this host's /dev/pts/ptmx is root's alone */
	x = start(&s);
	attach(&v, x, 0);
	cr_assert(exec_stdin(x, "typed\r", 6, false, &waiting, &e) == 0);
	(void)spin_until(v.out[0].p && strstr(v.out[0].p, "<typed>\r\n"), 2000);
	cr_assert(v.out[0].p && strstr(v.out[0].p, "/dev/pts/") && strstr(v.out[0].p, "xterm-256color\r\n"), "%s",
		  v.out[0].p);
	cr_expect(strstr(v.out[0].p, "<typed>\r\n"), "%s", v.out[0].p);
	cr_expect(v.out[1].len == 0);
	cr_assert(exec_resize(x, (struct exec_size){ 50, 100 }, &e) == 0, "%s", e.msg);
	cr_expect(info_of(x).pty.rows == 50 && info_of(x).pty.cols == 100);
	/* The terminal makes a signal of this one. */
	cr_assert(exec_stdin(x, "\003", 1, false, &waiting, &e) == 0);
	cr_assert(spin(&v.ended, 2000));
	cr_expect(v.result.signal == SIGINT && v.result.reason == EXEC_SIGNAL, "%d", v.result.exit_code);
	cr_expect(exec_resize(x, (struct exec_size){ 5, 5 }, &e) < 0 && strcmp(e.reason, "exec_ended") == 0);
	view_free(&v);
}

Test(exec_sessions, terminal_end_of_file_and_last_words)
{
	struct exec_spec s = { .command = "cat; seq 2000; exit 4", .pty = { 24, 80 }, .background = true };
	_cleanup_buf_ struct buf want = BUF_INIT(1 << 20);
	struct view v = view_init();
	struct err e = ERR_INIT;
	struct exec *x;
	size_t waiting;

	first_uid = 0;
	x = start(&s);
	attach(&v, x, 0);
	spin_for(50);
	cr_assert(exec_stdin(x, NULL, 0, true, &waiting, &e) == 0);
	cr_assert(spin(&v.ended, 3000));
	for (int i = 1; i <= 2000; i++)
		cr_assert(buf_printf(&want, "%d\r\n", i) == 0);
	cr_expect(v.out[0].len == want.len && memcmp(v.out[0].p, want.p, want.len) == 0, "%zu of %zu", v.out[0].len,
		  want.len);
	cr_expect(v.result.exit_code == 4);
	view_free(&v);
}

Test(exec_sessions, no_terminal)
{
	struct exec_spec s = { .command = "exec sleep 60", .background = true };
	int fd = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC), master = -1, slave = -1;
	struct err e = ERR_INIT;
	struct exec *x = start(&s);

	cr_expect(exec_resize(x, (struct exec_size){ 5, 5 }, &e) < 0 && strcmp(e.reason, "not_a_terminal") == 0);
	/* A root without devpts. */
	cr_expect(pty_open(fd, 0, (struct exec_size){ 5, 5 }, &master, &slave, &e) < 0 && e.kind == ERR_UNSUPPORTED);
	cr_expect(master == -1 && slave == -1);
	(void)close(fd);
	cr_assert(exec_end(x, &e) == 0);
	spin_for(100);
}

/* What a sandbox could put in its place is not taken for one. */
Test(exec_sessions, false_terminals)
{
	char dir[] = "/tmp/test-exec-XXXXXX", path[64];
	struct err e = ERR_INIT;
	int root, master = -1, slave = -1;

	cr_assert(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/dev", dir);
	cr_assert(mkdir(path, 0755) == 0);
	(void)snprintf(path, sizeof(path), "%s/dev/pts", dir);
	cr_assert(mkdir(path, 0755) == 0);
	root = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	(void)snprintf(path, sizeof(path), "%s/dev/pts/ptmx", dir);
	for (int kind = 0; kind < 4; kind++) {
		int r = kind == 0   ? mknod(path, S_IFREG | 0666, 0)
			: kind == 1 ? mkfifo(path, 0666)
			: kind == 2 ? symlink("/dev/ptmx", path)
				    : mknod(path, S_IFCHR | 0666, makedev(1, 3));

		if (r < 0 && kind == 3 && errno == EPERM)
			continue; /* in a user namespace nobody makes a device */
		cr_assert(r == 0);
		cr_expect(pty_open(root, 0, (struct exec_size){ 5, 5 }, &master, &slave, &e) < 0, "%d", kind);
		cr_expect(master == -1 && slave == -1);
		(void)unlink(path);
	}
	(void)close(root);
	(void)snprintf(path, sizeof(path), "%s/dev/pts", dir);
	(void)rmdir(path);
	(void)snprintf(path, sizeof(path), "%s/dev", dir);
	(void)rmdir(path);
	cr_expect(rmdir(dir) == 0);
}
