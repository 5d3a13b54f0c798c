#include "emulator/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <uv.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"

struct worker {
	uv_poll_t poll; /* readable: the process has ended (pidfd_open(2)) */
	int pidfd;
	pid_t pid;
	void (*done)(void *arg, int status);
	void *arg;
};

/* The daemon's handlers, its mask and its ignored SIGPIPE are not the job's. */
static void reset_signals(void)
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (int s = 1; s < NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP)
			(void)sigaction(s, &dfl, NULL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _noreturn_ void child(pid_t parent, int (*job)(void *job_arg), void *job_arg)
{
	int status;

	reset_signals();
	sys_die_with(parent); /* a daemon that is killed leaves no worker behind */
	log_set_name("worker");
	status = job(job_arg);
	_exit(status < 0 || status > 255 ? 255 : status);
}

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

static int reap(struct worker *w, int flags, int *ret_status)
{
	int st;
	pid_t p;

	do
		p = waitpid(w->pid, &st, flags);
	while (p < 0 && errno == EINTR);
	if (p == 0)
		return -EAGAIN;
	if (p < 0)
		return -errno;
	*ret_status = WIFSIGNALED(st) ? 128 + WTERMSIG(st) : WEXITSTATUS(st);
	return 0;
}

static void on_exit_readable(uv_poll_t *h, int uv_status _unused_, int events _unused_)
{
	struct worker *w = h->data;
	int status = 255;
	int r = reap(w, WNOHANG, &status);

	if (r == -EAGAIN)
		return;
	if (r < 0)
		log_error("a worker's end can't be read: errno %d", -r);
	uv_close((uv_handle_t *)&w->poll, on_closed);
	closep(&w->pidfd);
	w->done(w->arg, status);
}

int worker_run(struct uv_loop_s *loop, int (*job)(void *job_arg), void *job_arg, void (*done)(void *arg, int status),
	       void *arg, struct err *e)
{
	struct worker *w = calloc(1, sizeof(*w));
	pid_t self = getpid();
	int r, status;

	if (!w)
		return err_errno(e, ENOMEM, "can't start a worker");
	*w = (struct worker){ .pidfd = -1, .done = done, .arg = arg };
	w->pid = fork();
	if (w->pid == 0)
		child(self, job, job_arg);
	if (w->pid < 0) {
		r = err_errno(e, errno, "can't start a worker");
		free(w);
		return r;
	}
	w->pidfd = sys_pidfd_open(w->pid);
	r = w->pidfd < 0 ? w->pidfd : uv_poll_init(loop, &w->poll, w->pidfd);
	if (r < 0) {
		/* Without a handle nobody would hear of its end: take the job back. */
		(void)kill(w->pid, SIGKILL);
		(void)reap(w, 0, &status);
		closep(&w->pidfd);
		free(w);
		return err_errno(e, -r, "can't watch a worker");
	}
	w->poll.data = w;
	(void)uv_poll_start(&w->poll, UV_READABLE, on_exit_readable);
	return 0;
}

int worker_keep_only(int *fds, size_t n)
{
	int top = STDERR_FILENO;

	/* First above everything that will be a target, then down to 3, 4, ...: no move overwrites another's source. */
	for (size_t i = 0; i < n; i++) {
		int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, STDERR_FILENO + 1 + (int)n);

		if (fd < 0)
			return -errno;
		fds[i] = fd;
	}
	for (size_t i = 0; i < n; i++) {
		if (dup3(fds[i], ++top, O_CLOEXEC) < 0)
			return -errno;
		fds[i] = top;
	}
	return sys_close_range((unsigned int)top + 1, ~0u, 0);
}
