#include "rootfs/snapshot_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"

#define PIPE_SIZE (1 << 20) /* the most without privilege (pipe(7)) */

/* Exit statuses are errnos. */
static _noreturn_ void compress_all(int in_fd, char *block, int (*take)(void *arg, const void *data, size_t n),
				    void *arg)
{
	int r = 0;
	ssize_t n;

	while (r == 0 && (n = fd_read_all(in_fd, block, PIPE_SIZE)) != 0)
		r = n < 0 ? (int)n : take(arg, block, (size_t)n);
	if (r == 0)
		r = take(arg, NULL, 0);
	_exit(-r & 0xff);
}

static _noreturn_ void hash_all(int in_fd, int out_fd, char *block, struct sha256_ctx *shared)
{
	struct sha256_ctx sha = *shared;

	for (;;) {
		ssize_t n = tee(in_fd, out_fd, PIPE_SIZE, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			*shared = sha;
			_exit(n < 0 ? errno & 0xff : 0);
		}
		if (fd_read_all(in_fd, block, (size_t)n) != n)
			_exit(EIO);
		sha256_update(&sha, (size_t)n, (const uint8_t *)block);
	}
}

static void close_pair(int p[2])
{
	closep(&p[0]);
	closep(&p[1]);
}

bool snapshot_pipe_start(struct snapshot_pipe *p, const struct sha256_ctx *sha,
			 int (*take)(void *arg, const void *data, size_t n), void *arg)
{
	int tar[2] = { -1, -1 }, copy[2] = { -1, -1 };
	struct sha256_ctx *shared =
		mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char *block = malloc(PIPE_SIZE);
	pid_t self = getpid();

	*p = SNAPSHOT_PIPE_INIT;
	if (shared == MAP_FAILED)
		shared = NULL;
	if (shared && block && pipe2(tar, O_CLOEXEC) == 0 && pipe2(copy, O_CLOEXEC) == 0) {
		*shared = *sha;
		(void)fcntl(tar[1], F_SETPIPE_SZ, PIPE_SIZE);
		(void)fcntl(copy[1], F_SETPIPE_SZ, PIPE_SIZE);
		/* Not fork(3): that runs what libraries have registered with pthread_atfork(3), and libuv's closes two
		 * descriptors by number, which in a worker that has closed what it inherited are ours by now. */
		p->compressor = _Fork();
		if (p->compressor == 0) {
			sys_die_with(self); /* the maker's death must not look like the tar's end */
			close_pair(tar);
			closep(&copy[1]);
			compress_all(copy[0], block, take, arg);
		}
		p->hasher = p->compressor > 0 ? _Fork() : -1;
		if (p->hasher == 0) {
			sys_die_with(self);
			closep(&tar[1]);
			closep(&copy[0]);
			hash_all(tar[0], copy[1], block, shared);
		}
	}
	free(block);
	close_pair(copy);
	closep(&tar[0]);
	p->sha = shared;
	if (p->hasher > 0) {
		p->fd = tar[1];
		return true;
	}
	closep(&tar[1]);
	(void)snapshot_pipe_end(p, false, NULL);
	return false;
}

static int wait_for(pid_t *pid, bool wanted)
{
	pid_t child = *pid;
	int status;

	*pid = 0;
	if (child <= 0)
		return 0;
	if (!wanted)
		(void)kill(child, SIGKILL);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

int snapshot_pipe_end(struct snapshot_pipe *p, bool wanted, struct sha256_ctx *sha)
{
	int h, c;

	closep(&p->fd);
	h = wait_for(&p->hasher, wanted);
	c = wait_for(&p->compressor, wanted);
	if (p->sha && wanted && h == 0 && sha)
		*sha = *p->sha;
	if (p->sha)
		(void)munmap(p->sha, sizeof(*p->sha));
	p->sha = NULL;
	if (!wanted)
		return 0;
	return c < 0 ? c : h; /* the compressor's is the cause of the hasher's */
}
