#include "rootfs/snapshot_inflate.h"

#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <zstd.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"

#define BLOCK_SIZE (512u << 10)
#define PIPE_SIZE (1 << 20) /* the most without privilege (pipe(7)) */

struct stream {
	int in_fd, out_fd;
	uint64_t max, bytes;
	struct sha256_ctx sha;
	ZSTD_DCtx *z;
	char *in, *out;
};

static int put(struct stream *s, const char *p, size_t n)
{
	s->bytes += n;
	if (s->bytes > s->max)
		return -EBADMSG;
	sha256_update(&s->sha, n, (const uint8_t *)p);
	return fd_write_all(s->out_fd, p, n);
}

static int run(struct stream *s)
{
	size_t left = 0;
	off_t at = 0;
	ssize_t n;

	while ((n = pread(s->in_fd, s->in, BLOCK_SIZE, at)) != 0) {
		ZSTD_inBuffer ib = { .src = s->in, .size = n > 0 ? (size_t)n : 0 };
		ZSTD_outBuffer ob;

		if (n < 0 && errno != EINTR)
			return -errno;
		at += MAX(n, 0);
		do {
			int r;

			ob = (ZSTD_outBuffer){ .dst = s->out, .size = BLOCK_SIZE };
			left = ZSTD_decompressStream(s->z, &ob, &ib);
			if (ZSTD_isError(left))
				return -EBADMSG;
			r = put(s, s->out, ob.pos);
			if (r < 0)
				return r;
		} while (ib.pos < ib.size || ob.pos == ob.size);
	}
	return left == 0 && at > 0 ? 0 : -EBADMSG; /* cut in the middle of a frame */
}

int snapshot_inflate(int in_fd, int out_fd, uint64_t max, struct snapshot_inflated *ret)
{
	struct stream s = { .in_fd = in_fd, .out_fd = out_fd, .max = max };
	unsigned char d[SHA256_DIGEST_SIZE];

	s.z = ZSTD_createDCtx();
	s.in = malloc(BLOCK_SIZE);
	s.out = malloc(BLOCK_SIZE);
	sha256_init(&s.sha);
	ret->r = s.z && s.in && s.out ? run(&s) : -ENOMEM;
	ret->bytes = s.bytes;
	sha256_digest(&s.sha, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(ret->digest + 2 * i, 3, "%02x", d[i]);
	ZSTD_freeDCtx(s.z);
	free(s.in);
	free(s.out);
	return ret->r;
}

/* ---- in a child ---- */

static _noreturn_ void child(struct inflater *i, int in_fd, int out_fd, uint64_t max, pid_t parent)
{
	sys_die_with(parent);
	(void)signal(SIGPIPE, SIG_IGN); /* a reader that gave up */
	_exit(snapshot_inflate(in_fd, out_fd, max, i->shared) < 0);
}

int inflater_start(struct inflater *i, int in_fd, uint64_t max, struct err *e)
{
	struct snapshot_inflated *shared =
		mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t self = getpid();
	int p[2];

	*i = INFLATER_INIT;
	if (shared == MAP_FAILED)
		return err_errno(e, errno, "can't read the snapshot");
	i->shared = shared;
	shared->r = -EIO; /* until it says otherwise */
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "can't read the snapshot");
	(void)fcntl(p[1], F_SETPIPE_SZ, PIPE_SIZE);
	/* As in snapshot_pipe.c: without what libraries do at a fork(3). */
	i->pid = _Fork();
	if (i->pid == 0) {
		(void)close(p[0]);
		child(i, in_fd, p[1], max, self);
	}
	(void)close(p[1]);
	i->fd = p[0];
	return i->pid < 0 ? err_errno(e, errno, "can't read the snapshot") : 0;
}

void inflater_end(struct inflater *i, struct snapshot_inflated *ret)
{
	int status;

	closep(&i->fd);
	if (i->pid <= 0)
		return;
	while (waitpid(i->pid, &status, 0) < 0 && errno == EINTR)
		;
	i->pid = 0;
	*ret = *i->shared;
	ret->digest[sizeof(ret->digest) - 1] = '\0';
}

void inflater_free(struct inflater *i)
{
	struct snapshot_inflated lost;

	if (i->pid > 0)
		(void)kill(i->pid, SIGKILL);
	inflater_end(i, &lost);
	if (i->shared)
		(void)munmap(i->shared, sizeof(*i->shared));
	i->shared = NULL;
}
