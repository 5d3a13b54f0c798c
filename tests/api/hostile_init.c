/* The first process of a sandbox that somebody has taken over: the program of test_hostile_init.py is the real one but
 * for this file, which is linked in place of emulator/pid1.c and holds it. The product has no such hook.
 *
 * It is honest until it is told otherwise, in one of two ways:
 *
 * - before it is a sandbox, by the file "hostile" in the state dir's disk folder: "STAGE WHAT ARGUMENTS...". A stage is
 *   one of parked, staged, configured, ready; what comes to it after the file was written heeds it.
 * - as a sandbox, by a command of its client's: ["hostile", WHAT, ARGUMENTS...]. That command is not run.
 *
 * What it does then is in `tricks` below. It has the rights and the seccomp filter of a sandbox by then, as whoever took
 * over a process there would. */

#include "emulator/pid1.h"

_noreturn_ void honest_main(const struct pid1_config *c);
#define pid1_main honest_main
#include "emulator/pid1.c" /* NOLINT(bugprone-suspicious-include) */
#undef pid1_main

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define ARGS_MAX 8
#define MANY_FDS 253 /* SCM_MAX_FD */

struct trick {
	int sock;
	int reports; /* or -1: not ready yet */
	uint64_t id; /* of the command that asked for it; 0: none did */
	const char *arg[ARGS_MAX];
};

static _noreturn_ void stay(void)
{
	for (;;)
		(void)pause();
}

static long number(const struct trick *t, int i)
{
	return t->arg[i] ? strtol(t->arg[i], NULL, 0) : 0;
}

/* ---- what it says ---- */

static int send_fds(int sock, const void *p, size_t n, const int *fds, size_t n_fds)
{
	char control[CMSG_SPACE(MANY_FDS * sizeof(int))] __attribute__((aligned(8))) = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c = (void *)control;

	if (n_fds > 0) {
		msg.msg_control = control;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n_fds * sizeof(int)),
				       .cmsg_level = SOL_SOCKET,
				       .cmsg_type = SCM_RIGHTS };
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static struct init_exited_msg exited(uint64_t id, int kind, int value, int background)
{
	return (struct init_exited_msg){
		.h = { INIT_MAGIC, INIT_EXITED }, .id = id, .kind = kind, .value = value, .background = background
	};
}

/* A report where it belongs; by one who has no pipe yet, through the socket. */
static void say(const struct trick *t, const void *p, size_t n)
{
	if (t->reports >= 0)
		(void)!write(t->reports, p, n);
	else
		(void)send_fds(t->sock, p, n, NULL, 0);
}

static void say_exited(const struct trick *t, uint64_t id, int kind, int value, int background)
{
	const union init_report r = { .exited = exited(id, kind, value, background) };

	say(t, &r, sizeof(r));
}

static void say_started(const struct trick *t, uint64_t id, int pid)
{
	const union init_report r = { .started = { .h = { INIT_MAGIC, INIT_STARTED }, .id = id, .pid = pid } };

	say(t, &r, sizeof(r));
}

/* ---- descriptors ---- */

/* Both ends of a connection over loopback. */
static void connect_pair(int ret[2])
{
	int l = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);

	(void)bind(l, (struct sockaddr *)&a, sizeof(a));
	(void)listen(l, 1);
	(void)getsockname(l, (struct sockaddr *)&a, &len);
	ret[0] = socket(AF_INET, SOCK_STREAM, 0);
	(void)connect(ret[0], (struct sockaddr *)&a, sizeof(a));
	ret[1] = accept(l, NULL, NULL);
	(void)close(l);
}

/* One end of a connection with much that the other end has not read: whoever closes it last waits for that, as long as
 * it says here (socket(7), SO_LINGER). The other end stays open. */
static int lingering(void)
{
	const struct linger l = { .l_onoff = 1, .l_linger = 60 };
	static char much[1 << 20];
	int pair[2];

	connect_pair(pair);
	(void)setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	(void)fd_set_nonblock(pair[0], true);
	for (int i = 0; i < 16; i++)
		(void)!write(pair[0], much, sizeof(much));
	return pair[0];
}

static int make_fd(const struct trick *t, const char *kind)
{
	if (strcmp(kind, "folder") == 0)
		return open("/etc", O_RDONLY | O_CLOEXEC);
	if (strcmp(kind, "path") == 0)
		return open("/etc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (strcmp(kind, "zero") == 0)
		return open("/dev/zero", O_RDWR | O_CLOEXEC);
	if (strcmp(kind, "socket") == 0)
		return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (strcmp(kind, "eventfd") == 0)
		return eventfd(0, EFD_CLOEXEC);
	if (strcmp(kind, "fifo") == 0) {
		(void)mkfifo("/tmp/fifo", 0600);
		return open("/tmp/fifo", O_RDWR | O_CLOEXEC);
	}
	if (strcmp(kind, "pidfd") == 0)
		return (int)syscall(SYS_pidfd_open, 1, 0);
	if (strcmp(kind, "own") == 0)
		return dup(t->sock);
	if (strcmp(kind, "lingering") == 0)
		return lingering();
	return -1;
}

/* n of a kind, once each when they are to be the last ones there are. */
static size_t make_fds(const struct trick *t, const char *kind, size_t n, int *ret)
{
	int one = n > 0 ? make_fd(t, kind) : -1;

	for (size_t i = 0; i < n; i++)
		ret[i] = one;
	return one < 0 ? 0 : n;
}

/* ---- tricks ---- */

static void trick_die(const struct trick *t)
{
	_exit((int)number(t, 0));
}

/* It neither reads nor writes any more. */
static void trick_stay(const struct trick *t _unused_)
{
	stay();
}

static void trick_hang_up(const struct trick *t)
{
	(void)close(strcmp(t->arg[0], "socket") == 0 ? t->sock : t->reports);
	stay();
}

static void trick_shut(const struct trick *t)
{
	(void)shutdown(t->sock, SHUT_RDWR);
	stay();
}

/* The first N bytes of an exit of a command that never was, and zeros behind it. */
static void trick_bytes(const struct trick *t)
{
	static char m[1 << 18] __attribute__((aligned(8)));
	const struct init_exited_msg e = exited(4711, INIT_EXIT_CODE, 0, 0);

	memcpy(m, &e, sizeof(e));
	say(t, m, MIN((size_t)number(t, 0), sizeof(m)));
}

/* A report of type N, of a magic that is wrong by so much. */
static void trick_type(const struct trick *t)
{
	union init_report r = { .h = { INIT_MAGIC + (uint32_t)number(t, 1), (uint32_t)number(t, 0) } };

	say(t, &r, sizeof(r));
}

static void trick_exit(const struct trick *t)
{
	say_exited(t, t->id, (int)number(t, 0), (int)number(t, 1), (int)number(t, 2));
}

static void trick_start(const struct trick *t)
{
	say_started(t, t->id, (int)number(t, 0));
}

/* Of commands that there never were, and its own twice. Then it is honest again. */
static void trick_strangers(const struct trick *t)
{
	static const uint64_t ids[] = { 0, 1, 2, 3, 1000, UINT64_MAX / 2, UINT64_MAX };

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		say_started(t, ids[i], 2);
		say_exited(t, ids[i], INIT_EXIT_CODE, 9, 0);
	}
	for (int i = 0; i < 2; i++)
		say_exited(t, t->id, INIT_EXIT_CODE, 7, 0);
}

/* A message with COUNT descriptors of a KIND through the socket, and then its own end: exit code 0 where the kernel took
 * the message, else the error. */
static void trick_descriptors(const struct trick *t)
{
	const struct init_exited_msg m = exited(t->id, INIT_EXIT_CODE, 7, 0);
	int fds[MANY_FDS], r;
	size_t n = make_fds(t, t->arg[0], MIN((size_t)number(t, 1), ARRAY_SIZE(fds)), fds);

	r = n > 0 ? send_fds(t->sock, &m, sizeof(m), fds, n) : -EBADF;
	/* Else its own close would be the last one. */
	if (r == 0)
		(void)close(fds[0]);
	say_exited(t, t->id, INIT_EXIT_CODE, -r, 0);
}

/* READY with COUNT descriptors of a KIND, the last one of LAST. */
static void trick_root(const struct trick *t)
{
	const struct init_header h = { INIT_MAGIC, INIT_READY };
	int fds[MANY_FDS];
	size_t n = make_fds(t, t->arg[0], MIN((size_t)number(t, 1), ARRAY_SIZE(fds)), fds);

	if (n > 1 && t->arg[2])
		fds[n - 1] = make_fd(t, t->arg[2]);
	(void)send_fds(t->sock, &h, sizeof(h), fds, n);
	stay();
}

static void trick_ready_twice(const struct trick *t)
{
	const struct pid1_config c = { .ctl_sock = t->sock };

	(void)send_ready(&c);
	(void)send_ready(&c);
	stay();
}

/* That something failed, in bytes that are no text, or in text without an end. */
static void trick_failed(const struct trick *t)
{
	struct init_failed_msg m = { .h = { INIT_MAGIC, INIT_FAILED }, .errnum = (int)number(t, 0) };

	(void)snprintf(m.text, sizeof(m.text), "\xff\xfe\x1b[31mred\nline\r\x07\xc3");
	if (number(t, 1))
		memset(m.text, 'x', sizeof(m.text));
	(void)send_fds(t->sock, &m, sizeof(m), NULL, 0);
	stay();
}

/* The same thing over and over: starts, exits of another, or descriptors. */
static void trick_flood(const struct trick *t)
{
	for (;;) {
		if (strcmp(t->arg[0], "starts") == 0)
			say_started(t, t->id, 77);
		else if (strcmp(t->arg[0], "exits") == 0)
			say_exited(t, t->id + 1, INIT_EXIT_CODE, 0, 0);
		else
			(void)send_fds(t->sock, "x", 1, &t->sock, 1);
	}
}

/* Somebody else's credentials, and its own, to the socket. */
static void trick_credentials(const struct trick *t)
{
	char control[CMSG_SPACE(sizeof(struct ucred))] __attribute__((aligned(8))) = { 0 };
	struct init_exited_msg m = exited(t->id, INIT_EXIT_CODE, 7, 0);
	struct iovec iov = { .iov_base = &m, .iov_len = sizeof(m) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *c = (void *)control;

	*c = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(struct ucred)),
			       .cmsg_level = SOL_SOCKET,
			       .cmsg_type = SCM_CREDENTIALS };
	memcpy(CMSG_DATA(c), &(struct ucred){ .pid = 2, .uid = 4711, .gid = 4711 }, sizeof(struct ucred));
	(void)!sendmsg(t->sock, &msg, MSG_NOSIGNAL);
	memcpy(CMSG_DATA(c), &(struct ucred){ .pid = getpid() }, sizeof(struct ucred));
	(void)!sendmsg(t->sock, &msg, MSG_NOSIGNAL);
	say_exited(t, t->id, INIT_EXIT_CODE, 7, 0);
}

static void trick_when_alone(const struct trick *t);

static const struct {
	const char *name;
	void (*fn)(const struct trick *t);
} tricks[] = {
	{ "when-alone", trick_when_alone },
	{ "die", trick_die },
	{ "stay", trick_stay },
	{ "hang-up", trick_hang_up },
	{ "shut", trick_shut },
	{ "bytes", trick_bytes },
	{ "type", trick_type },
	{ "exit", trick_exit },
	{ "start", trick_start },
	{ "strangers", trick_strangers },
	{ "descriptors", trick_descriptors },
	{ "root", trick_root },
	{ "ready-twice", trick_ready_twice },
	{ "failed", trick_failed },
	{ "flood", trick_flood },
	{ "credentials", trick_credentials },
};

/* ---- when ---- */

static void play(struct trick *t, const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(tricks); i++)
		if (strcmp(tricks[i].name, name) == 0) {
			tricks[i].fn(t);
			return;
		}
	_exit(99);
}

/* Its own end at once, and the rest of the words a second later. */
static void trick_when_alone(const struct trick *t)
{
	struct trick later = { .sock = t->sock, .reports = t->reports, .id = t->id };

	say_exited(t, t->id, INIT_EXIT_CODE, 0, 0);
	(void)poll(NULL, 0, 1000);
	memcpy(later.arg, t->arg + 1, sizeof(later.arg) - sizeof(later.arg[0]));
	play(&later, t->arg[0]);
}

static char plan[256]; /* as last read; "": none */

static void read_plan(void)
{
	if (fd_read_file(AT_FDCWD, ISOLATE_DISK "/hostile", plan, sizeof(plan)) < 0)
		plan[0] = '\0';
}

/* Splits the plan, so it is the last use of it. */
static void at_stage(const struct pid1_config *c, const char *stage)
{
	struct trick t = { .sock = c->ctl_sock, .reports = -1 };
	size_t n = strlen(stage);
	char *save, *name;

	if (strncmp(plan, stage, n) != 0 || plan[n] != ' ')
		return;
	name = strtok_r(plan + n, " \n", &save);
	for (int i = 0; name && i < ARGS_MAX - 1; i++)
		t.arg[i] = strtok_r(NULL, " \n", &save);
	if (name)
		play(&t, name);
}

/* Whether it was a command for this file. */
static bool heard_trick(struct pid1 *p)
{
	struct init_exec_inline m;
	ssize_t n = recv(p->sock, &m, sizeof(m), MSG_PEEK);
	struct trick t = { .sock = p->sock, .reports = p->reports };
	char *at = m.spec, *word;
	int fds[4];
	size_t n_fds = 0;

	if (n <= (ssize_t)sizeof(m.m) || m.m.h.type != INIT_EXEC || strcmp(m.spec, "hostile") != 0)
		return false;
	(void)fd_recv_msg(p->sock, &m, sizeof(m), fds, ARRAY_SIZE(fds), &n_fds);
	while (n_fds > 0)
		(void)close(fds[--n_fds]);
	t.id = m.m.id;
	(void)next_string(&at, m.spec + m.m.spec_len);
	word = next_string(&at, m.spec + m.m.spec_len);
	for (uint32_t i = 0; i + 2 < m.m.n_argv && i < ARGS_MAX; i++)
		t.arg[i] = next_string(&at, m.spec + m.m.spec_len);
	play(&t, word);
	return true;
}

static _noreturn_ void serve_until_told(struct pid1 *p)
{
	struct pollfd pfd[2] = { { .fd = p->sock, .events = POLLIN }, { .fd = p->sigfd, .events = POLLIN } };

	for (;;) {
		(void)poll(pfd, ARRAY_SIZE(pfd), -1);
		if (pfd[1].revents)
			reap(p);
		if (pfd[0].revents && !heard_trick(p))
			on_message(p);
	}
}

/* As emulator/pid1.c, with the stages between. */
_noreturn_ void pid1_main(const struct pid1_config *c)
{
	struct pid1 p = { .sock = c->ctl_sock };
	struct init_configure_msg conf;
	struct init_header go;
	struct err e = ERR_INIT;
	sigset_t chld;

	reset_signals();
	read_plan();
	receive(c->ctl_sock, INIT_GO, &go, sizeof(go));
	at_stage(c, "parked");
	if (become_root_inside(c->single_id, &e) < 0 || unshare(CLONE_NEWCGROUP) < 0 ||
	    isolate_stage(c->cgroup_view, &e) < 0)
		die(c, &e);
	at_stage(c, "staged");
	receive(c->ctl_sock, INIT_CONFIGURE, &conf, sizeof(conf));
	read_plan();
	at_stage(c, "configured");
	configure(c, &conf);
	at_stage(c, "ready");
	(void)sigemptyset(&chld);
	(void)sigaddset(&chld, SIGCHLD);
	(void)sigprocmask(SIG_SETMASK, &chld, NULL);
	p.sigfd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	p.mark_max = RLIM_INFINITY;
	p.reports = send_ready(c);
	if (isolate_limit_files(&e) < 0)
		_exit(1);
	serve_until_told(&p);
}
