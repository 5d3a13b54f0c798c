/* The daemon's end of an init's socket: what is sent when the socket is full, and what is believed. */

#include "emulator/init.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/proto.h"

static uv_loop_t loop;
static struct init *init;
static int peer, reports; /* init's ends */
static const char *why_lost;
static unsigned int starts, exits;
static pid_t last_pid;
static int last_background;

static void on_ready(void *arg _unused_, const struct err *e, int fd)
{
	cr_assert(!e);
	(void)close(fd);
}

static bool on_started(void *arg _unused_, uint64_t id, pid_t pid)
{
	starts++;
	last_pid = pid;
	return id < 1000;
}

static bool on_exited(void *arg _unused_, uint64_t id, const struct init_exit *x)
{
	exits++;
	last_background = x->background;
	return id < 1000;
}

static void on_lost(void *arg _unused_, const char *why)
{
	cr_assert(!why_lost, "lost twice");
	why_lost = why;
}

static void turn(void)
{
	for (int i = 0; i < 10; i++)
		(void)uv_run(&loop, UV_RUN_NOWAIT);
}

static void set_up(void)
{
	static const char *const layers[] = { "l" };
	const struct init_config c = {
		.slot = "s-01234567890123456789012345", .layers = layers, .n_layers = 1, .cpus = 1, .hostname = "h"
	};
	const struct init_events ev = {
		.ready = on_ready, .started = on_started, .exited = on_exited, .lost = on_lost
	};
	const struct init_header ready = { INIT_MAGIC, INIT_READY };
	struct init_configure_msg conf;
	int root, sv[2], p[2], small = 4096;
	struct err e = ERR_INIT;

	cr_assert(uv_loop_init(&loop) == 0);
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == 0);
	cr_assert(init_connect(&loop, sv[0], &c, &ev, &init, &e) == 0, "%s", e.msg);
	peer = sv[1];
	cr_assert(fd_recv_msg(peer, &conf, sizeof(conf), NULL, 0, NULL) == sizeof(conf));
	cr_assert(setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	cr_assert(pipe2(p, O_CLOEXEC) == 0);
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	cr_assert(fd_send_msg(peer, &ready, sizeof(ready), (int[]){ root, p[0] }, 2) == 0);
	(void)close(root);
	(void)close(p[0]);
	reports = p[1];
	turn();
	cr_assert(!why_lost && init_reports(init) >= 0);
}

static size_t open_fds(void)
{
	size_t n = 0;

	for (int fd = 3; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void tear_down(void)
{
	init_free(init);
	closep(&peer);
	closep(&reports);
	cr_expect(uv_run(&loop, UV_RUN_DEFAULT) == 0);
	cr_expect(uv_loop_close(&loop) == 0, "a handle is left");
}

TestSuite(exec_init, .init = set_up, .fini = tear_down, .timeout = 30);

/* Every third one is too long to come with its message. */
static int start(uint64_t id, int fd, struct err *e)
{
	static char longer[INIT_SPEC_INLINE];
	const char *const argv[] = { "x", id % 3 ? NULL : memset(longer, 'x', sizeof(longer) - 1), NULL },
			  *const env[] = { NULL };
	const struct init_exec x = { .id = id, .argv = argv, .env = env, .cwd = "/", .stdio = { fd, fd, fd } };

	return init_start(init, &x, e);
}

/* Takes one message; its id, or 0 when there is none now. */
static uint64_t take(void)
{
	union init_msg m;
	size_t n_fds = 0;
	int fds[4];
	ssize_t n = fd_recv_msg(peer, &m, sizeof(m), fds, 4, &n_fds);

	if (n == -EAGAIN)
		return 0;
	if (m.h.type == INIT_SIGNAL) {
		cr_assert(n == sizeof(m.signal) && n_fds == 0);
		return m.signal.id;
	}
	cr_assert(m.h.type == INIT_EXEC && n_fds == (n == sizeof(m.exec) ? 4 : 3));
	cr_assert(n == sizeof(m.exec) || (size_t)n == sizeof(m.exec) + m.exec.spec_len);
	for (size_t i = 0; i < n_fds; i++) {
		struct stat st;

		cr_assert(fstat(fds[i], &st) == 0 && ((i == 0 && n_fds == 4) || S_ISFIFO(st.st_mode)));
		(void)close(fds[i]);
	}
	return m.exec.id;
}

/* Far more than the socket holds, signals among them: all arrive, in their order, with their descriptors, and
 * the caller may close his at once. */
Test(exec_init, a_full_socket)
{
	size_t before = open_fds();
	uint64_t next = 1;
	int p[2];

	cr_assert(fd_set_nonblock(peer, true) == 0);
	for (uint64_t id = 1; id <= 300; id++) {
		struct err e = ERR_INIT;

		cr_assert(pipe2(p, O_CLOEXEC) == 0);
		if (id % 10 == 0)
			cr_assert(init_signal(init, id, 15, true) == 0);
		else
			cr_assert(start(id, p[0], &e) == 0, "%lu: %s", (unsigned long)id, e.msg);
		(void)close(p[0]);
		(void)close(p[1]);
	}
	cr_expect(open_fds() > before + 100, "the test is wrong: nothing waits");
	while (next <= 300) {
		uint64_t id = take();

		if (id == 0) {
			turn();
			continue;
		}
		cr_assert(id == next, "%lu instead of %lu", (unsigned long)id, (unsigned long)next);
		next++;
	}
	turn();
	cr_expect(take() == 0);
	cr_expect(open_fds() == before, "%zu descriptors, not %zu", open_fds(), before);
	cr_expect(!why_lost);
}

Test(exec_init, no_more_than_so_many_wait)
{
	struct err e = ERR_INIT;
	unsigned int n = 0;

	while (n < 3 * INIT_MAX_WAITING && init_signal(init, 1, 15, true) == 0)
		n++;
	cr_expect(n >= INIT_MAX_WAITING && n < 2 * INIT_MAX_WAITING, "%u", n);
	cr_expect(start(2, 0, &e) < 0 && e.kind == ERR_BUSY);
}

/* Freed, or lost, with messages waiting: tear_down and the sanitizers look. */
Test(exec_init, the_end_with_messages_waiting)
{
	size_t before = open_fds();
	struct err e = ERR_INIT;
	int p[2];

	cr_assert(pipe2(p, O_CLOEXEC) == 0);
	for (uint64_t id = 1; id <= 100; id++)
		cr_assert(start(id, p[0], &e) == 0);
	(void)close(p[0]);
	(void)close(p[1]);
	closep(&peer);
	turn();
	cr_expect(why_lost);
	cr_expect(start(101, 0, &e) < 0 && e.kind == ERR_NOT_READY);
	init_free(init);
	turn();
	cr_expect(open_fds() <= before - 2, "%zu, %zu", open_fds(), before);
	init = NULL;
}

static void tell(const union init_report *r)
{
	cr_assert(write(reports, r, sizeof(*r)) == sizeof(*r));
}

/* Once it is ready, descriptors and all else that is sent to its socket do not even get into it. */
Test(exec_init, the_socket_takes_nothing_any_more)
{
	const struct init_header ready = { INIT_MAGIC, INIT_READY };
	size_t before = open_fds();
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	cr_expect(fd_send_msg(peer, &ready, sizeof(ready), &fd, 1) == -EPIPE);
	cr_expect(fd_send_msg(peer, "", 0, NULL, 0) == -EPIPE);
	(void)close(fd);
	turn();
	cr_expect(!why_lost && open_fds() == before);
	tell(&(union init_report){ .exited = { .h = { INIT_MAGIC, INIT_EXITED }, .id = 1 } });
	turn();
	cr_expect(exits == 1 && !why_lost);
}

/* Either end of either of the two. */
Test(exec_init, hanging_up)
{
	for (int how = 0; how < 4; how++) {
		struct err e = ERR_INIT;

		if (how == 0)
			closep(&peer);
		else if (how == 1)
			closep(&reports);
		else if (how == 2)
			(void)shutdown(peer, SHUT_RDWR);
		else /* only a send can tell */
			(void)shutdown(peer, SHUT_RD);
		if (how == 3)
			cr_expect(start(1, 0, &e) < 0 && e.kind == ERR_NOT_READY);
		cr_expect(how != 3 || !why_lost, "told inside a call");
		turn();
		cr_expect(why_lost, "%d", how);
		cr_expect(start(1, 0, &e) < 0 && e.kind == ERR_NOT_READY);
		tear_down();
		why_lost = NULL;
		set_up();
	}
}

/* Half a report, and one too many bytes. */
Test(exec_init, reports_of_another_size)
{
	static const size_t sizes[] = { 1, sizeof(struct init_started_msg), sizeof(union init_report) + 1, 4000 };
	char bytes[4096] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		cr_assert(write(reports, bytes, sizes[i]) == (ssize_t)sizes[i]);
		turn();
		cr_expect(why_lost, "%zu bytes", sizes[i]);
		tear_down();
		why_lost = NULL;
		set_up();
	}
}

/* What nobody asked for is heard so often, and again when something was asked. */
Test(exec_init, reports_without_end)
{
	const union init_report r = { .started = { .h = { INIT_MAGIC, INIT_STARTED }, .id = 4711, .pid = 9 } };

	for (int i = 0; i < 1800; i++) {
		tell(&r);
		turn();
		if (i == 900)
			cr_assert(init_signal(init, 1, 15, false) == 0);
	}
	cr_assert(!why_lost && starts == 1800);
	for (int i = 0; i < 300 && !why_lost; i++) {
		tell(&r);
		turn();
	}
	cr_expect(why_lost && starts < 2000);
}

Test(exec_init, what_is_believed)
{
	static const struct {
		int32_t type, pid, kind, value, background;
		bool ok;
	} t[] = {
		{ INIT_STARTED, 2, 0, 0, 0, true },	  { INIT_STARTED, 1, 0, 0, 0, false },
		{ INIT_STARTED, -5, 0, 0, 0, false },	  { INIT_STARTED, 1 << 23, 0, 0, 0, false },
		{ INIT_EXITED, 0, 0, 3, 0, true },	  { INIT_EXITED, 0, 0, 3, -1, true },
		{ INIT_EXITED, 0, 0, 3, 300, true },	  { INIT_EXITED, 0, 0, 3, -2, false },
		{ INIT_EXITED, 0, 0, 3, 1 << 23, false }, { INIT_EXITED, 0, 3, 3, 0, false },
		{ INIT_EXITED, 0, -1, 3, 0, false },	  { INIT_EXITED, 0, 0, -1, 0, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		const struct init_started_msg s = { .h = { INIT_MAGIC, INIT_STARTED }, .id = 1, .pid = t[i].pid };
		const struct init_exited_msg x = { .h = { INIT_MAGIC, INIT_EXITED },
						   .id = 1,
						   .kind = t[i].kind,
						   .value = t[i].value,
						   .background = t[i].background };

		starts = exits = 0;
		if (t[i].type == INIT_STARTED)
			tell(&(union init_report){ .started = s });
		else
			tell(&(union init_report){ .exited = x });
		turn();
		cr_expect(!why_lost == t[i].ok, "%zu", i);
		cr_expect(starts + exits == t[i].ok, "%zu", i);
		if (t[i].ok && t[i].type == INIT_STARTED)
			cr_expect(last_pid == t[i].pid);
		if (t[i].ok && t[i].type == INIT_EXITED)
			cr_expect(last_background == t[i].background);
		if (why_lost) {
			tear_down();
			why_lost = NULL;
			set_up();
		}
	}
}
