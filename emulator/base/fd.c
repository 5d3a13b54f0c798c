#include "emulator/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

int fd_write_all(int fd, const void *p, size_t n)
{
	const char *c = p;

	while (n > 0) {
		ssize_t k = write(fd, c, n);

		if (k < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		c += k;
		n -= (size_t)k;
	}
	return 0;
}

ssize_t fd_read_all(int fd, void *p, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = read(fd, (char *)p + done, n - done);

		if (k < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (k == 0)
			break;
		done += (size_t)k;
	}
	return (ssize_t)done;
}

ssize_t fd_read_file(int dirfd, const char *path, char *buf, size_t cap)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = fd_read_all(fd, buf, cap);
	if (n < 0)
		return n;
	if ((size_t)n >= cap)
		return -EFBIG;
	buf[n] = '\0';
	return n;
}

int fd_write_file(int dirfd, const char *path, const char *s)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);
	size_t n = strlen(s);
	ssize_t k;

	if (fd < 0)
		return -errno;
	do
		k = write(fd, s, n);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return -errno;
	return (size_t)k == n ? 0 : -EIO;
}

union fd_control {
	struct cmsghdr hdr;
	char space[CMSG_SPACE(sizeof(int) * FD_MSG_MAX_FDS)];
};

int fd_send_msg(int sock, const void *p, size_t n, const int *fds, size_t n_fds)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = n };
	union fd_control control;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t k;

	if (n_fds > FD_MSG_MAX_FDS)
		return -EINVAL;
	if (n_fds > 0) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	do
		k = sendmsg(sock, &msg, MSG_NOSIGNAL);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return -errno;
	return (size_t)k == n ? 0 : -EIO;
}

ssize_t fd_recv_msg(int sock, void *p, size_t cap, int *fds, size_t max_fds, size_t *ret_n_fds)
{
	struct iovec iov = { .iov_base = p, .iov_len = cap };
	union fd_control control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int got[FD_MSG_MAX_FDS];
	size_t n_got = 0;
	ssize_t k;

	do
		k = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		size_t m;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		m = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		m = MIN(m, FD_MSG_MAX_FDS - n_got);
		memcpy(got + n_got, CMSG_DATA(c), m * sizeof(int));
		n_got += m;
	}
	if ((msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || n_got > (ret_n_fds ? max_fds : 0)) {
		/* There was room for more, so it was our table that had none (unix(7), SCM_RIGHTS). */
		bool starved = !(msg.msg_flags & MSG_TRUNC) && n_got < FD_MSG_MAX_FDS && (msg.msg_flags & MSG_CTRUNC);

		while (n_got > 0)
			(void)close(got[--n_got]);
		return starved ? -EMFILE : -EMSGSIZE;
	}
	/* An empty datagram looks like EOF, so no caller would own what came with it. */
	if (k == 0)
		while (n_got > 0)
			(void)close(got[--n_got]);
	if (n_got > 0)
		memcpy(fds, got, n_got * sizeof(int));
	if (ret_n_fds)
		*ret_n_fds = n_got;
	return k;
}

int fd_set_nonblock(int fd, bool on)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0)
		return -errno;
	fl = on ? fl | O_NONBLOCK : fl & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, fl) < 0 ? -errno : 0;
}

int fd_memfile(const char *name, const void *p, size_t n)
{
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r;

	if (fd < 0)
		return -errno;
	r = fd_write_all(fd, p, n);
	if (r < 0)
		return r;
	if (lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	return TAKE_FD(fd);
}
