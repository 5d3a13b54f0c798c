/* inflight N: keeps N descriptors in flight, in sockets that nobody reads, or as many as the kernel lets it; says how
 * many, and stays. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define AT_ONCE 253 /* SCM_MAX_FD */

static int send_some(int sock)
{
	static const int fds[AT_ONCE]; /* standard input, so often */
	char control[CMSG_SPACE(sizeof(fds))] __attribute__((aligned(8))) = { 0 };
	struct iovec iov = { .iov_base = control, .iov_len = 1 };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
	};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(c), fds, sizeof(fds));
	return sendmsg(sock, &m, MSG_DONTWAIT) < 0 ? -errno : 0;
}

int main(int argc, char **argv)
{
	long n = 0, wanted = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	struct rlimit l;
	int sv[2], r = 0;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return 1;
	l.rlim_cur = l.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &l);
	while (n < wanted && r != -ETOOMANYREFS && socketpair(AF_UNIX, SOCK_DGRAM, 0, sv) == 0)
		for (r = 0; n < wanted && r == 0;) {
			r = send_some(sv[0]);
			n += r == 0 ? AT_ONCE : 0;
		}
	printf("%ld %s\n", n, strerror(-r));
	(void)fclose(stdout);
	for (;;)
		(void)pause();
}
