/* Theory of operation. One pipe between the daemon, whose end does not block, and the worker, whose end does:
 * when the pipe is full or empty the faster side waits, so no more than it holds is ever kept. One page is
 * shared: the worker leaves its error and its counts there, the daemon a flag that tells it to stop, so that
 * it takes its unfinished file with it instead of being killed.
 *
 * A worker holds a mount of the sandbox by its fd, so it must not outlive the sandbox for long: a timer asks. */

#include "emulator/files_tar.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/files-internal.h"
#include "emulator/worker.h"
#include "rootfs/treetar.h"
#include "rootfs/unpack.h"

#define PIPE_SIZE (256 << 10)
#define CHECK_MS 500
#define WORKER_MEMORY (512ull << 20)

struct shared {
	volatile bool stop;
	struct err err; /* a reason is a pointer to a literal, the same in both */
	struct files_tar_result res;
};

struct files_tar {
	struct files_tar_events ev;
	struct shared *shared;
	bool pack, watching, dropped, running;
	int dir_fd;    /* the worker's; only until it has started */
	int worker_fd; /* the worker's end */
	int fd;	       /* ours */
	uid_t uid;
	uint64_t max_bytes, max_entries;
	uv_poll_t poll;
	uv_timer_t timer;
	unsigned int handles; /* uv handles not closed yet */
	struct err checked;   /* what check() said */
};

static unsigned int n_jobs;

/* ---- in the worker ---- */

static int write_fd(void *arg, const void *p, size_t n)
{
	return fd_write_all(*(int *)arg, p, n);
}

static int pack(struct files_tar *t)
{
	struct treetar_spec s = { .dir_fd = t->dir_fd,
				  .uid = t->uid,
				  .write = write_fd,
				  .write_arg = &t->worker_fd,
				  .stop = &t->shared->stop };
	struct treetar_result res;
	int r = treetar_write(&s, &res, &t->shared->err);

	t->shared->res = (struct files_tar_result){ res.entries, res.file_bytes, res.skipped };
	return r;
}

static int unpack(struct files_tar *t)
{
	struct unpack_spec s = { .read = unpack_read_fd,
				 .read_arg = &t->worker_fd,
				 .root_fd = t->dir_fd,
				 .live = true,
				 .stop = &t->shared->stop,
				 .limits = { .max_bytes = t->max_bytes, .max_entries = t->max_entries } };
	struct unpack_result res;
	int r = unpack_archive(&s, &res, &t->shared->err);

	t->shared->res = (struct files_tar_result){ res.made, res.file_bytes, res.devices_skipped };
	return r;
}

static int job(void *arg)
{
	struct files_tar *t = arg;
	int fds[] = { t->dir_fd, t->worker_fd }, r = worker_keep_only(fds, ARRAY_SIZE(fds));
	/* Names beyond ASCII need a UTF-8 locale, and its file is out of reach once the worker is confined. */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	struct files_identity id;

	if (utf8)
		(void)uselocale(utf8);
	if (r == 0) {
		t->dir_fd = fds[0];
		t->worker_fd = fds[1];
		/* A pipe nobody reads is an error to be told, not a death. */
		(void)signal(SIGPIPE, SIG_IGN);
		files_identity_enter(&id, t->uid);
		r = worker_confine(t->dir_fd, WORKER_MEMORY);
	}
	if (r < 0)
		(void)err_errno(&t->shared->err, -r, "confining the worker");
	else
		r = t->pack ? pack(t) : unpack(t);
	return r < 0;
}

/* ---- in the daemon ---- */

static void tar_free(struct files_tar *t)
{
	closep(&t->fd);
	closep(&t->worker_fd);
	closep(&t->dir_fd);
	if (t->shared)
		(void)munmap(t->shared, sizeof(*t->shared));
	free(t);
}

static void on_closed(uv_handle_t *h)
{
	struct files_tar *t = h->data;

	if (--t->handles == 0)
		tar_free(t);
}

/* The handle goes before its fd does: libuv takes the number out of its epoll set, whoever has it then. */
static void close_ours(struct files_tar *t)
{
	if (t->fd < 0)
		return;
	uv_close((uv_handle_t *)&t->poll, on_closed);
	closep(&t->fd);
}

static void maybe_free(struct files_tar *t)
{
	if (!t->dropped || t->running || uv_is_closing((uv_handle_t *)&t->timer))
		return;
	close_ours(t);
	uv_close((uv_handle_t *)&t->timer, on_closed);
}

static void on_ready(uv_poll_t *h, int status _unused_, int events _unused_)
{
	struct files_tar *t = h->data;

	(void)uv_poll_stop(h);
	t->watching = false;
	t->ev.ready(t->ev.arg);
}

static void watch(struct files_tar *t)
{
	if (t->watching)
		return;
	t->watching = true;
	(void)uv_poll_start(&t->poll, t->pack ? UV_READABLE : UV_WRITABLE, on_ready);
}

static void on_timer(uv_timer_t *h)
{
	struct files_tar *t = h->data;

	if (t->checked.kind != ERR_NONE || t->ev.check(t->ev.arg, &t->checked) >= 0)
		return;
	t->shared->stop = true;
	/* A worker that waits for the pipe has to notice. */
	close_ours(t);
}

/* The kinds and reasons files.h and files_tar.h promise. */
static void classify(struct err *e)
{
	if (e->reason || e->kind == ERR_NONE)
		return;
	if (e->errnum == EAGAIN) {
		e->kind = ERR_BUSY;
		e->reason = "archive_changed";
	} else {
		files_err_classify(e);
	}
}

static void on_done(void *arg, int status)
{
	struct files_tar *t = arg;
	struct err e = t->shared->err;

	t->running = false;
	n_jobs--;
	(void)uv_timer_stop(&t->timer);
	if (t->dropped) {
		maybe_free(t);
		return;
	}
	if (!t->pack)
		close_ours(t);
	/* A sandbox that ended is why its disk failed. */
	if (status != 0 && t->checked.kind == ERR_NONE)
		(void)t->ev.check(t->ev.arg, &t->checked);
	if (t->checked.kind != ERR_NONE) /* whatever the worker took the pipe's end for */
		e = t->checked;
	else if (status != 0 && e.kind == ERR_NONE)
		(void)err_set(&e, ERR_INTERNAL, 0, NULL, "the archive's worker ended with status %d", status);
	else if (status == 0)
		e.kind = ERR_NONE;
	classify(&e);
	t->ev.done(t->ev.arg, &e, &t->shared->res);
}

static int make_pipe(struct files_tar *t)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	t->fd = fds[t->pack ? 0 : 1];
	t->worker_fd = fds[t->pack ? 1 : 0];
	/* Best effort: what a user's pipes may hold together is limited (pipe(7)). */
	(void)fcntl(t->fd, F_SETPIPE_SZ, PIPE_SIZE);
	return fd_set_nonblock(t->fd, true);
}

static int start_handles(struct uv_loop_s *loop, struct files_tar *t)
{
	int r = uv_poll_init(loop, &t->poll, t->fd);

	if (r < 0)
		return r;
	(void)uv_timer_init(loop, &t->timer);
	t->poll.data = t->timer.data = t;
	t->handles = 2;
	(void)uv_timer_start(&t->timer, on_timer, CHECK_MS, CHECK_MS);
	return 0;
}

static int tar_start(struct uv_loop_s *loop, struct files_tar *t, struct err *e)
{
	void *page = mmap(NULL, sizeof(*t->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int r;

	if (page == MAP_FAILED)
		return err_errno(e, errno, "start an archive");
	t->shared = page;
	r = make_pipe(t);
	if (r == 0)
		r = start_handles(loop, t);
	if (r < 0)
		return err_errno(e, -r, "start an archive");
	t->running = true;
	r = worker_run(loop, job, t, on_done, t, e);
	if (r < 0) {
		t->running = false;
		return r;
	}
	n_jobs++;
	closep(&t->worker_fd);
	closep(&t->dir_fd);
	return 0;
}

/* dir_fd is taken. */
static int tar_new(struct uv_loop_s *loop, const struct files_tar *from, int dir_fd, struct files_tar **ret,
		   struct err *e)
{
	struct files_tar *t = malloc(sizeof(*t));
	int r;

	if (!t || n_jobs >= FILES_TAR_MAX_JOBS) {
		free(t);
		(void)close(dir_fd);
		return err_set(e, ERR_CAPACITY, EAGAIN, "capacity",
			       "%u archives are being made or unpacked, which is the most at a time", n_jobs);
	}
	*t = *from;
	t->dir_fd = dir_fd;
	t->fd = t->worker_fd = -1;
	r = tar_start(loop, t, e);
	if (r >= 0) {
		*ret = t;
		return 0;
	}
	t->dropped = true;
	if (t->handles > 0)
		maybe_free(t);
	else
		tar_free(t);
	return r;
}

int files_tar_pack(struct uv_loop_s *loop, const struct files_ctx *c, const char *path,
		   const struct files_tar_events *ev, struct files_tar **ret, struct err *e)
{
	struct files_tar t = { .ev = *ev, .pack = true, .uid = c->uid };
	int fd, r = files_check_path(path, e);

	if (r < 0)
		return r;
	fd = files_open_in(c, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
	if (fd < 0)
		return files_err(e, -fd, path, "archive");
	if (files_is_pseudo(fd)) {
		(void)close(fd);
		return files_err(e, EPERM, path, "archive");
	}
	return tar_new(loop, &t, fd, ret, e);
}

int files_tar_unpack(struct uv_loop_s *loop, const struct files_ctx *c, const char *path, uint64_t max_bytes,
		     uint64_t max_entries, const struct files_tar_events *ev, struct files_tar **ret, struct err *e)
{
	struct files_tar t = { .ev = *ev, .uid = c->uid, .max_bytes = max_bytes, .max_entries = max_entries };
	struct files_identity id;
	int fd, r = files_check_path(path, e);

	if (r < 0)
		return r;
	files_identity_enter(&id, c->uid);
	fd = files_open_dir(c, path, true);
	if (fd >= 0 && files_is_pseudo(fd)) {
		(void)close(fd);
		fd = -EPERM;
	}
	files_identity_leave(&id);
	if (fd < 0)
		return files_err(e, -fd, path, "unpack into");
	return tar_new(loop, &t, fd, ret, e);
}

ssize_t files_tar_read(struct files_tar *t, void *p, size_t n)
{
	ssize_t k;

	if (t->fd < 0)
		return 0;
	do
		k = read(t->fd, p, n);
	while (k < 0 && errno == EINTR);
	if (k >= 0)
		return k;
	if (errno != EAGAIN)
		return 0; /* the end; done says that it was a bad one */
	watch(t);
	return -EAGAIN;
}

size_t files_tar_write(struct files_tar *t, const void *p, size_t n)
{
	const char *from = p;
	size_t left = n;

	while (left > 0 && t->fd >= 0) {
		ssize_t k = write(t->fd, from, left);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0 && errno == EAGAIN) {
			watch(t);
			return n - left;
		}
		if (k < 0) {
			close_ours(t); /* nobody reads; done will say why */
			break;
		}
		from += k;
		left -= (size_t)k;
	}
	return n;
}

void files_tar_end(struct files_tar *t)
{
	if (!t->pack)
		close_ours(t);
}

void files_tar_drop(struct files_tar *t)
{
	if (!t)
		return;
	t->dropped = true;
	t->shared->stop = true;
	close_ours(t);
	(void)uv_timer_stop(&t->timer);
	maybe_free(t);
}
