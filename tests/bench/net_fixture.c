#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "tests/bench/net.h"

/* The world outside, on this host's loopback: a server that sends as many bytes as the path of a request says, and a
 * nameserver that knows one address. */

#define CONNS_MAX 2048

static _noreturn_ void stream(int fd, uint64_t left)
{
	static char buf[1 << 20];

	while (left > 0) {
		ssize_t n = send(fd, buf, MIN(left, sizeof(buf)), MSG_NOSIGNAL);

		if (n <= 0)
			break;
		left -= (uint64_t)n;
	}
	_exit(0);
}

/* One request a connection; it stays open until the client closes. False: it has. */
static bool serve_one(int fd)
{
	char q[1024];
	ssize_t n = recv(fd, q, sizeof(q) - 1, 0);
	uint64_t bytes;

	if (n <= 0)
		return false;
	q[n] = '\0';
	bytes = n > 5 ? strtoull(q + 5, NULL, 10) : 0;
	if (bytes == 1)
		return send(fd, "x", 1, MSG_NOSIGNAL) == 1;
	if (fork() == 0)
		stream(fd, bytes);
	return false;
}

static _noreturn_ void serve_world(int listener)
{
	static struct pollfd p[CONNS_MAX];
	nfds_t n = 1;

	(void)signal(SIGCHLD, SIG_IGN);
	p[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
	for (;;) {
		(void)poll(p, n, -1);
		for (nfds_t i = n; i-- > 1;)
			if (p[i].revents && !serve_one(p[i].fd)) {
				(void)close(p[i].fd);
				p[i] = p[--n];
			}
		if (p[0].revents && n < CONNS_MAX) {
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

			if (fd >= 0)
				p[n++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		}
	}
}

static _noreturn_ void serve_names(int fd)
{
	static const uint8_t record[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 93, 184, 216, 34 };
	uint8_t m[600];
	struct sockaddr_in from;
	socklen_t len;
	ssize_t n;

	for (;;) {
		size_t end = 12;

		len = sizeof(from);
		n = recvfrom(fd, m, 512, 0, (struct sockaddr *)&from, &len);
		if (n < 17)
			continue;
		while (end < (size_t)n && m[end])
			end += m[end] + 1u;
		end += 5;
		if (end > (size_t)n)
			continue;
		m[2] = 0x81;
		m[3] = 0x80;
		memset(m + 6, 0, 6);
		m[7] = 1;
		memcpy(m + end, record, sizeof(record));
		(void)sendto(fd, m, end + sizeof(record), 0, (struct sockaddr *)&from, len);
	}
}

static int bound(int type, uint16_t *ret_port, struct err *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	_cleanup_close_ int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(a);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || (type == SOCK_STREAM && listen(fd, 2048) < 0) ||
	    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return err_errno(e, errno, "the fixture internet");
	*ret_port = ntohs(a.sin_port);
	return TAKE_FD(fd);
}

static pid_t child(int fd, _noreturn_ void (*run)(int fd))
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		run(fd);
	}
	(void)close(fd);
	return pid;
}

/* The emulator asks the nameservers of /etc/resolv.conf: here, in a mount namespace of this run's, ours. */
static int name_nameserver(const char *work, uint16_t port, struct err *e)
{
	char path[512], text[64];
	_cleanup_close_ int fd = -1;
	int r;

	if (text_format(path, sizeof(path), "%s/resolv.conf", work) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the folder's name is too long");
	(void)snprintf(text, sizeof(text), "nameserver 127.0.0.1#%u\n", port);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	r = fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
	if (r < 0)
		return err_errno(e, -r, "%s", path);
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0 ||
	    mount(path, "/etc/resolv.conf", NULL, MS_BIND, NULL) < 0)
		return err_errno(e, errno, "a nameserver of our own needs root");
	return 0;
}

int net_world_start(struct net_world *w, const char *work, struct err *e)
{
	int fd = bound(SOCK_STREAM, &w->port, e);

	if (fd < 0)
		return fd;
	w->server = child(fd, serve_world);
	fd = bound(SOCK_DGRAM, &w->dns_port, e);
	if (fd < 0)
		return fd;
	w->nameserver = child(fd, serve_names);
	if (w->server < 0 || w->nameserver < 0)
		return err_errno(e, EAGAIN, "fork");
	(void)snprintf(w->map, sizeof(w->map), "deb.debian.org:80=127.0.0.1:%u", w->port);
	w->own_names = name_nameserver(work, w->dns_port, &w->no_names) == 0;
	return 0;
}

void net_world_stop(struct net_world *w)
{
	const pid_t all[] = { w->server, w->nameserver };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i] > 0 && kill(all[i], SIGKILL) == 0)
			(void)waitpid(all[i], NULL, 0);
}
