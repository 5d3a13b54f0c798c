#include "emulator/keeper_net.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "netpolicy/gateway.h"

#define NET_PATIENCE_S 5

enum net_question { NET_NOTICE = 1 };

struct net_request {
	uint32_t question;
	int32_t pid;
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

static _noreturn_ void net_main(int sock)
{
	struct gateway *g = NULL;
	struct err e = ERR_INIT;
	struct net_request q;
	int r, fd;

	log_set_name("gateway");
	(void)prctl(PR_SET_NAME, "ork-gateway");
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	r = gateway_new(&g, &e);
	answer(sock, r, &e, -1);
	while (r >= 0 && fd_recv_msg(sock, &q, sizeof(q), NULL, 0, NULL) == sizeof(q)) {
		fd = -1;
		r = q.question == NET_NOTICE ? gateway_notice(g, q.pid, &fd, &e) : err_errno(&e, EINVAL, "gateway");
		answer(sock, r, &e, fd);
		closep(&fd);
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

int keeper_net_start(int close_fd, struct keeper_net **ret, struct err *e)
{
	const struct timeval patience = { .tv_sec = NET_PATIENCE_S };
	struct keeper_net *n = calloc(1, sizeof(*n));
	int sv[2], r;
	pid_t pid;

	if (!n || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0) {
		free(n);
		return err_errno(e, errno, "the gateway's socket");
	}
	pid = fork();
	if (pid == 0) {
		(void)close(sv[0]);
		if (close_fd >= 0)
			(void)close(close_fd);
		net_main(sv[1]);
	}
	(void)close(sv[1]);
	n->sock = sv[0];
	r = pid < 0 ? err_errno(e, errno, "fork") : 0;
	(void)setsockopt(n->sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (r >= 0)
		r = hear(n->sock, NULL, e);
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

int keeper_net_notice(struct keeper_net *n, pid_t init_pid, int *ret_nflog, struct err *e)
{
	const struct net_request q = { .question = NET_NOTICE, .pid = init_pid };
	int r = fd_send_msg(n->sock, &q, sizeof(q), NULL, 0);

	if (r < 0)
		return err_set(e, ERR_UNAVAILABLE, -r, "network_unavailable", "the gateway process is gone");
	return hear(n->sock, ret_nflog, e);
}
