/* A command's descriptors. Its output pipes (or terminal) are read whenever there is something, unless the
 * primary reader is behind; its stdin is written as it takes it, what it has not taken waits in pieces of
 * at most EXEC_STDIN_MAX bytes in all.
 *
 * A terminal is one open file for both directions: stdin has a duplicate of it, as an fd is watched by one
 * handle only. It says EIO instead of EOF when no process has it open any more (pty(7)). */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "emulator/base/fd.h"
#include "emulator/exec-internal.h"

#define STREAM_PIPE_SIZE (256 << 10)
#define STDIN_AT_ONCE 4096     /* fits into any new pipe (pipe(7), PIPE_BUF) */
#define PTY_DRAIN (128u << 10) /* more than the kernel keeps for a terminal */

static void on_handle_closed(uv_handle_t *h)
{
	exec_put(h->data);
}

/* A closing handle holds a reference. */
static void close_poll(uv_poll_t *p, bool *has, struct exec *x)
{
	if (!*has)
		return;
	*has = false;
	p->data = x;
	x->refs++;
	uv_close((uv_handle_t *)p, on_handle_closed);
}

static int watch(uv_poll_t *p, bool *has, struct exec *x, int fd)
{
	int r = uv_poll_init(x->m->c.loop, p, fd); /* makes it non-blocking */

	if (r < 0)
		return r;
	*has = true;
	return 0;
}

static void stream_close(struct stream *s)
{
	close_poll(&s->poll, &s->has_poll, s->x);
	s->polling = false;
	closep(&s->fd);
	s->left = 0;
}

/* ---- output ---- */

void exec_deliver(struct exec *x, enum exec_stream s, const char *p, size_t n)
{
	if (x->collect)
		output_add(&x->s[s].out, p, n);
	log_add(&x->log, s, p, n);
	exec_note_position(x);
	readers_wake(x, true);
}

/* One read. False when there is nothing more to get now. */
static bool stream_read(struct stream *s)
{
	struct exec *x = s->x;
	size_t want = x->exited ? MIN(s->left, (size_t)SANDBOX_SCRATCH_SIZE) : SANDBOX_SCRATCH_SIZE;
	ssize_t n;

	if (s->fd < 0)
		return false;
	do
		n = read(s->fd, x->m->scratch, want);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN) {
		s->left = 0;
		return false;
	}
	if (n <= 0) {
		stream_close(s);
		return false;
	}
	if (x->exited)
		s->left -= MIN(s->left, (size_t)n);
	exec_deliver(x, (enum exec_stream)(s - x->s), x->m->scratch, (size_t)n);
	return true;
}

static void on_readable(uv_poll_t *h, int status, int events _unused_)
{
	struct stream *s = h->data;
	struct exec *x = s->x;

	if (status < 0)
		s->polling = false; /* libuv has stopped it; read(2) knows what is the matter */
	(void)stream_read(s);
	exec_io_update(x);
}

void exec_io_update(struct exec *x)
{
	readers_check_pause(x);
	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->s[i];
		bool want = s->fd >= 0 && s->has_poll && !x->paused && !x->exited;

		if (want && !s->polling)
			(void)uv_poll_start(&s->poll, UV_READABLE, on_readable);
		else if (!want && s->polling)
			(void)uv_poll_stop(&s->poll);
		s->polling = want;
	}
}

/* At most what a pipe holds, so it fits into the log behind what the primary reader hasn't read yet. */
void exec_io_drain(struct exec *x)
{
	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->s[i];
		int n = 0;

		if (s->fd >= 0 && x->spec.pty.rows > 0)
			s->left = PTY_DRAIN;
		else if (s->fd >= 0 && ioctl(s->fd, FIONREAD, &n) == 0 && n > 0)
			s->left = (size_t)n;
		while (s->fd >= 0 && s->left > 0 && stream_read(s))
			;
	}
	exec_io_update(x);
}

void exec_io_let_go(struct exec *x)
{
	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->s[i];
		ssize_t n;
		int fd;

		/* Another writer's bytes may have come since; they are nobody's. */
		n = s->fd >= 0 ? read(s->fd, x->m->scratch, SANDBOX_SCRATCH_SIZE) : 0;
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			stream_close(s);
		fd = TAKE_FD(s->fd);
		stream_close(s);
		if (fd >= 0 && x->sb && sandbox_has_processes(x->sb))
			linger_add(x->sb, fd, x->id);
		else
			closep(&fd);
	}
}

/* ---- stdin ---- */

static void feed_close(struct feed *f, struct exec *x)
{
	struct stdin_piece *p;

	close_poll(&f->poll, &f->has_poll, x);
	f->polling = false;
	if (f->fd >= 0)
		exec_no_stdin(x);
	closep(&f->fd);
	while ((p = f->pieces)) {
		f->pieces = p->next;
		free(p);
	}
	f->waiting = 0;
	f->open = false;
}

/* Writes what goes. Negative when nobody will ever read it. */
static int feed_write(struct feed *f)
{
	while (f->pieces) {
		struct stdin_piece *p = f->pieces;
		ssize_t n = write(f->fd, p->data + p->at, MIN(p->len - p->at, (size_t)SANDBOX_SCRATCH_SIZE));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		p->at += (size_t)n;
		f->waiting -= (size_t)n;
		if (p->at < p->len)
			continue;
		LL_DELETE(f->pieces, p);
		free(p);
	}
	return 0;
}

static void on_writable(uv_poll_t *h, int status, int events)
{
	struct exec *x = h->data;
	struct feed *f = &x->in;
	int r = status < 0 && !(events & UV_WRITABLE) ? status : feed_write(f);

	/* A command that doesn't want the rest (EPIPE) is none of our business. */
	if (r < 0 || (!f->pieces && !f->open)) {
		feed_close(f, x);
	} else if (!f->pieces) {
		(void)uv_poll_stop(&f->poll);
		f->polling = false;
	}
}

static int feed_add(struct exec *x, const char *p, size_t n)
{
	struct stdin_piece *piece = n > 0 ? malloc(sizeof(*piece) + n) : NULL;
	struct feed *f = &x->in;

	if (n == 0)
		return 0;
	if (!piece)
		return -ENOMEM;
	*piece = (struct stdin_piece){ .len = n };
	memcpy(piece->data, p, n);
	LL_APPEND(f->pieces, piece);
	f->waiting += n;
	return 0;
}

/* Writes now what goes; the rest when the command takes it. */
static void feed_go(struct exec *x)
{
	struct feed *f = &x->in;

	if (feed_write(f) < 0 || (!f->pieces && !f->open)) {
		feed_close(f, x);
	} else if (f->pieces && !f->polling) {
		f->polling = true;
		(void)uv_poll_start(&f->poll, UV_WRITABLE, on_writable);
	}
}

int exec_stdin(struct exec *x, const char *p, size_t n, bool eof, size_t *ret_waiting, struct err *e)
{
	struct feed *f = &x->in;
	bool pty = x->spec.pty.rows > 0;
	int r = exec_check_running(x, e);

	if (r < 0)
		return r;
	if (n > EXEC_STDIN_MAX)
		return err_set(e, ERR_TOO_LARGE, EMSGSIZE, "payload_too_large", "at most %u bytes of stdin at a time",
			       EXEC_STDIN_MAX);
	if (!f->open)
		return err_set(e, ERR_NOT_READY, EPIPE, "stdin_closed",
			       "the command's stdin is closed; ask for \"stdin_open\" when you start it");
	if (f->waiting + n > EXEC_STDIN_MAX)
		return err_set(e, ERR_BUSY, EAGAIN, "stdin_full",
			       "the command has yet to read %zu bytes of stdin; at most %u may wait", f->waiting,
			       EXEC_STDIN_MAX);
	if (feed_add(x, p, n) < 0 || (eof && pty && feed_add(x, "\004", 1) < 0))
		return err_errno(e, ENOMEM, "the command's stdin");
	if (eof && !pty)
		f->open = false;
	feed_go(x);
	*ret_waiting = f->waiting;
	return 0;
}

/* ---- the start ---- */

/* The ends the command gets belong to the sandbox's root: else /dev/stdin and friends, which open the pipe
 * anew by /proc/self/fd, would be refused (proc(5)). */
static int make_pipe(struct exec *x, int *ret_ours, int *ret_theirs, bool read_ours, struct err *e)
{
	uid_t uid = idmap_sandbox_uid(x->m->c.idmap, 0);
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return err_errno(e, errno, "can't make a pipe for the command");
	*ret_ours = p[read_ours ? 0 : 1];
	*ret_theirs = p[read_ours ? 1 : 0];
	if (uid != geteuid() && fchown(p[0], uid, (gid_t)uid) < 0)
		return err_errno(e, errno, "can't give the sandbox its pipe");
	return 0;
}

static int open_output(struct exec *x, int i, int *ret_theirs, struct err *e)
{
	struct stream *s = &x->s[i];
	int r = make_pipe(x, &s->fd, ret_theirs, true, e);

	if (r < 0)
		return r;
	if (x->spec.streamed)
		(void)fcntl(s->fd, F_SETPIPE_SZ, STREAM_PIPE_SIZE); /* the default does, too */
	r = watch(&s->poll, &s->has_poll, x, s->fd);
	if (r < 0)
		return err_errno(e, -r, "can't watch the command's output");
	s->poll.data = s;
	return 0;
}

/* What is given with the request, and the watching that the rest needs. */
static int feed_start(struct exec *x, const struct exec_spec *spec, struct err *e)
{
	struct feed *f = &x->in;
	int r = watch(&f->poll, &f->has_poll, x, f->fd);

	if (r < 0)
		return err_errno(e, -r, "can't watch the command's stdin");
	f->poll.data = x;
	f->open = spec->stdin_open || x->spec.pty.rows > 0;
	if (feed_add(x, spec->stdin_data, spec->stdin_data ? spec->stdin_len : 0) < 0)
		return err_errno(e, ENOMEM, "can't keep the command's stdin");
	feed_go(x);
	return 0;
}

static int open_stdin(struct exec *x, const struct exec_spec *spec, int *ret_theirs, struct err *e)
{
	struct feed *f = &x->in;
	int r;

	if (!spec->stdin_data && !spec->stdin_open) {
		*ret_theirs = fcntl(x->m->null_fd, F_DUPFD_CLOEXEC, 3);
		return *ret_theirs < 0 ? err_errno(e, errno, "can't open /dev/null") : 0;
	}
	r = make_pipe(x, &f->fd, ret_theirs, false, e);
	if (r < 0)
		return r;
	if (spec->stdin_open || spec->stdin_len > STDIN_AT_ONCE)
		return feed_start(x, spec, e);
	r = fd_write_all(f->fd, spec->stdin_data, spec->stdin_len);
	closep(&f->fd);
	return r < 0 ? err_errno(e, -r, "can't write the command's stdin") : 0;
}

static int open_pty(struct exec *x, const struct exec_spec *spec, int theirs[static 3], struct err *e)
{
	struct stream *s = &x->s[EXEC_STDOUT];
	int r;

	r = pty_open(x->sb->root_fd, idmap_sandbox_uid(x->m->c.idmap, 0), spec->pty, &s->fd, &theirs[0], e);
	for (int i = 1; r >= 0 && i < 3; i++) {
		theirs[i] = fcntl(theirs[0], F_DUPFD_CLOEXEC, 3);
		r = theirs[i] < 0 ? err_errno(e, errno, "can't open the terminal") : 0;
	}
	if (r < 0)
		return r;
	x->in.fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 3);
	if (x->in.fd < 0)
		return err_errno(e, errno, "can't open the terminal");
	r = watch(&s->poll, &s->has_poll, x, s->fd);
	if (r < 0)
		return err_errno(e, -r, "can't watch the terminal");
	s->poll.data = s;
	return feed_start(x, spec, e);
}

int exec_io_open(struct exec *x, const struct exec_spec *s, int theirs[static 3], struct err *e)
{
	int r;

	if (s->pty.rows > 0)
		return open_pty(x, s, theirs, e);
	r = open_stdin(x, s, &theirs[0], e);
	if (r >= 0)
		r = open_output(x, EXEC_STDOUT, &theirs[1], e);
	if (r >= 0)
		r = open_output(x, EXEC_STDERR, &theirs[2], e);
	return r;
}

int exec_io_adopt(struct exec *x, int fds[static 3], struct err *e)
{
	int r = 0;

	for (int i = 0; i < 2; i++) {
		x->s[i].fd = TAKE_FD(fds[i + 1]);
		if (r >= 0 && x->s[i].fd >= 0)
			r = watch(&x->s[i].poll, &x->s[i].has_poll, x, x->s[i].fd);
		x->s[i].poll.data = &x->s[i];
	}
	x->in.fd = TAKE_FD(fds[0]);
	if (x->spec.pty.rows > 0 && x->in.fd < 0 && x->s[0].fd >= 0)
		x->in.fd = fcntl(x->s[0].fd, F_DUPFD_CLOEXEC, 3);
	if (r >= 0 && x->in.fd >= 0)
		r = feed_start(x, &x->spec, e);
	return r < 0 ? err_errno(e, -r, "watching a command's pipes") : 0;
}

void exec_io_close(struct exec *x)
{
	feed_close(&x->in, x);
	stream_close(&x->s[0]);
	stream_close(&x->s[1]);
}
