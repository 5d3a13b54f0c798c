#include "emulator/keeper_net.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/procname.h"
#include "emulator/base/sys.h"
#include "netpolicy/egress.h"
#include "netpolicy/gateway.h"

#define NET_PATIENCE_S 5

enum net_question { NET_NOTICE = 1, NET_ATTACH, NET_SET_MODE, NET_EGRESS /* with the dialer's socket */ };

struct net_request {
	uint32_t question;
	int32_t pid;
	uint32_t index, mode;
};

/* One answer a question; with result 0 maybe an fd. */
struct net_answer {
	int32_t result; /* 0 or a negative errno */
	char text[160];
};

struct keeper_net {
	int sock;
};

static void answer(int sock, int result, const struct err *e, int fd)
{
	struct net_answer a = { .result = result };

	(void)snprintf(a.text, sizeof(a.text), "%.*s", (int)sizeof(a.text) - 1, result < 0 ? e->msg : "");
	if (fd_send_msg(sock, &a, sizeof(a), &fd, fd >= 0) < 0)
		_exit(0);
}

/* Up to three "nameserver ADDRESS" lines (resolv.conf(5)); what has a form we don't know is left out. */
static void read_nameservers(char ret[3][64])
{
	_cleanup_fclose_ FILE *f = fopen("/etc/resolv.conf", "re");
	char line[256], address[64];
	int n = 0;

	while (f && n < 3 && fgets(line, sizeof(line), f))
		if (sscanf(line, "nameserver %63s", address) == 1)
			(void)snprintf(ret[n++], sizeof(ret[0]), "%s", address);
}

/* Forks one of the gateway's own children: sock is the end it gets. */
static int fork_with(int sock, int other, void (*run)(int sock, void *arg), void *arg)
{
	pid_t parent = getpid(), pid = fork();

	if (pid == 0) {
		sys_die_with(parent);
		(void)close(other);
		run(sock, arg);
		_exit(1);
	}
	return pid < 0 ? -errno : 0;
}

static void run_dialer(int sock, void *arg)
{
	(void)arg;
	log_set_name("dialer");
	procname_set("ork-dialer");
	dialer_main(sock);
}

struct egress_start {
	struct egress_config c;
	int rpc; /* the gateway's own socket, not for egress */
};

static void run_egress(int sock, void *arg)
{
	struct egress_start *s = arg;

	(void)close(s->rpc);
	log_set_name("egress");
	procname_set("ork-egress");
	s->c.control = sock;
	egress_main(&s->c);
}

/* By the keeper, which is in the host's network as the dialer must be. *ret: the egress process's end. */
static int start_dialer(int *ret, struct err *e)
{
	int dial[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, dial) < 0)
		return err_errno(e, errno, "the dialer's socket");
	r = fork_with(dial[1], dial[0], run_dialer, NULL);
	(void)close(dial[1]);
	if (r < 0) {
		(void)close(dial[0]);
		return err_errno(e, -r, "starting the dialer");
	}
	*ret = dial[0];
	return 0;
}

static int start_egress(struct egress_start *s, int dialer, int *ret_control, struct err *e)
{
	int control[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0)
		return err_errno(e, errno, "the egress process's socket");
	s->c.dialer = dialer;
	r = fork_with(control[1], control[0], run_egress, s);
	(void)close(control[1]);
	if (r < 0) {
		(void)close(control[0]);
		return err_errno(e, -r, "starting the egress process");
	}
	*ret_control = control[0];
	return 0;
}

static int perform(struct gateway *g, struct egress_start *s, const struct net_request *q, int fd, int *ret_fd,
		   struct err *e)
{
	switch (q->question) {
	case NET_EGRESS:
		return fd < 0 ? err_errno(e, EINVAL, "no socket for the egress process")
			      : start_egress(s, fd, ret_fd, e);
	case NET_NOTICE:
		return gateway_notice(g, q->pid, ret_fd, e);
	case NET_ATTACH:
		return gateway_attach(g, q->index, q->pid, (enum net_mode)q->mode, e);
	case NET_SET_MODE:
		return gateway_set_mode(g, q->index, (enum net_mode)q->mode, e);
	default:
		return err_errno(e, EINVAL, "the gateway was asked something unknown");
	}
}

static _noreturn_ void net_main(int sock, int dialer, pid_t parent)
{
	struct egress_start s = { .rpc = sock };
	struct gateway *g = NULL;
	struct err e = ERR_INIT;
	struct net_request q;
	int r, fd = -1, got = -1;
	size_t n_fds;

	log_set_name("gateway");
	procname_set("ork-gateway");
	sys_die_with(parent);
	(void)signal(SIGCHLD, SIG_IGN); /* its children end with it; none is waited for */
	read_nameservers(s.c.nameservers);
	r = gateway_new(&g, &e);
	if (r >= 0) {
		s.c.sockets = gateway_sockets(g);
		r = start_egress(&s, dialer, &fd, &e);
	}
	closep(&dialer);
	answer(sock, r, &e, fd);
	closep(&fd);
	while (r >= 0 && fd_recv_msg(sock, &q, sizeof(q), &got, 1, &n_fds) == sizeof(q)) {
		fd = -1;
		r = perform(g, &s, &q, got, &fd, &e);
		answer(sock, r, &e, fd);
		closep(&fd);
		closep(&got);
		r = 0; /* one sandbox's failure is not the gateway's */
	}
	_exit(0);
}

/* Waits for the answer to what was asked; an fd that nobody expects is closed. */
static int hear(int sock, int *ret_fd, struct err *e)
{
	struct net_answer a;
	size_t n_fds = 0;
	int fd = -1;
	ssize_t n = fd_recv_msg(sock, &a, sizeof(a), &fd, 1, &n_fds);

	if (n != sizeof(a) || !memchr(a.text, '\0', sizeof(a.text))) {
		closep(&fd);
		return err_set(e, ERR_UNAVAILABLE, EPIPE, "network_unavailable", "the gateway process does not answer");
	}
	if (a.result < 0 || !ret_fd)
		closep(&fd);
	if (a.result < 0)
		return err_set(e, ERR_UNAVAILABLE, -a.result, "network_unavailable", "%s", a.text);
	if (ret_fd)
		*ret_fd = fd;
	return 0;
}

int keeper_net_start(int close_fd, struct keeper_net **ret, int *ret_egress, struct err *e)
{
	const struct timeval patience = { .tv_sec = NET_PATIENCE_S };
	struct keeper_net *n = calloc(1, sizeof(*n));
	_cleanup_close_ int dialer = -1;
	int sv[2], r;
	pid_t parent = getpid(), pid;

	if (n && start_dialer(&dialer, e) < 0) {
		free(n);
		return -ECHILD;
	}
	if (!n || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
		free(n);
		return err_errno(e, errno, "the gateway's socket");
	}
	pid = fork();
	if (pid == 0) {
		(void)close(sv[0]);
		if (close_fd >= 0)
			(void)close(close_fd);
		net_main(sv[1], dialer, parent);
	}
	(void)close(sv[1]);
	n->sock = sv[0];
	r = pid < 0 ? err_errno(e, errno, "fork") : 0;
	(void)setsockopt(n->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (r >= 0)
		r = hear(n->sock, ret_egress, e);
	if (r < 0) {
		if (pid > 0) {
			(void)kill(pid, SIGKILL);
			while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
				;
		}
		(void)close(n->sock);
		free(n);
		return r;
	}
	*ret = n;
	return 0;
}

static int ask_with(struct keeper_net *n, const struct net_request *q, int fd, int *ret_fd, struct err *e)
{
	int r = fd_send_msg(n->sock, q, sizeof(*q), &fd, fd >= 0);

	if (r < 0)
		return err_set(e, ERR_UNAVAILABLE, EPIPE, "network_unavailable", "the gateway process is gone");
	return hear(n->sock, ret_fd, e);
}

static int ask(struct keeper_net *n, const struct net_request *q, int *ret_fd, struct err *e)
{
	return ask_with(n, q, -1, ret_fd, e);
}

int keeper_net_restart(struct keeper_net *n, int *ret_egress, struct err *e)
{
	_cleanup_close_ int dialer = -1;
	int r = start_dialer(&dialer, e);

	return r < 0 ? r : ask_with(n, &(struct net_request){ .question = NET_EGRESS }, dialer, ret_egress, e);
}

void keeper_net_free(struct keeper_net *n)
{
	if (!n)
		return;
	(void)close(n->sock);
	free(n);
}

int keeper_net_notice(struct keeper_net *n, pid_t init_pid, int *ret_nflog, struct err *e)
{
	return ask(n, &(struct net_request){ .question = NET_NOTICE, .pid = init_pid }, ret_nflog, e);
}

int keeper_net_attach(struct keeper_net *n, uint32_t index, pid_t init_pid, enum net_mode mode, struct err *e)
{
	return ask(n, &(struct net_request){ .question = NET_ATTACH, .pid = init_pid, .index = index, .mode = mode },
		   NULL, e);
}

int keeper_net_set_mode(struct keeper_net *n, uint32_t index, enum net_mode mode, struct err *e)
{
	return ask(n, &(struct net_request){ .question = NET_SET_MODE, .index = index, .mode = mode }, NULL, e);
}
