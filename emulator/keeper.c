#include "emulator/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/procname.h"
#include "emulator/base/sys.h"
#include "emulator/isolate.h"
#include "emulator/keeper_net.h"
#include "emulator/keeper_share.h"
#include "emulator/pid1.h"
#include "emulator/proto.h"
#include "rootfs/tree.h"

/* The keeper process. Theory of operation:
 *
 * One epoll loop over the daemon's socket, a listening socket in the state dir (where a later run finds a
 * keeper that outlived its daemon), and a signalfd for SIGCHLD and SIGTERM. Requests are answered in order. A spawn is
 * one clone3 with every namespace; the child waits on its control socket until the keeper has written its
 * id map and attached it to its cgroup, then stages itself (pid1.c).
 *
 * The keeper keeps a copy of the daemon's end of each control socket (and of the egress process's): when a
 * daemon dies, they do not see EOF, and what they say waits in the socket for the next one. That one's launcher
 * finds the listening socket, says KEEPER_HELLO, and the daemon asks for all of it with KEEPER_LIST. When the
 * keeper dies its inits die with it (PR_SET_PDEATHSIG). */

struct held { /* a command's */
	struct held *next;
	uint64_t id;
	int fds[3];
	bool lingers;
	uint32_t note_len;
	char note[];
};

#define HELD_MAX 600 /* a sandbox's */

#define RESTARTS_MAX 5 /* of the egress process, a minute */

struct kept {
	char slot[KEEPER_SLOT_SIZE];
	pid_t pid;
	int pidfd;
	int ctl;     /* the daemon's end */
	int refused; /* hears of refused packets, or -1 */
	int root;    /* of its file system, or -1 */
	int reports; /* the reading end of its init's, or -1 */
	int index;   /* in the gateway, or -1 */
	enum net_mode mode;
	char label[KEEPER_LABEL_SIZE];
	struct held *held;
	unsigned int n_held;
	UT_hash_handle by_slot;
};

struct keeper_process {
	const struct keeper_config *c;
	struct isolate_filter filter;
	struct kept *kept;
	int ep, conn, listener, sigfd;
	bool cgroup_view;
	bool stopping;
	struct keeper_net *net; /* NULL: no network on this host */
	int egress;		/* the daemon's end of its control socket, or -1 */
	unsigned int restarts;	/* of it, in the minute since: */
	int64_t restarts_us;
	int positions; /* the daemon's, kept for the next one */
	char why[200]; /* there is no network */
};

/* Too many descriptors may be in flight for a moment (unix(7), ETOOMANYREFS). */
static void send_to_daemon(struct keeper_process *k, const void *m, size_t n, const int *fds, size_t n_fds)
{
	int r = 0;

	for (int tries = 0; k->conn >= 0 && tries < 1000; tries++) {
		r = fd_send_msg(k->conn, m, n, fds, n_fds);
		if (r != -ETOOMANYREFS)
			break;
		(void)poll(NULL, 0, 1);
	}
	if (r < 0)
		log_debug("the daemon does not listen");
}

static void tell(struct keeper_process *k, enum keeper_msg_type type, const char *slot, int value, const char *text,
		 const int *fds, size_t n_fds)
{
	struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = type, .value = value };

	(void)snprintf(m.slot, sizeof(m.slot), "%s", slot);
	(void)snprintf(m.text, sizeof(m.text), "%.*s", (int)sizeof(m.text) - 1, text ? text : "");
	send_to_daemon(k, &m, sizeof(m), fds, n_fds);
}

static void drop_held(struct kept *s, struct held *h)
{
	LL_DELETE(s->held, h);
	s->n_held--;
	for (int i = 0; i < 3; i++)
		closep(&h->fds[i]);
	free(h);
}

static void forget(struct keeper_process *k, struct kept *s)
{
	while (s->held)
		drop_held(s, s->held);
	HASH_DELETE(by_slot, k->kept, s);
	closep(&s->pidfd);
	closep(&s->ctl);
	closep(&s->refused);
	closep(&s->root);
	closep(&s->reports);
	free(s);
}

/* In the new process: only the control socket and standard error stay open. */
static _noreturn_ void child_main(struct keeper_process *k, int ctl)
{
	struct pid1_config c = {
		.ctl_sock = 3,
		.filter = &k->filter,
		.cgroup_view = k->cgroup_view,
		.single_id = k->c->idmap->kind == IDMAP_SINGLE,
	};

	if (dup3(ctl, 3, O_CLOEXEC) < 0 && ctl != 3)
		_exit(1);
	if (sys_close_range(4, ~0u, 0) < 0)
		_exit(1);
	log_set_name("init");
	procname_set("init");
	pid1_main(&c);
}

static int write_child_maps(struct keeper_process *k, pid_t pid, struct err *e)
{
	const char *map = idmap_sandbox_map(k->c->idmap);
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	r = fd_write_file(AT_FDCWD, path, map);
	if (r < 0)
		return err_errno(e, -r, "writing the sandbox's uid_map");
	(void)snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	r = fd_write_file(AT_FDCWD, path, map);
	return r < 0 ? err_errno(e, -r, "writing the sandbox's gid_map") : 0;
}

static int clone_init(struct keeper_process *k, struct kept *s, int init_end, struct err *e)
{
	_cleanup_close_ int cg = cgroup_open_for_clone(k->c->cgroups, s->slot);
	struct clone_args args = {
		.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
			 CLONE_PIDFD,
		.pidfd = (__u64)(uintptr_t)&s->pidfd,
		.exit_signal = SIGCHLD,
	};

	if (cg >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (__u64)cg;
	} else if (cg != -ENOTSUP) {
		return err_errno(e, -cg, "opening the cgroup of %s", s->slot);
	}
	s->pid = sys_clone3(&args);
	if (s->pid == 0)
		child_main(k, init_end);
	if (s->pid < 0)
		return err_errno(e, -s->pid, "clone3");
	if (cg < 0 && cgroup_root_backend(k->c->cgroups) != CGROUP_NONE)
		return cgroup_attach(k->c->cgroups, s->slot, s->pid, e);
	return 0;
}

static int spawn(struct keeper_process *k, struct kept *s, struct err *e)
{
	const struct init_header go = { INIT_MAGIC, INIT_GO };
	_cleanup_close_ int init_end = -1;
	int sv[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return err_errno(e, errno, "socketpair");
	s->ctl = sv[0];
	init_end = sv[1];
	r = clone_init(k, s, init_end, e);
	if (r >= 0)
		r = write_child_maps(k, s->pid, e);
	if (r >= 0 && k->net)
		r = keeper_net_notice(k->net, s->pid, &s->refused, e);
	if (r >= 0) {
		r = fd_send_msg(s->ctl, &go, sizeof(go), NULL, 0);
		if (r < 0)
			err_errno(e, -r, "starting the sandbox's init");
	}
	return r;
}

static void on_spawn(struct keeper_process *k, const char *slot)
{
	struct err e = ERR_INIT;
	struct kept *s;
	int status, fds[2];

	HASH_FIND(by_slot, k->kept, slot, strlen(slot), s);
	if (s) {
		tell(k, KEEPER_FAILED, slot, EEXIST, "the slot is in use", NULL, 0);
		return;
	}
	s = calloc(1, sizeof(*s));
	if (!s) {
		tell(k, KEEPER_FAILED, slot, ENOMEM, "out of memory", NULL, 0);
		return;
	}
	(void)snprintf(s->slot, sizeof(s->slot), "%s", slot);
	s->pidfd = s->ctl = s->refused = s->root = s->reports = s->index = -1;
	HASH_ADD(by_slot, k->kept, slot, strlen(s->slot), s);
	if (!s->by_slot.tbl) {
		free(s);
		tell(k, KEEPER_FAILED, slot, ENOMEM, "out of memory", NULL, 0);
		return;
	}
	if (spawn(k, s, &e) < 0) {
		if (s->pid > 0) {
			(void)kill(s->pid, SIGKILL);
			while (waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
				;
		}
		forget(k, s);
		tell(k, KEEPER_FAILED, slot, e.errnum, e.msg, NULL, 0);
		return;
	}
	fds[0] = s->ctl;
	fds[1] = s->refused;
	tell(k, KEEPER_SPAWNED, slot, s->pid, NULL, fds, s->refused >= 0 ? 2 : 1);
}

static void on_network(struct keeper_process *k, const struct keeper_msg *m)
{
	enum net_mode mode = (enum net_mode)m->mode;
	struct err e = ERR_INIT;
	struct kept *s;
	int r;

	HASH_FIND(by_slot, k->kept, m->slot, strlen(m->slot), s);
	if (!s || m->mode > NET_OPEN || m->value < 0)
		r = err_errno(&e, ESRCH, "the sandbox to be connected");
	else if (!k->net)
		r = err_set(&e, ERR_UNAVAILABLE, EPIPE, NULL, "there is no gateway process");
	else if (m->type == KEEPER_ATTACH)
		r = keeper_net_attach(k->net, (uint32_t)m->value, s->pid, mode, &e);
	else
		r = keeper_net_set_mode(k->net, (uint32_t)m->value, mode, &e);
	if (r >= 0) {
		s->index = m->value;
		s->mode = mode;
	}
	tell(k, r < 0 ? KEEPER_FAILED : KEEPER_DONE, m->slot, r < 0 ? e.errnum : 0, r < 0 ? e.msg : NULL, NULL, 0);
}

static void on_kill(struct keeper_process *k, const char *slot)
{
	struct kept *s;

	HASH_FIND(by_slot, k->kept, slot, strlen(slot), s);
	if (s)
		(void)sys_pidfd_send_signal(s->pidfd, SIGKILL);
}

static void stop_all(struct keeper_process *k)
{
	struct kept *s, *tmp;

	HASH_ITER(by_slot, k->kept, s, tmp)
	(void)sys_pidfd_send_signal(s->pidfd, SIGKILL);
	k->stopping = true;
}

/* SIGTERM is for a keeper whose daemon is gone. While there is one, whoever signals the whole group (a service
 * manager, pkill -f) means the daemon, which ends the sandboxes in order and then says KEEPER_STOP. */
static void on_signals(struct keeper_process *k)
{
	struct signalfd_siginfo si;

	while (read(k->sigfd, &si, sizeof(si)) > 0)
		if (si.ssi_signo == SIGTERM && k->conn < 0)
			stop_all(k);
}

static void on_child(struct keeper_process *k)
{
	struct kept *s, *tmp;
	char slot[KEEPER_SLOT_SIZE];
	int status;
	pid_t pid;

	on_signals(k);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		HASH_ITER(by_slot, k->kept, s, tmp)
		{
			if (s->pid != pid)
				continue;
			memcpy(slot, s->slot, sizeof(slot));
			/* First, so that the daemon's copy of its root is the last one (sandbox_leave_root). */
			forget(k, s);
			tell(k, KEEPER_DIED, slot, status, NULL, NULL, 0);
			break;
		}
	}
}

/* ---- a daemon that takes over ---- */

static void on_hello(struct keeper_process *k)
{
	char version[PROTO_VERSION_SIZE];
	struct keeper_msg m = { .magic = KEEPER_MAGIC,
				.type = KEEPER_WELCOME,
				.value = (int32_t)cgroup_root_backend(k->c->cgroups),
				.mode = k->egress >= 0 };

	proto_version(version);
	(void)snprintf(m.text, sizeof(m.text), "%s", version);
	send_to_daemon(k, &m, sizeof(m), (int[]){ k->positions, k->egress }, k->egress >= 0 ? 2 : 1);
	tell(k, KEEPER_NETWORK, "", 0, k->why, NULL, 0);
}

static void tell_held(struct keeper_process *k, const struct kept *s)
{
	struct held *h;

	LL_FOREACH(s->held, h)
	{
		struct keeper_exec_msg m = { .magic = KEEPER_MAGIC,
					     .type = KEEPER_EXEC,
					     .id = h->id,
					     .lingers = h->lingers,
					     .note_len = h->note_len };
		int fds[3];
		size_t n = 0;

		memcpy(m.slot, s->slot, sizeof(m.slot));
		memcpy(m.note, h->note, h->note_len);
		for (unsigned int i = 0; i < 3; i++)
			if (h->fds[i] >= 0) {
				m.has |= 1u << i;
				fds[n++] = h->fds[i];
			}
		send_to_daemon(k, &m, KEEPER_EXEC_MSG_MIN + m.note_len, fds, n);
	}
}

static void on_list(struct keeper_process *k)
{
	struct kept *s, *tmp;

	HASH_ITER(by_slot, k->kept, s, tmp)
	{
		struct keeper_msg m = { .magic = KEEPER_MAGIC, .type = KEEPER_KEPT, .value = s->pid, .mode = s->mode };
		int fds[4] = { s->ctl };
		size_t n = 1;

		m.kept = (struct keeper_msg_kept){ .index = s->index };
		(void)snprintf(m.slot, sizeof(m.slot), "%s", s->slot);
		(void)snprintf(m.kept.label, sizeof(m.kept.label), "%s", s->label);
		if (s->refused >= 0) {
			m.kept.has |= KEPT_HAS_REFUSED;
			fds[n++] = s->refused;
		}
		if (s->root >= 0) {
			m.kept.has |= KEPT_HAS_ROOT;
			fds[n++] = s->root;
			fds[n++] = s->reports;
		}
		send_to_daemon(k, &m, sizeof(m), fds, n);
		tell_held(k, s);
	}
	tell(k, KEEPER_LISTED, "", 0, NULL, NULL, 0);
}

static void on_hold(struct keeper_process *k, const struct keeper_msg *m, int fds[static 2])
{
	struct kept *s;

	HASH_FIND(by_slot, k->kept, m->slot, strlen(m->slot), s);
	if (!s || !proto_string_ok(m->kept.label, sizeof(m->kept.label)))
		return;
	closep(&s->root);
	s->root = TAKE_FD(fds[0]);
	closep(&s->reports);
	s->reports = TAKE_FD(fds[1]);
	(void)snprintf(s->label, sizeof(s->label), "%s", m->kept.label);
}

/* ---- commands ---- */

static void hold_exec(struct kept *s, const struct keeper_exec_msg *m, int *fds)
{
	struct held *h = s->n_held < HELD_MAX ? calloc(1, sizeof(*h) + m->note_len) : NULL;

	if (!h)
		return; /* such a one does not survive its daemon */
	h->id = m->id;
	h->note_len = m->note_len;
	memcpy(h->note, m->note, m->note_len);
	for (unsigned int i = 0; i < 3; i++)
		h->fds[i] = m->has & 1u << i ? TAKE_FD(*fds++) : -1;
	LL_PREPEND(s->held, h);
	s->n_held++;
}

static void on_exec(struct keeper_process *k, const struct keeper_exec_msg *m, int *fds)
{
	struct kept *s;
	struct held *h;

	HASH_FIND(by_slot, k->kept, m->slot, strlen(m->slot), s);
	if (!s)
		return;
	if (m->type == KEEPER_EXEC) {
		hold_exec(s, m, fds);
		return;
	}
	LL_SEARCH_SCALAR(s->held, h, id, m->id);
	if (!h)
		return;
	if (m->type == KEEPER_EXEC_OVER)
		drop_held(s, h);
	else
		closep(&h->fds[0]);
	if (m->type == KEEPER_EXEC_LINGERS)
		h->lingers = true;
}

static void lose_daemon(struct keeper_process *k)
{
	(void)epoll_ctl(k->ep, EPOLL_CTL_DEL, k->conn, NULL);
	closep(&k->conn);
}

static bool needs_slot(uint32_t type)
{
	return type != KEEPER_STOP && type != KEEPER_HELLO && type != KEEPER_LIST;
}

static void on_daemon_msg(struct keeper_process *k, const struct keeper_msg *m, int *fds, size_t n_fds)
{
	if (!proto_string_ok(m->slot, sizeof(m->slot)) || (needs_slot(m->type) && !proto_slot_ok(m->slot))) {
		lose_daemon(k);
		return;
	}
	if (m->type == KEEPER_HELLO)
		on_hello(k);
	else if (m->type == KEEPER_LIST)
		on_list(k);
	else if (m->type == KEEPER_HOLD && n_fds == 2)
		on_hold(k, m, fds);
	else if (m->type == KEEPER_SPAWN)
		on_spawn(k, m->slot);
	else if (m->type == KEEPER_KILL)
		on_kill(k, m->slot);
	else if (m->type == KEEPER_STOP)
		stop_all(k);
	else if (m->type == KEEPER_ATTACH || m->type == KEEPER_MODE)
		on_network(k, m);
	else
		lose_daemon(k);
}

static void on_daemon(struct keeper_process *k)
{
	union keeper_any_msg any;
	int fds[3] = { -1, -1, -1 };
	size_t n_fds = 0;
	ssize_t n = fd_recv_msg(k->conn, &any, sizeof(any), fds, ARRAY_SIZE(fds), &n_fds);

	if (n > 0 && proto_exec_ok(&any.exec, (size_t)n, n_fds))
		on_exec(k, &any.exec, fds);
	else if (n == sizeof(any.m) && any.m.magic == KEEPER_MAGIC)
		on_daemon_msg(k, &any.m, fds, n_fds);
	else
		lose_daemon(k);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		closep(&fds[i]);
}

static int watch_for(struct keeper_process *k, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };

	return epoll_ctl(k->ep, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

static int watch(struct keeper_process *k, int fd)
{
	return watch_for(k, fd, EPOLLIN);
}

/* ---- the egress process ---- */

/* One that dies at once, again and again, is not helped by another. */
static bool may_restart(struct keeper_process *k)
{
	int64_t now = clock_mono_us();

	if (now - k->restarts_us > INT64_C(60000000)) {
		k->restarts_us = now;
		k->restarts = 0;
	}
	return k->restarts++ < RESTARTS_MAX;
}

/* Its connections ended with it. The rules in the gateway stand, and hand connections to nobody meanwhile. */
static void on_egress_end(struct keeper_process *k)
{
	struct err e = ERR_INIT;
	int r;

	(void)epoll_ctl(k->ep, EPOLL_CTL_DEL, k->egress, NULL);
	closep(&k->egress);
	if (k->stopping)
		return;
	if (may_restart(k))
		r = keeper_net_restart(k->net, &k->egress, &e);
	else
		r = err_set(&e, ERR_UNAVAILABLE, EAGAIN, NULL, "the egress process ends again and again");
	if (r >= 0 && watch_for(k, k->egress, 0) < 0)
		closep(&k->egress);
	if (k->egress < 0) {
		(void)snprintf(k->why, sizeof(k->why),
			       "the emulator's network has ended (%.100s); stop and start the emulator", e.msg);
		log_error("%s", k->why);
		keeper_net_free(TAKE_PTR(k->net));
	} else {
		log_warn("the egress process had ended: there is another one");
	}
	tell(k, KEEPER_EGRESS, "", 0, k->why, &k->egress, k->egress >= 0);
}

/* What the daemon before said last still counts. A worker of its may hold the socket open for a moment, so its
 * end is not waited for. */
static void finish_daemon(struct keeper_process *k)
{
	struct pollfd p = { .fd = k->conn, .events = POLLIN };

	while (k->conn >= 0 && poll(&p, 1, 0) > 0 && (p.revents & POLLIN))
		on_daemon(k);
	if (k->conn >= 0)
		lose_daemon(k);
}

/* A new run's daemon takes the place of the one before: it holds the state dir's lock, so that one is dead. */
static void on_connect(struct keeper_process *k)
{
	const struct timeval patience = { .tv_sec = 10 };
	int fd = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	finish_daemon(k);
	k->conn = fd;
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (watch(k, fd) < 0)
		closep(&k->conn);
}

static void keeper_loop(struct keeper_process *k)
{
	struct epoll_event ev[8];

	while (!k->stopping || k->kept) {
		int n = epoll_wait(k->ep, ev, ARRAY_SIZE(ev), -1);

		for (int i = 0; i < n; i++) {
			if (ev[i].data.fd == k->sigfd)
				on_child(k);
			else if (ev[i].data.fd == k->listener)
				on_connect(k);
			else if (ev[i].data.fd == k->egress)
				on_egress_end(k);
			else if (ev[i].data.fd == k->conn)
				on_daemon(k);
		}
	}
}

static int keeper_listen(int state_fd, struct err *e)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un a;

	proto_keeper_address(state_fd, &a);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	if (unlinkat(state_fd, KEEPER_SOCKET_NAME, 0) < 0 && errno != ENOENT)
		return err_errno(e, errno, "removing the old keeper.sock");
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 4) < 0)
		return err_errno(e, errno, "making keeper.sock");
	return TAKE_FD(fd);
}

/* A host that lacks something for it can still run sandboxes that are off. */
static void make_gateway(struct keeper_process *k)
{
	struct err e = ERR_INIT;

	if (!k->c->network)
		(void)snprintf(k->why, sizeof(k->why), "the network was not asked for");
	else if (keeper_net_start(k->conn, &k->net, &k->egress, &e) < 0)
		(void)snprintf(k->why, sizeof(k->why), "%.199s", e.msg);
}

static int keeper_prepare(struct keeper_process *k, struct err *e)
{
	_cleanup_close_ int disk = -1;
	struct rlimit files;
	sigset_t heard;
	int r = tree_prepare_state(k->c->state_fd, e);

	if (r < 0)
		return r;
	if (k->c->shared_layers)
		r = keeper_share_layers(e);
	if (r < 0)
		return r;
	disk = open("disk", O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (disk < 0)
		return err_errno(e, errno, "opening the disk folder");
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max; /* six fds a sandbox, and its commands' */
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	r = isolate_filter_build(&k->filter, e);
	if (r < 0)
		return r;
	k->listener = keeper_listen(k->c->state_fd, e);
	if (k->listener < 0)
		return k->listener;
	r = isolate_keeper_root(disk, e);
	if (r < 0)
		return r;
	(void)sigemptyset(&heard);
	(void)sigaddset(&heard, SIGCHLD);
	(void)sigaddset(&heard, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &heard, NULL);
	k->sigfd = signalfd(-1, &heard, SFD_CLOEXEC | SFD_NONBLOCK);
	k->ep = epoll_create1(EPOLL_CLOEXEC);
	if (k->sigfd < 0 || k->ep < 0)
		return err_errno(e, errno, "epoll");
	if (watch(k, k->sigfd) < 0 || watch(k, k->listener) < 0 || watch(k, k->conn) < 0 ||
	    (k->egress >= 0 && watch_for(k, k->egress, 0) < 0))
		return err_errno(e, errno, "epoll_ctl");
	return 0;
}

struct keeper_arg {
	const struct keeper_config *c;
	int sock;
};

static int keeper_main(void *arg)
{
	const struct keeper_arg *a = arg;
	struct keeper_process k = {
		.c = a->c, .ep = -1, .conn = a->sock, .listener = -1, .sigfd = -1, .egress = -1, .positions = -1
	};
	struct err e = ERR_INIT;

	log_set_name("keeper");
	for (size_t i = 0; i < a->c->n_not_inherited; i++)
		if (a->c->not_inherited[i] >= 0)
			(void)close(a->c->not_inherited[i]);
	/* A session of its own, so that the terminal's Ctrl-C is the daemon's to handle. */
	(void)setsid();
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGINT, SIG_IGN);
	procname_set("ork-keeper");
	k.cgroup_view = cgroup_root_backend(k.c->cgroups) != CGROUP_NONE;
	make_gateway(&k); /* opens a library, so before the host's files are out of reach */
	k.positions = memfd_create("positions", MFD_CLOEXEC);
	if (k.positions < 0 || ftruncate(k.positions, (off_t)KEEPER_POSITIONS_SIZE) < 0) {
		(void)err_errno(&e, errno, "memory for the daemon");
		tell(&k, KEEPER_FAILED, "", e.errnum, e.msg, NULL, 0);
		return 1;
	}
	if (keeper_prepare(&k, &e) < 0) {
		tell(&k, KEEPER_FAILED, "", e.errnum, e.msg, NULL, 0);
		return 1;
	}
	tell(&k, KEEPER_SPAWNED, "", getpid(), k.why, (int[]){ k.positions, k.egress }, k.egress >= 0 ? 2 : 1);
	keeper_loop(&k);
	return 0;
}

/* --- the launcher's side --- */

static int keeper_first_word(int sock, struct keeper_started *ret, struct err *e)
{
	struct keeper_msg m;
	size_t n_fds = 0;
	int fds[2] = { -1, -1 };
	ssize_t n = fd_recv_msg(sock, &m, sizeof(m), fds, 2, &n_fds);

	if (n != sizeof(m) || m.magic != KEEPER_MAGIC || !proto_string_ok(m.text, sizeof(m.text))) {
		closep(&fds[0]);
		closep(&fds[1]);
		return err_set(e, ERR_INTERNAL, EIO, NULL, "the keeper did not start");
	}
	if (m.type != KEEPER_SPAWNED) {
		closep(&fds[0]);
		closep(&fds[1]);
		return err_set(e, ERR_UNAVAILABLE, m.value, "keeper", "the keeper could not start: %s", m.text);
	}
	ret->positions = fds[0];
	ret->egress = fds[1];
	(void)snprintf(ret->no_network, sizeof(ret->no_network), "%.199s", m.text);
	return 0;
}

int keeper_start(const struct keeper_config *c, struct keeper_started *ret, struct err *e)
{
	_cleanup_close_ int ours = -1, theirs = -1, ns = -1;
	struct keeper_arg arg = { .c = c };
	pid_t pid;
	int sv[2], r;

	/* unshare(CLONE_NEWNS) carries the current folder over to the copy of its mount; an fd would go on
	 * naming the host's, from which nothing can be cloned. And a path may lead through folders of the caller's. */
	if (fchdir(c->state_fd) < 0)
		return err_errno(e, errno, "chdir to the state dir");
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return err_errno(e, errno, "socketpair");
	ours = sv[0];
	arg.sock = theirs = sv[1];
	r = idmap_spawn(c->idmap, keeper_main, &arg, &pid, &ns, e);
	if (r < 0)
		return r;
	closep(&theirs);
	r = keeper_first_word(ours, ret, e);
	if (r < 0) {
		(void)kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return r;
	}
	ret->pid = pid;
	ret->userns_fd = TAKE_FD(ns);
	ret->sock = TAKE_FD(ours);
	return 0;
}
