/* One command, from its pipes to its result.
 *
 * Two things end independently: the process (exited() from init, a time-out's last guard, or the end of
 * the sandbox) and each output pipe (EOF). When the process has ended, what is in a pipe at that moment
 * (FIONREAD, pipe(7)) is still the command's; it is delivered, and then the exec is over, EOF or not. A
 * pipe without EOF has another writer, a background child, and goes to exec_linger.c.
 *
 *     run --time-out or abandon--> term --grace--> kill --guard--> given up
 *
 * The process may end in any of these. One that was told to end (term) stays in memory after its result
 * was delivered until the grace is over, because the rest of its tree may still need the kill. */

#include "emulator/exec.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/sandbox-internal.h"

#define GRACE_MS 2000 /* between SIGTERM and SIGKILL */
#define GUARD_MS 2000 /* between SIGKILL and giving it up */
#define STREAM_PIPE_SIZE (256 << 10)
#define STDIN_AT_ONCE 4096 /* fits into any new pipe (pipe(7), PIPE_BUF) */

enum phase { PHASE_RUN, PHASE_TERM, PHASE_KILL };

struct stream {
	struct exec *x;
	uv_poll_t poll;
	int fd; /* -1: EOF was seen, or it was handed on */
	bool has_poll, polling;
	size_t left; /* once the process has ended: what is still the command's */
	struct output out;
};

struct feed { /* stdin that didn't fit into the pipe at once */
	uv_poll_t poll;
	bool has_poll;
	int fd;
	char *data;
	size_t at, len;
};

struct exec {
	struct exec *prev, *next; /* in its sandbox's list, or in the manager's detached one */
	struct sandboxes *m;
	struct sandbox *sb; /* NULL once that has ended */
	uint64_t id;
	char name[EXEC_ID_SIZE];
	char program[64]; /* for "not found" */
	struct exec_events ev;
	struct stream s[2];
	struct feed in;
	uv_timer_t timer;
	enum phase phase;
	int64_t start_us;
	uint64_t oom_before;
	struct exec_result res;
	bool exited, timed_out, finished;
	bool discard;	/* abandoned: nobody wants its output */
	bool paused;	/* the reader said so */
	bool in_output; /* the reader is being called right now */
	bool held;	/* the sandbox is paused: the timer goes on with held_ms afterwards */
	uint64_t held_ms;
	unsigned int handles;
};

static const char *const reason_names[] = { "exited", "signal", "oom", "timeout", "terminated" };

const char *exec_reason_name(enum exec_reason r)
{
	return reason_names[r];
}

const char *exec_id(const struct exec *x)
{
	return x->name;
}

/* ---- memory and handles ---- */

static void exec_free(struct exec *x)
{
	for (int i = 0; i < 2; i++) {
		closep(&x->s[i].fd);
		output_free(&x->s[i].out);
	}
	closep(&x->in.fd);
	free(x->in.data);
	free(x);
}

static void on_handle_closed(uv_handle_t *h)
{
	struct exec *x = h->data;

	if (--x->handles == 0 && x->finished)
		exec_free(x);
}

static void close_poll(uv_poll_t *p, bool *has, struct exec *x)
{
	if (!*has)
		return;
	*has = false;
	p->data = x;
	uv_close((uv_handle_t *)p, on_handle_closed);
}

static void stream_close(struct stream *s)
{
	close_poll(&s->poll, &s->has_poll, s->x);
	s->polling = false;
	closep(&s->fd);
	s->left = 0;
}

static void feed_close(struct feed *f, struct exec *x)
{
	close_poll(&f->poll, &f->has_poll, x);
	closep(&f->fd);
	free(TAKE_PTR(f->data));
}

/* Out of all lists; the memory goes when the last handle is closed. */
static void exec_close(struct exec *x)
{
	struct sandboxes *m = x->m;

	if (x->sb) {
		DL_DELETE(x->sb->execs, x);
		x->sb->n_execs--;
	} else {
		DL_DELETE(m->detached, x);
	}
	x->sb = NULL;
	x->finished = true;
	feed_close(&x->in, x);
	stream_close(&x->s[0]);
	stream_close(&x->s[1]);
	uv_close((uv_handle_t *)&x->timer, on_handle_closed);
	if (m->stopping)
		sandboxes_check_stopped(m);
}

static void signal_tree(struct exec *x, int sig)
{
	/* A frozen init reads it when it thaws. */
	if (x->sb && !x->sb->init_lost && x->sb->init && sandbox_has_processes(x->sb))
		(void)init_signal(x->sb->init, x->id, sig, true);
}

/* ---- the end ---- */

static void finish(struct exec *x)
{
	struct exec_result *r = &x->res;

	if (x->finished)
		return;
	x->finished = true;
	x->m->n_execs--;
	feed_close(&x->in, x);
	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->s[i];
		int fd = TAKE_FD(s->fd);

		stream_close(s);
		if (fd >= 0 && x->sb && sandbox_has_processes(x->sb))
			linger_add(x->sb, fd);
		else
			closep(&fd);
		r->truncated[i] = !x->discard && !x->ev.output && output_finish(&s->out);
		r->out[i] = &s->out.head;
	}
	if (x->ev.done)
		x->ev.done(x->ev.arg, r);
	for (int i = 0; i < 2; i++)
		output_free(&x->s[i].out);
	if (x->phase == PHASE_TERM && x->sb)
		return; /* the timer kills what is left of its tree */
	exec_close(x);
}

static void deliver(struct exec *x, enum exec_stream which, const char *p, size_t n)
{
	bool more;

	if (x->discard)
		return;
	if (!x->ev.output) {
		output_add(&x->s[which].out, p, n);
		return;
	}
	x->in_output = true;
	more = x->ev.output(x->ev.arg, which, p, n);
	x->in_output = false;
	x->paused = !more && !x->discard;
}

/* One read. False when there is nothing more to get now. */
static bool stream_read(struct stream *s)
{
	struct exec *x = s->x;
	size_t want = x->exited ? MIN(s->left, (size_t)SANDBOX_SCRATCH_SIZE) : SANDBOX_SCRATCH_SIZE;
	ssize_t n = read(s->fd, x->m->scratch, want);

	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		if (x->exited && errno == EAGAIN)
			s->left = 0;
		return false;
	}
	if (n <= 0) {
		stream_close(s);
		return false;
	}
	if (x->exited)
		s->left -= MIN(s->left, (size_t)n);
	deliver(x, (enum exec_stream)(s - x->s), x->m->scratch, (size_t)n);
	return true;
}

static void update_polls(struct exec *x);

/* After the process: over when both pipes gave what was the command's. */
static void settle(struct exec *x)
{
	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->s[i];

		while (s->fd >= 0 && s->left > 0 && !x->paused)
			(void)stream_read(s);
		if (s->fd >= 0 && s->left > 0) {
			update_polls(x);
			return;
		}
	}
	for (int i = 0; i < 2; i++)
		if (x->s[i].fd >= 0 && read(x->s[i].fd, x->m->scratch, 1) == 0)
			stream_close(&x->s[i]);
	finish(x);
}

/* The process has ended, as x->res says. */
static void ended(struct exec *x)
{
	x->exited = true;
	if (x->phase != PHASE_TERM) {
		(void)uv_timer_stop(&x->timer);
		x->held = false;
	}
	x->res.duration_ms = (uint64_t)(clock_mono_us() - x->start_us) / 1000;
	if (x->timed_out)
		x->res.reason = EXEC_TIMEOUT;
	for (int i = 0; i < 2; i++) {
		int n = 0;

		if (x->s[i].fd >= 0 && !x->discard && ioctl(x->s[i].fd, FIONREAD, &n) == 0 && n > 0)
			x->s[i].left = (size_t)n;
	}
	settle(x);
}

static void set_killed(struct exec *x, enum exec_reason reason)
{
	x->res.reason = reason;
	x->res.signal = SIGKILL;
	x->res.exit_code = 128 + SIGKILL;
}

/* ---- pipes ---- */

static void on_readable(uv_poll_t *h, int status, int events _unused_)
{
	struct stream *s = h->data;
	struct exec *x = s->x;

	if (status < 0)
		stream_close(s);
	else
		(void)stream_read(s);
	if (x->exited)
		settle(x);
	else
		update_polls(x);
}

static void update_polls(struct exec *x)
{
	for (int i = 0; i < 2; i++) {
		struct stream *s = &x->s[i];
		bool want = s->fd >= 0 && !x->paused && (!x->exited || s->left > 0);

		if (want && !s->polling)
			(void)uv_poll_start(&s->poll, UV_READABLE, on_readable);
		else if (!want && s->polling)
			(void)uv_poll_stop(&s->poll);
		s->polling = want;
	}
}

void exec_more(struct exec *x)
{
	x->paused = false;
	if (!x->finished && !x->in_output)
		update_polls(x);
}

static void on_writable(uv_poll_t *h, int status, int events _unused_)
{
	struct exec *x = h->data;
	struct feed *f = &x->in;
	ssize_t n;

	n = status < 0 ? -1 : write(f->fd, f->data + f->at, MIN(f->len - f->at, (size_t)SANDBOX_SCRATCH_SIZE));
	if (n < 0 && status >= 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		f->at += (size_t)n;
	/* A command that doesn't want the rest (EPIPE) is none of our business. */
	if (n < 0 || f->at == f->len)
		feed_close(f, x);
}

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
	if (x->ev.output)
		(void)fcntl(s->fd, F_SETPIPE_SZ, STREAM_PIPE_SIZE); /* the default does, too */
	r = uv_poll_init(x->m->c.loop, &s->poll, s->fd);	    /* makes it non-blocking */
	if (r < 0)
		return err_errno(e, -r, "can't watch the command's output");
	s->poll.data = s;
	s->has_poll = true;
	x->handles++;
	return 0;
}

static int open_stdin(struct exec *x, const struct exec_spec *spec, int *ret_theirs, struct err *e)
{
	struct feed *f = &x->in;
	int r;

	if (!spec->stdin_data) {
		*ret_theirs = fcntl(x->m->null_fd, F_DUPFD_CLOEXEC, 3);
		return *ret_theirs < 0 ? err_errno(e, errno, "can't open /dev/null") : 0;
	}
	r = make_pipe(x, &f->fd, ret_theirs, false, e);
	if (r < 0)
		return r;
	if (spec->stdin_len <= STDIN_AT_ONCE) {
		r = fd_write_all(f->fd, spec->stdin_data, spec->stdin_len);
		closep(&f->fd);
		return r < 0 ? err_errno(e, -r, "can't write the command's stdin") : 0;
	}
	f->data = malloc(spec->stdin_len);
	if (!f->data)
		return err_errno(e, ENOMEM, "can't keep the command's stdin");
	memcpy(f->data, spec->stdin_data, spec->stdin_len);
	f->len = spec->stdin_len;
	r = uv_poll_init(x->m->c.loop, &f->poll, f->fd);
	if (r < 0)
		return err_errno(e, -r, "can't watch the command's stdin");
	f->poll.data = x;
	f->has_poll = true;
	x->handles++;
	return 0;
}

/* ---- what init says ---- */

static int not_started_code(int errnum)
{
	return errnum == ENOENT || errnum == ENOTDIR ? 127 : 126; /* as a shell would; POSIX sh, 2.8.2 */
}

static void not_started(struct exec *x, int errnum)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "orkestr: %s: %s\n", x->program, strerror(errnum));

	x->res.reason = EXEC_EXITED;
	x->res.exit_code = not_started_code(errnum);
	deliver(x, EXEC_STDERR, line, MIN((size_t)n, sizeof(line) - 1));
}

static void judge(struct exec *x, const struct init_exit *ie)
{
	struct exec_result *r = &x->res;

	switch (ie->kind) {
	case INIT_EXIT_NOT_STARTED:
		not_started(x, ie->value);
		return;
	case INIT_EXIT_SIGNAL:
		r->reason = EXEC_SIGNAL;
		r->signal = ie->value & 0x7f;
		r->exit_code = 128 + r->signal;
		break;
	case INIT_EXIT_CODE:
		r->reason = EXEC_EXITED;
		r->exit_code = ie->value & 0xff;
		break;
	}
	/* A shell reports a killed child as 137; the group's count tells who killed it. */
	if (r->exit_code == 128 + SIGKILL) {
		x->sb->oom_seen = sandbox_oom_kills(x->sb);
		if (x->sb->oom_seen > x->oom_before)
			r->reason = EXEC_OOM;
	}
}

static struct exec *find_exec(struct sandbox *sb, uint64_t id)
{
	struct exec *x;

	DL_FOREACH(sb->execs, x)
	{
		if (x->id == id)
			return x;
	}
	return NULL;
}

void exec_on_exited(struct sandbox *sb, uint64_t id, const struct init_exit *ie)
{
	struct exec *x = find_exec(sb, id);

	/* Over already, or never started: init can't be believed. */
	if (!x || x->exited)
		return;
	judge(x, ie);
	ended(x);
}

void exec_end_all(struct sandbox *sb)
{
	bool oom = strcmp(sb->row.termination_reason, "oom") == 0;
	struct exec *x;

	/* Callbacks may abandon others meanwhile: always the first one that is left. */
	while ((x = sb->execs)) {
		DL_DELETE(sb->execs, x);
		sb->n_execs--;
		x->sb = NULL;
		DL_APPEND(sb->m->detached, x);
		if (x->finished) {
			exec_close(x);
			continue;
		}
		x->phase = PHASE_KILL; /* no one is left to be killed */
		(void)uv_timer_stop(&x->timer);
		x->held = false;
		if (x->exited)
			continue;
		set_killed(x, oom ? EXEC_OOM : EXEC_TERMINATED);
		ended(x);
	}
}

void exec_force_detached(struct sandboxes *m)
{
	struct exec *x;

	while ((x = m->detached)) {
		x->s[0].left = x->s[1].left = 0;
		finish(x);
	}
}

/* ---- time ---- */

static void on_timer(uv_timer_t *t)
{
	struct exec *x = t->data;

	switch (x->phase) {
	case PHASE_RUN:
		x->timed_out = true;
		x->phase = PHASE_TERM;
		signal_tree(x, SIGTERM);
		(void)uv_timer_start(t, on_timer, GRACE_MS, 0);
		break;
	case PHASE_TERM:
		x->phase = PHASE_KILL;
		signal_tree(x, SIGKILL);
		if (x->finished)
			exec_close(x);
		else if (!x->exited)
			(void)uv_timer_start(t, on_timer, GUARD_MS, 0);
		break;
	case PHASE_KILL:
		log_warn("%s: a command of %s didn't die of SIGKILL", x->name, x->sb ? x->sb->row.id : "?");
		set_killed(x, EXEC_TIMEOUT);
		ended(x);
		break;
	}
}

void exec_abandon(struct exec *x)
{
	x->ev.done = NULL;
	x->discard = true;
	x->paused = false;
	if (x->exited) {
		x->s[0].left = x->s[1].left = 0;
		if (!x->in_output)
			finish(x);
		return;
	}
	for (int i = 0; i < 2; i++)
		output_free(&x->s[i].out);
	if (x->phase == PHASE_RUN) {
		x->phase = PHASE_TERM;
		signal_tree(x, SIGTERM);
		x->held_ms = GRACE_MS;
		if (!x->held)
			(void)uv_timer_start(&x->timer, on_timer, GRACE_MS, 0);
	}
	if (!x->in_output)
		update_polls(x);
}

void exec_hold_all(struct sandbox *sb)
{
	struct exec *x;

	DL_FOREACH(sb->execs, x)
	{
		if (!uv_is_active((uv_handle_t *)&x->timer))
			continue;
		x->held = true;
		x->held_ms = uv_timer_get_due_in(&x->timer);
		(void)uv_timer_stop(&x->timer);
	}
}

void exec_release_all(struct sandbox *sb, int64_t held_us)
{
	struct exec *x;

	uv_update_time(sb->m->c.loop);
	DL_FOREACH(sb->execs, x)
	{
		x->start_us += held_us;
		if (x->held)
			(void)uv_timer_start(&x->timer, on_timer, x->held_ms + 1, 0);
		x->held = false;
	}
}

/* ---- the start ---- */

static int check_cwd(struct sandbox *sb, const char **cwd, struct err *e)
{
	const char *path = *cwd ? *cwd : "/workspace";
	int fd;

	if (path[0] != '/' || strlen(path) >= 4096)
		return err_set(e, ERR_INVALID, EINVAL, "path_invalid",
			       "cwd must be an absolute path of at most 4095 bytes");
	fd = sys_openat2(sb->root_fd, path, O_PATH | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
	if (fd >= 0) {
		(void)close(fd);
		*cwd = path;
		return 0;
	}
	if (!*cwd) {
		*cwd = "/";
		return 0;
	}
	if (fd == -ENOENT)
		return err_set(e, ERR_INVALID, ENOENT, "path_invalid", "cwd \"%.200s\" does not exist in the sandbox",
			       path);
	if (fd == -ENOTDIR)
		return err_set(e, ERR_INVALID, ENOTDIR, "path_invalid", "cwd \"%.200s\" is not a directory", path);
	return err_set(e, ERR_INVALID, -fd, "path_invalid", "cwd \"%.200s\" can't be entered: %s", path, strerror(-fd));
}

static struct exec *exec_alloc(struct sandbox *sb, const struct exec_events *ev)
{
	struct exec *x = calloc(1, sizeof(*x));
	char ulid[TEXT_ULID_SIZE];

	if (!x)
		return NULL;
	*x = (struct exec){ .m = sb->m, .sb = sb, .id = ++sb->next_exec, .ev = *ev, .in.fd = -1 };
	for (int i = 0; i < 2; i++) {
		x->s[i].x = x;
		x->s[i].fd = -1;
		output_init(&x->s[i].out);
	}
	text_ulid(clock_real_ms(), ulid);
	(void)snprintf(x->name, sizeof(x->name), "exe_%s", ulid);
	(void)uv_timer_init(sb->m->c.loop, &x->timer);
	x->timer.data = x;
	x->handles++;
	DL_APPEND(sb->execs, x);
	sb->n_execs++;
	return x;
}

/* Hands the command to init. The command's ends of the pipes are closed here whatever happens. */
static int launch(struct exec *x, const struct exec_spec *s, const char *cwd, const char *const *env, struct err *e)
{
	const char *const shell[] = { "/bin/sh", "-c", s->command, NULL };
	_cleanup_close_ int in = -1, out = -1, error = -1;
	struct init_exec ie = { .id = x->id, .argv = s->command ? shell : s->argv, .env = env, .cwd = cwd };
	int r;

	r = open_stdin(x, s, &in, e);
	if (r >= 0)
		r = open_output(x, EXEC_STDOUT, &out, e);
	if (r >= 0)
		r = open_output(x, EXEC_STDERR, &error, e);
	if (r < 0)
		return r;
	(void)snprintf(x->program, sizeof(x->program), "%s", ie.argv[0]);
	ie.stdio[0] = in;
	ie.stdio[1] = out;
	ie.stdio[2] = error;
	x->oom_before = sandbox_oom_kills(x->sb);
	x->start_us = clock_mono_us();
	return init_start(x->sb->init, &ie, e);
}

static int check_spec(const struct exec_spec *s, struct err *e)
{
	if (!s->command && (!s->argv || !s->argv[0]))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "command is empty");
	if (s->timeout_s > EXEC_MAX_TIMEOUT_S)
		return err_set(e, ERR_INVALID, ERANGE, NULL, "timeout_seconds is more than %d", EXEC_MAX_TIMEOUT_S);
	return 0;
}

static int start_in(struct sandbox *sb, const struct exec_spec *s, const struct exec_events *ev, const char *cwd,
		    const char *const *env, struct exec **ret, struct err *e)
{
	struct exec *x = exec_alloc(sb, ev);
	int r;

	if (!x)
		return err_errno(e, ENOMEM, "can't start the command");
	r = launch(x, s, cwd, env, e);
	if (r < 0) {
		exec_close(x);
		return r;
	}
	sb->m->n_execs++;
	if (x->in.has_poll)
		(void)uv_poll_start(&x->in.poll, UV_WRITABLE, on_writable);
	update_polls(x);
	/* The loop's clock may be a request old, and is cut to milliseconds. */
	uv_update_time(sb->m->c.loop);
	(void)uv_timer_start(&x->timer, on_timer,
			     (uint64_t)(s->timeout_s ? s->timeout_s : EXEC_DEFAULT_TIMEOUT_S) * 1000 + 1, 0);
	*ret = x;
	return 0;
}

int exec_start(struct sandboxes *m, const struct account *a, const char *sandbox_id, const struct exec_spec *s,
	       const struct exec_events *ev, struct exec **ret, struct err *e)
{
	const char *cwd = s->cwd;
	char **merged = NULL;
	struct sandbox *sb;
	int r;

	r = check_spec(s, e);
	if (r >= 0)
		r = sandbox_find_running(m, a, sandbox_id, &sb, e);
	if (r < 0)
		return r;
	if (sb->n_execs >= SANDBOX_MAX_EXECS)
		return err_set(e, ERR_CAPACITY, EAGAIN, NULL, "%d commands are running in this sandbox already",
			       SANDBOX_MAX_EXECS);
	r = check_cwd(sb, &cwd, e);
	if (r >= 0 && s->env)
		r = exec_env_build((const char *const *)sb->env, s->env, &merged, e);
	if (r >= 0)
		r = start_in(sb, s, ev, cwd, (const char *const *)(merged ? merged : sb->env), ret, e);
	exec_env_free(merged);
	return r;
}
