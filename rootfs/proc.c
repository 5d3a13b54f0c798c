#include "rootfs/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"

static _noreturn_ void child_fail(const char *what, int errnum)
{
	(void)dprintf(STDERR_FILENO, "%s: %s\n", what, strerror(errnum));
	_exit(125);
}

static _noreturn_ void child_main(const struct proc_spec *s, int in, int out, int err, int sync_fd)
{
	sigset_t none;

	/* A parent killed between fork and here is caught by the closed pipes. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The targets may be among the sources: move the sources out of the way first. */
	in = fcntl(in, F_DUPFD_CLOEXEC, 10);
	out = fcntl(out, F_DUPFD_CLOEXEC, 10);
	err = fcntl(err, F_DUPFD_CLOEXEC, 10);
	sync_fd = fcntl(sync_fd, F_DUPFD_CLOEXEC, 10);
	if (in < 0 || out < 0 || err < 0 || sync_fd < 0 || dup2(err, STDERR_FILENO) < 0 || dup2(in, STDIN_FILENO) < 0 ||
	    dup2(out, STDOUT_FILENO) < 0)
		_exit(125);
	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	if (s->child && s->child(s->hook_arg, sync_fd) < 0)
		_exit(125);
	(void)sys_close_range(3, ~0u, 0);
	/* Not execvpe: that looks a program up in this process's PATH, not in the one given. */
	environ = (char **)(uintptr_t)s->env;
	(void)execvp(s->argv[0], (char *const *)(uintptr_t)s->argv);
	child_fail(s->argv[0], errno);
}

/* Lets the child go on once the parent did its part (id maps). */
static int parent_hook(struct proc *p, int sync_fd, struct err *e)
{
	char byte;
	int r;

	if (!p->spec->parent)
		return 0;
	if (fd_read_all(sync_fd, &byte, 1) != 1) {
		/* The child failed and said why on its standard error. */
		r = proc_finish(p, NULL, e);
		return r < 0 ? r : err_set(e, ERR_INTERNAL, EPIPE, NULL, "%s: the child went away", p->name);
	}
	r = p->spec->parent(p->spec->hook_arg, p->pid, e);
	if (r < 0)
		return r;
	r = fd_write_all(sync_fd, "x", 1);
	return r < 0 ? err_errno(e, -r, "%s: cannot start", p->name) : 0;
}

int proc_start(struct proc *p, const struct proc_spec *s, struct err *e)
{
	_cleanup_close_ int out_r = -1, out_w = -1, err_r = -1, err_w = -1, sync_p = -1, sync_c = -1, null_fd = -1;
	int pair[2], r;

	*p = PROC_INIT;
	p->spec = s;
	p->name = s->argv[0];
	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_errno(e, errno, "cannot make a pipe");
	out_r = pair[0];
	out_w = pair[1];
	if (pipe2(pair, O_CLOEXEC) < 0)
		return err_errno(e, errno, "cannot make a pipe");
	err_r = pair[0];
	err_w = pair[1];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_errno(e, errno, "cannot make a socket pair");
	sync_p = pair[0];
	sync_c = pair[1];
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null_fd < 0)
		return err_errno(e, errno, "cannot open /dev/null");
	p->pid = fork();
	if (p->pid < 0)
		return err_errno(e, errno, "cannot start %s", p->name);
	if (p->pid == 0)
		child_main(s, s->stdin_fd >= 0 ? s->stdin_fd : null_fd, out_w, err_w, sync_c);
	closep(&out_w);
	closep(&err_w);
	closep(&sync_c);
	p->out = TAKE_FD(out_r);
	p->errfd = TAKE_FD(err_r);
	p->deadline_us = s->timeout_s ? clock_mono_us() + (int64_t)s->timeout_s * 1000000 : INT64_MAX;
	r = parent_hook(p, sync_p, e);
	if (r < 0)
		proc_end(p);
	return r;
}

/* Keeps the last PROC_TAIL - 1 bytes. A helper quotes what a mirror or an archive said: no control
 * byte of theirs reaches a terminal. */
static void tail_add(struct proc *p, const char *s, size_t n)
{
	if (n >= sizeof(p->tail)) {
		s += n - (sizeof(p->tail) - 1);
		n = sizeof(p->tail) - 1;
	}
	if (p->tail_len + n >= sizeof(p->tail)) {
		size_t drop = p->tail_len + n - (sizeof(p->tail) - 1);

		memmove(p->tail, p->tail + drop, p->tail_len - drop);
		p->tail_len -= drop;
	}
	for (size_t i = 0; i < n; i++)
		p->tail[p->tail_len++] = s[i] == '\r'					 ? '\n'
					 : (s[i] >= 0x20 && s[i] < 0x7f) || s[i] == '\n' ? s[i]
											 : '?';
	p->tail[p->tail_len] = '\0';
}

static void line_end(struct proc *p)
{
	if (p->line_len > 0 && p->spec->line) {
		memcpy(p->last_line, p->line, p->line_len);
		p->last_line[p->line_len] = '\0';
		p->spec->line(p->spec->line_arg, p->last_line);
	}
	p->line_len = 0;
}

static void line_add(struct proc *p, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (s[i] == '\n' || s[i] == '\r')
			line_end(p);
		else if (p->line_len < sizeof(p->line) - 1)
			p->line[p->line_len++] = s[i] >= 0x20 && s[i] < 0x7f ? s[i] : '?';
	}
}

/* Takes what is on standard error. */
static void take_stderr(struct proc *p)
{
	char b[4096];
	ssize_t n = read(p->errfd, b, sizeof(b));

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		line_end(p);
		closep(&p->errfd);
		return;
	}
	tail_add(p, b, (size_t)n);
	line_add(p, b, (size_t)n);
}

/* Waits until standard output can be read (or is closed: then until standard error ends). */
static int wait_readable(struct proc *p)
{
	for (;;) {
		struct pollfd fds[2] = {
			{ .fd = p->out, .events = POLLIN },
			{ .fd = p->errfd, .events = POLLIN },
		};
		int64_t left = p->deadline_us == INT64_MAX ? INT64_MAX : (p->deadline_us - clock_mono_us()) / 1000;
		int r;

		if (p->out < 0 && p->errfd < 0)
			return 0;
		if (left <= 0) {
			p->timed_out = true;
			return -ETIMEDOUT;
		}
		r = poll(fds, 2, (int)MIN(left, 1000));
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r == 0 && p->spec->line && *p->last_line)
			p->spec->line(p->spec->line_arg, p->last_line);
		if (r <= 0)
			continue;
		if (fds[1].revents)
			take_stderr(p);
		if (fds[0].revents)
			return 1;
	}
}

ssize_t proc_read(struct proc *p, void *buf, size_t n)
{
	while (p->out >= 0) {
		int r = wait_readable(p);
		ssize_t k;

		if (r < 0)
			return r;
		k = read(p->out, buf, n);
		if (k > 0)
			return k;
		if (k < 0 && errno != EINTR)
			return -errno;
		if (k == 0)
			closep(&p->out);
	}
	return 0;
}

/* As many of the tail's last lines as have room in one (two characters between them); of a line that has none the end. */
static const char *last_lines(const struct proc *p, size_t room)
{
	const char *const end = p->tail + p->tail_len;
	const char *from = end, *start = end;
	size_t used = 0;

	while (from > p->tail) {
		used += from[-1] == '\n' ? 2 : 1;
		if (used > room)
			break;
		from--;
		if (from == p->tail || from[-1] == '\n')
			start = from;
	}
	return start < end ? start : from;
}

/* Where in the tail a program gives its reason: from the first line that looks like one, else the end. */
static const char *reason_start(const struct proc *p, size_t room)
{
	static const char *const marks[] = { "error", "E: ", "fatal", "cannot", "curl: (" };

	for (const char *line = p->tail; *line; line += strcspn(line, "\n"), line += *line == '\n')
		for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
			const char *at = strstr(line, marks[i]);

			if (at && at < line + strcspn(line, "\n"))
				return line;
		}
	return last_lines(p, room);
}

/* Several lines in one. */
static void reason_one_line(const struct proc *p, char *ret, size_t cap)
{
	size_t o = 0;

	for (const char *from = reason_start(p, cap - 3); *from && o < cap - 3; from++) {
		if (*from != '\n') {
			ret[o++] = *from;
		} else if (o > 0 && from[1] && from[1] != '\n') {
			ret[o++] = ';';
			ret[o++] = ' ';
		}
	}
	ret[o] = '\0';
}

static int report(struct proc *p, int status, struct err *e)
{
	char why[280];

	if (p->timed_out)
		return err_set(e, ERR_TIMEOUT, ETIMEDOUT, NULL, "%s took longer than %u s", p->name,
			       p->spec->timeout_s);
	if (status == 0)
		return 0;
	reason_one_line(p, why, sizeof(why));
	return err_set(e, ERR_IO, EIO, NULL, "%s failed (%d)%s%s", p->name, status, *why ? ": " : "", why);
}

int proc_finish(struct proc *p, int *ret_status, struct err *e)
{
	char sink[8192];
	int status = 0;
	ssize_t n;

	while ((n = proc_read(p, sink, sizeof(sink))) > 0)
		;
	while (n >= 0 && p->errfd >= 0)
		n = wait_readable(p);
	if (n < 0)
		(void)kill(p->pid, SIGKILL);
	closep(&p->out);
	closep(&p->errfd);
	while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
		;
	p->pid = -1;
	status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	if (ret_status)
		*ret_status = status;
	return report(p, status, e);
}

void proc_end(struct proc *p)
{
	closep(&p->out);
	closep(&p->errfd);
	if (p->pid > 0) {
		(void)kill(p->pid, SIGKILL);
		while (waitpid(p->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	p->pid = -1;
}

int proc_run(const struct proc_spec *s, struct buf *out, struct err *e)
{
	_cleanup_proc_ struct proc p = PROC_INIT;
	int r = proc_start(&p, s, e);
	char b[8192];
	ssize_t n;

	if (r < 0)
		return r;
	while ((n = proc_read(&p, b, sizeof(b))) > 0) {
		r = out ? buf_add(out, b, (size_t)n) : 0;
		if (r < 0)
			return err_set(e, ERR_TOO_LARGE, -r, NULL, "%s said more than %zu bytes", p.name, out->max);
	}
	return proc_finish(&p, NULL, e);
}
