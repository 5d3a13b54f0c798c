#include "emulator/cmd/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/procname.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"

static bool is_loopback(const struct sockaddr *a)
{
	if (a->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int port_of(int fd, uint16_t *ret)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} a = { .v6 = { 0 } };
	socklen_t n = sizeof(a);

	if (getsockname(fd, &a.any, &n) < 0)
		return -errno;
	*ret = ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
	return 0;
}

/* A bound and listening socket or a negative errno. */
static int try_address(const struct addrinfo *ai)
{
	_cleanup_close_ int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	const int on = 1;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0)
		return -errno;
	return TAKE_FD(fd);
}

static int bind_err(int errnum, const char *host, uint16_t port, struct err *e)
{
	const char *open = strchr(host, ':') ? "[" : "", *close_it = *open ? "]" : "";

	switch (errnum) {
	case EADDRINUSE:
		return err_set(
			e, ERR_BUSY, errnum, "port_in_use",
			"%s%s%s:%u is in use, maybe by another emulator; pass --listen %s%s%s:0 for any free port",
			open, host, close_it, port, open, host, close_it);
	case EADDRNOTAVAIL:
	case EAFNOSUPPORT:
		return err_set(e, ERR_INVALID, errnum, NULL,
			       "%s is no address of this machine; pass --listen 127.0.0.1:%u", host, port);
	case EACCES:
		return err_set(e, ERR_DENIED, errnum, NULL, "port %u is only for root; pass one from 1024 to 65535",
			       port);
	default:
		return err_errno(e, errnum, "cannot listen on %s%s%s:%u", open, host, close_it, port);
	}
}

int listen_open(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port, struct err *e)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_protocol = IPPROTO_TCP,
					.ai_flags = AI_NUMERICSERV };
	static const int families[] = { AF_INET, AF_INET6 };
	_cleanup_close_ int fd = -1;
	struct addrinfo *list = NULL;
	bool loopback = true;
	char service[8];
	int r, first = 0;

	(void)snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host, service, &hints, &list);
	if (r != 0)
		return err_set(e, ERR_INVALID, EADDRNOTAVAIL, NULL, "no address is known for %s: %s", host,
			       r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
	for (size_t f = 0; f < ARRAY_SIZE(families) && fd < 0; f++)
		for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
			if (ai->ai_family != families[f])
				continue;
			fd = try_address(ai);
			if (fd < 0 && first == 0)
				first = fd;
			loopback = is_loopback(ai->ai_addr);
		}
	freeaddrinfo(list);
	if (fd < 0)
		return bind_err(first < 0 ? -first : EADDRNOTAVAIL, host, port, e);
	r = port_of(fd, ret_port);
	if (r < 0)
		return err_errno(e, -r, "getsockname");
	if (!loopback)
		log_warn("%s is reachable from other machines: an API key is all that protects this one", host);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

/* Takes away the socket that a dead process left. */
static int clear_stale(const struct sockaddr_un *a, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(a->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : err_errno(e, errno, "cannot look at %s", a->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(e, ERR_EXISTS, EEXIST, NULL, "%s is there already and is no socket; pass another --unix",
			       a->sun_path);
	/* unix(7): of the wrong type, it tells a live socket (EPROTOTYPE) from a dead one without the live
	 * one's owner seeing a connection. */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 || errno == EPROTOTYPE || errno == EPERM)
		return err_set(e, ERR_BUSY, EADDRINUSE, "socket_in_use",
			       "%s is in use, maybe by another emulator; pass another --unix", a->sun_path);
	if (errno != ECONNREFUSED && errno != ENOENT)
		return err_errno(e, errno, "cannot tell who listens on %s", a->sun_path);
	if (unlink(a->sun_path) < 0 && errno != ENOENT)
		return err_errno(e, errno, "cannot remove the old socket %s", a->sun_path);
	return 0;
}

int listen_unix_open(const char *path, int *ret_fd, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;
	mode_t old;
	int r;

	if (!*path || text_format(a.sun_path, sizeof(a.sun_path), "%s", path) < 0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL,
			       "a socket's path has 1 to %zu bytes; pass a shorter --unix", sizeof(a.sun_path) - 1);
	r = clear_stale(&a, e);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_errno(e, errno, "socket");
	old = umask(0177); /* private from its first moment */
	r = bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	(void)umask(old);
	if (r < 0)
		return err_errno(e, -r, "cannot make the socket %s", path);
	if (listen(fd, SOMAXCONN) < 0) {
		r = -errno;
		(void)unlink(path);
		return err_errno(e, -r, "cannot listen on %s", path);
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static _noreturn_ void guard_main(const char *path, const struct stat *was, int leash)
{
	char own_path[PATH_MAX], c;
	struct stat st;

	/* The path lies in the arguments, which procname_set overwrites. */
	(void)snprintf(own_path, sizeof(own_path), "%s", path);
	procname_set("ork-socket");
	(void)setsid();
	(void)signal(SIGHUP, SIG_IGN);
	(void)signal(SIGINT, SIG_IGN);
	(void)signal(SIGTERM, SIG_IGN);
	if (dup2(leash, 0) < 0 || sys_close_range(1, ~0u, 0) < 0)
		_exit(1);
	(void)fd_read_all(0, &c, 1);
	if (lstat(own_path, &st) == 0 && st.st_dev == was->st_dev && st.st_ino == was->st_ino)
		(void)unlink(own_path);
	_exit(0);
}

int listen_unix_guard(const char *path, struct listen_guard *ret, struct err *e)
{
	struct stat st;
	int leash[2];
	pid_t pid;

	if (lstat(path, &st) < 0 || pipe2(leash, O_CLOEXEC) < 0)
		return err_errno(e, errno, "%s", path);
	pid = fork();
	if (pid == 0) {
		(void)close(leash[1]);
		guard_main(path, &st, leash[0]);
	}
	(void)close(leash[0]);
	if (pid < 0) {
		(void)close(leash[1]);
		return err_errno(e, errno, "fork");
	}
	*ret = (struct listen_guard){ .leash = leash[1], .pid = pid };
	return 0;
}

void listen_guard_end(struct listen_guard *g)
{
	if (g->leash < 0)
		return;
	closep(&g->leash);
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
}
