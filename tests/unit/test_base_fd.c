#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"

/* How many fds are open in this (single-test) process. */
static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void pair(int ret[2])
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret), 0);
}

static void tmp_file(char path[static 64], const void *p, size_t n)
{
	int fd;

	(void)snprintf(path, 64, "/tmp/orkestr-test-XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	cr_assert_geq(fd, 0);
	cr_assert_eq(fd_write_all(fd, p, n), 0);
	(void)close(fd);
}

Test(fd, write_all_and_read_all_over_a_small_pipe)
{
	enum { N = 1 << 20 };
	char *out = malloc(N), *in = malloc(N + 10);
	int p[2], status;
	pid_t pid;

	for (int i = 0; i < N; i++)
		out[i] = (char)(i * 7 + i / 256);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		(void)close(p[0]);
		_exit(fd_write_all(p[1], out, N) == 0 ? 0 : 1);
	}
	(void)close(p[1]);
	cr_assert_eq(fd_read_all(p[0], in, N + 10), N); /* EOF before n is no error */
	cr_assert_eq(memcmp(in, out, N), 0);
	cr_assert_eq(fd_read_all(p[0], in, 1), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	free(out);
	free(in);
}

static void nothing(int sig)
{
	(void)sig;
}

Test(fd, signals_do_not_break_reads)
{
	struct sigaction sa = { .sa_handler = nothing }; /* no SA_RESTART */
	char buf[4];
	int p[2];
	pid_t pid, me = getpid();

	cr_assert_eq(sigaction(SIGUSR1, &sa, NULL), 0);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		for (int i = 0; i < 4; i++) {
			(void)usleep(5000);
			(void)kill(me, SIGUSR1);
			(void)usleep(5000);
			(void)!write(p[1], "x", 1);
		}
		_exit(0);
	}
	cr_assert_eq(fd_read_all(p[0], buf, 4), 4);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

Test(fd, errors_come_back)
{
	char b;
	int p[2];

	cr_assert_eq(fd_write_all(-1, "x", 1), -EBADF);
	cr_assert_eq(fd_write_all(-1, "x", 0), 0);
	cr_assert_eq(fd_read_all(-1, &b, 1), -EBADF);
	cr_assert_eq(fd_set_nonblock(-1, true), -EBADF);
	(void)signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	(void)close(p[0]);
	cr_assert_eq(fd_write_all(p[1], "x", 1), -EPIPE);
}

Test(fd, nonblock)
{
	int p[2];
	char b;

	cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
	cr_assert_eq(fd_set_nonblock(p[0], true), 0);
	cr_assert_eq(fd_read_all(p[0], &b, 1), -EAGAIN);
	cr_assert_eq(fd_set_nonblock(p[0], false), 0);
	cr_assert_eq(fcntl(p[0], F_GETFL) & O_NONBLOCK, 0);
}

Test(fd, read_file_sizes)
{
	static const struct {
		size_t size, cap;
		ssize_t want;
	} t[] = { { 0, 1, 0 },	   { 0, 0, -EFBIG },	 { 1, 1, -EFBIG },     { 1, 2, 1 },
		  { 99, 100, 99 }, { 100, 100, -EFBIG }, { 5000, 100, -EFBIG } };

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char path[64], data[5000], buf[128];
		int before = open_fds();

		memset(data, 'd', sizeof(data));
		memset(buf, '#', sizeof(buf));
		tmp_file(path, data, t[i].size);
		cr_assert_eq(fd_read_file(AT_FDCWD, path, buf, t[i].cap), t[i].want, "case %zu", i);
		if (t[i].want >= 0)
			cr_assert_eq(strlen(buf), t[i].size);
		cr_assert_eq(buf[t[i].cap], '#');
		cr_assert_eq(open_fds(), before);
		(void)unlink(path);
	}
}

Test(fd, read_file_of_the_kernels_and_none)
{
	_cleanup_close_ int dir = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char buf[4096];

	cr_assert_gt(fd_read_file(dir, "status", buf, sizeof(buf)), 100);
	cr_assert_eq(strncmp(buf, "Name:", 5), 0);
	cr_assert_eq(fd_read_file(dir, "no-such", buf, sizeof(buf)), -ENOENT);
	cr_assert_eq(fd_read_file(AT_FDCWD, "/tmp", buf, sizeof(buf)), -EISDIR);
}

Test(fd, write_file)
{
	char path[64], buf[64];

	tmp_file(path, "0123456789", 10);
	cr_assert_eq(fd_write_file(AT_FDCWD, path, "abc"), 0);
	cr_assert_eq(fd_read_file(AT_FDCWD, path, buf, sizeof(buf)), 10);
	cr_assert_str_eq(buf, "abc3456789"); /* kernel files are not truncated, so neither is this */
	(void)unlink(path);
	cr_assert_eq(fd_write_file(AT_FDCWD, path, "abc"), -ENOENT);
	cr_assert_neq(access(path, F_OK), 0);
	cr_assert_eq(fd_write_file(AT_FDCWD, "/dev/full", "abc"), -ENOSPC);
}

Test(fd, messages_keep_their_borders_and_their_fds)
{
	int s[2], fds[FD_MSG_MAX_FDS], got[FD_MSG_MAX_FDS], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	char buf[64];
	size_t n;

	pair(s);
	for (size_t i = 0; i < FD_MSG_MAX_FDS; i++)
		fds[i] = null;
	for (size_t k = 0; k <= FD_MSG_MAX_FDS; k++) {
		int before = open_fds();

		cr_assert_eq(fd_send_msg(s[0], "hello", 5, fds, k), 0);
		cr_assert_eq(fd_send_msg(s[0], "x", 1, NULL, 0), 0);
		n = 99;
		cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, FD_MSG_MAX_FDS, &n), 5);
		cr_assert_eq(n, k);
		for (size_t i = 0; i < n; i++) {
			cr_assert_eq(fcntl(got[i], F_GETFD), FD_CLOEXEC);
			(void)close(got[i]);
		}
		cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, FD_MSG_MAX_FDS, &n), 1);
		cr_assert_eq(n, 0u);
		cr_assert_eq(open_fds(), before);
	}
	cr_assert_eq(fd_send_msg(s[0], "x", 1, fds, FD_MSG_MAX_FDS + 1), -EINVAL);
	(void)close(s[0]);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 1, &n), 0);
	cr_assert_eq(fd_send_msg(s[1], "x", 1, NULL, 0), -EPIPE); /* and no SIGPIPE */
}

/* Each of these must be refused without an fd left behind. */
Test(fd, messages_that_do_not_fit_leak_nothing)
{
	int s[2], fds[3] = { STDIN_FILENO, STDIN_FILENO, STDIN_FILENO }, got[3], before;
	char buf[8], big[64] = { 0 };
	size_t n = 77;

	pair(s);
	before = open_fds();
	cr_assert_eq(fd_send_msg(s[0], big, sizeof(big), fds, 3), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 3, &n), -EMSGSIZE);
	cr_assert_eq(fd_send_msg(s[0], "x", 1, fds, 3), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 2, &n), -EMSGSIZE);
	cr_assert_eq(fd_send_msg(s[0], "x", 1, fds, 1), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 0, &n), -EMSGSIZE);
	cr_assert_eq(fd_send_msg(s[0], "x", 1, fds, 1), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 3, NULL), -EMSGSIZE);
	cr_assert_eq(open_fds(), before);
	cr_assert_eq(n, 77u);
	cr_assert_eq(fd_set_nonblock(s[1], true), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 3, &n), -EAGAIN); /* each was taken whole */
}

Test(fd, more_fds_than_a_message_may_have)
{
	enum { MANY = FD_MSG_MAX_FDS + 3 };
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(sizeof(int) * MANY)];
	} control = { 0 };
	struct iovec iov = { .iov_base = (char[1]){ 'x' }, .iov_len = 1 };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
	};
	int s[2], got[FD_MSG_MAX_FDS], zero[MANY] = { 0 }, before;
	char buf[8];
	size_t n;

	pair(s);
	control.hdr.cmsg_level = SOL_SOCKET;
	control.hdr.cmsg_type = SCM_RIGHTS;
	control.hdr.cmsg_len = CMSG_LEN(sizeof(zero));
	memcpy(CMSG_DATA(&control.hdr), zero, sizeof(zero));
	before = open_fds();
	cr_assert_eq(sendmsg(s[0], &msg, 0), 1);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, FD_MSG_MAX_FDS, &n), -EMSGSIZE);
	cr_assert_eq(open_fds(), before);
}

Test(fd, an_empty_message_with_fds_is_eof_and_leaks_nothing)
{
	int s[2], fds[2] = { STDIN_FILENO, STDIN_FILENO }, got[2], before;
	char buf[8];
	size_t n = 5;

	pair(s);
	before = open_fds();
	cr_assert_eq(fd_send_msg(s[0], "", 0, fds, 2), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 2, &n), 0);
	cr_assert_eq(n, 0u);
	cr_assert_eq(open_fds(), before);
}

Test(fd, out_of_descriptors_is_an_error_and_leaks_nothing)
{
	int s[2], fds[4] = { 0 }, got[4], before;
	struct rlimit lim;
	char buf[8];
	size_t n;

	pair(s);
	cr_assert_eq(fd_send_msg(s[0], "x", 1, fds, 4), 0);
	before = open_fds();
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &lim), 0);
	for (lim.rlim_cur = 3; fcntl((int)lim.rlim_cur, F_GETFD) >= 0; lim.rlim_cur++)
		;
	lim.rlim_cur += 2; /* room for two of the four, at most */
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &lim), 0);
	cr_assert_eq(fd_recv_msg(s[1], buf, sizeof(buf), got, 4, &n), -EMFILE);
	cr_assert_eq(buf[0], 'x'); /* what it said is there */
	cr_assert_eq(open_fds(), before);
}

Test(fd, full_socket_says_eagain)
{
	int s[2], r;
	char big[4096] = { 0 };

	pair(s);
	cr_assert_eq(fd_set_nonblock(s[0], true), 0);
	for (int i = 0; i < 100000; i++) {
		r = fd_send_msg(s[0], big, sizeof(big), NULL, 0);
		if (r < 0)
			break;
	}
	cr_assert_eq(r, -EAGAIN);
}

Test(fd, memfile_is_sealed)
{
	_cleanup_close_ int fd = fd_memfile("t", "a\0b", 3);
	_cleanup_close_ int none = fd_memfile("t", NULL, 0);
	char buf[8];

	cr_assert_geq(fd, 0);
	cr_assert_geq(none, 0);
	cr_assert_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	cr_assert_eq(fd_read_all(fd, buf, sizeof(buf)), 3);
	cr_assert_eq(memcmp(buf, "a\0b", 3), 0);
	cr_assert_eq(write(fd, "x", 1), -1);
	cr_assert_eq(errno, EPERM);
	cr_assert_eq(ftruncate(fd, 0), -1);
	cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
	cr_assert_eq(fd_read_all(none, buf, sizeof(buf)), 0);
}
