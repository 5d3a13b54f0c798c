/* The daemon's end of an init's control socket, and of the pipe with its reports. What arrives may come from a sandbox
 * that took over its PID 1, so lengths, types, ids and descriptors are all checked, and one wrong message ends it. So do
 * many that answer nothing: an init speaks when it was spoken to. */

#include "emulator/init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <utlist.h>
#include <uv.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/proto.h"

#define RETRY_MS 2 /* after ETOOMANYREFS, which no poll tells the end of */
#define REPORTS_AT_ONCE 64
/* Reports of commands that do not run, since it was last asked for something. A few there are: of a command that was
 * given up, or that was asked for again while its end was on its way. */
#define UNASKED_MAX 1000

struct waiting { /* a message the socket had no room for */
	struct waiting *next;
	int fds[4];
	size_t n_fds;
	size_t len;
	char m[];
};

struct init {
	uv_poll_t poll, reports_poll;
	uv_timer_t retry;
	unsigned int handles;
	int sock;
	int reports; /* -1: not ready */
	struct init_events ev;
	bool ready, lost;
	bool broken; /* the socket is at its end, which the loop has to tell */
	unsigned int unasked;
	struct waiting *waiting;
	unsigned int n_waiting;
};

static void lost(struct init *i, const char *why)
{
	if (i->lost)
		return;
	i->lost = true;
	(void)uv_poll_stop(&i->poll);
	if (i->reports >= 0)
		(void)uv_poll_stop(&i->reports_poll);
	i->ev.lost(i->ev.arg, why);
}

static bool is_root(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && (fcntl(fd, F_GETFL) & O_PATH);
}

static bool is_reports(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode) && !(flags & O_PATH) && (flags & O_ACCMODE) == O_RDONLY;
}

static int hear_reports(struct init *i, int fd);

/* Takes the fds. */
static void on_ready(struct init *i, const int fds[static 2])
{
	_cleanup_close_ int root = fds[0], reports = fds[1];
	struct err e;
	char more;
	int r;

	if (i->ready || !is_root(root) || !is_reports(reports)) {
		lost(i, "it sent something that is not its root");
		return;
	}
	i->ready = true;
	r = hear_reports(i, TAKE_FD(reports));
	if (r >= 0 && recv(i->sock, &more, sizeof(more), MSG_PEEK | MSG_DONTWAIT) > 0) {
		lost(i, "it said more than that it is ready");
		return;
	}
	if (r < 0) {
		(void)err_errno(&e, -r, "listening to the sandbox's init");
		i->ev.ready(i->ev.arg, &e, -1);
		return;
	}
	i->ev.ready(i->ev.arg, NULL, TAKE_FD(root));
}

static void on_failed(struct init *i, const struct init_failed_msg *m)
{
	char text[sizeof(m->text)];
	struct err e;

	if (i->ready || !proto_string_ok(m->text, sizeof(m->text))) {
		lost(i, i->ready ? "it failed twice" : "it sent a message that makes no sense");
		return;
	}
	i->ready = true;
	(void)snprintf(text, sizeof(text), "%s", m->text);
	for (char *p = text; *p; p++)
		if (*p < 0x20 || *p > 0x7e) /* it goes to the log and to the client */
			*p = '?';
	err_set(&e, ERR_INTERNAL, m->errnum > 0 ? m->errnum : EIO, "isolation", "isolating the sandbox: %s", text);
	i->ev.ready(i->ev.arg, &e, -1);
}

/* It is ready, but its root can't be taken: not its fault. */
static void on_starved(struct init *i)
{
	struct err e;

	i->ready = true;
	(void)err_errno(&e, EMFILE, "taking over the sandbox's root");
	i->ev.ready(i->ev.arg, &e, -1);
}

/* Before it is ready: its one answer. */
static void receive(struct init *i, int status)
{
	union init_msg m;
	size_t n_fds = 0;
	int fds[2];
	ssize_t n = status < 0 ? status : fd_recv_msg(i->sock, &m, sizeof(m), fds, 2, &n_fds);

	if (n == -EAGAIN)
		return;
	if (n == -EMFILE) {
		on_starved(i);
		return;
	}
	if (n == sizeof(m.h) && m.h.magic == INIT_MAGIC && m.h.type == INIT_READY && n_fds == 2) {
		on_ready(i, fds);
		return;
	}
	while (n > 0 && n_fds > 0)
		(void)close(fds[--n_fds]);
	if (n == sizeof(m.failed) && m.h.magic == INIT_MAGIC && m.h.type == INIT_FAILED)
		on_failed(i, &m.failed);
	else
		lost(i, n == 0 ? "it ended" : "it sent a message that makes no sense");
}

/* ---- reports ---- */

static void on_started(struct init *i, const struct init_started_msg *m)
{
	if (m->pid < 2 || m->pid > 1 << 22)
		lost(i, "it reported a process that can't be");
	else if (!i->ev.started(i->ev.arg, m->id, m->pid))
		i->unasked++;
}

static void on_exited(struct init *i, const struct init_exited_msg *m)
{
	const struct init_exit x = { .kind = (enum init_exit_kind)m->kind,
				     .value = m->value,
				     .duration_us = m->duration_us,
				     .background = m->background };

	if (m->background < -1 || m->background > 1 << 22 || m->kind < INIT_EXIT_CODE ||
	    m->kind > INIT_EXIT_NOT_STARTED || m->value < 0 || m->value > 4095)
		lost(i, "it reported an exit that can't be");
	else if (!i->ev.exited(i->ev.arg, m->id, &x))
		i->unasked++;
}

static void on_report(struct init *i, const union init_report *r)
{
	if (r->h.magic != INIT_MAGIC)
		lost(i, "it sent a message that makes no sense");
	else if (r->h.type == INIT_STARTED)
		on_started(i, &r->started);
	else if (r->h.type == INIT_EXITED)
		on_exited(i, &r->exited);
	else
		lost(i, "it sent a message of the wrong kind");
	if (i->unasked > UNASKED_MAX)
		lost(i, "it reports what nobody asked for, without end");
}

/* One reading a turn, so that one that never stops talking gets its turn and no more. */
static void on_reports(uv_poll_t *h, int status, int events _unused_)
{
	struct init *i = h->data;
	union init_report r[REPORTS_AT_ONCE];
	ssize_t n = status < 0 ? -1 : read(i->reports, r, sizeof(r));

	if (status >= 0 && n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || n % (ssize_t)sizeof(r[0]) != 0) {
		lost(i, n == 0 ? "it ended" : "it sent a message that makes no sense");
		return;
	}
	for (size_t k = 0; k < (size_t)n / sizeof(r[0]) && !i->lost; k++)
		on_report(i, &r[k]);
}

static void watch_socket(struct init *i, bool writable);

/* Takes fd. From now on nothing comes from the socket, whoever writes to it. */
static int hear_reports(struct init *i, int fd)
{
	int r;

	if (shutdown(i->sock, SHUT_RD) < 0) {
		r = -errno;
		(void)close(fd);
		return r;
	}
	r = uv_poll_init(uv_handle_get_loop((uv_handle_t *)&i->poll), &i->reports_poll, fd); /* makes it non-blocking */
	if (r < 0) {
		(void)close(fd);
		return r;
	}
	i->reports = fd;
	i->reports_poll.data = i;
	i->handles++;
	(void)uv_poll_start(&i->reports_poll, UV_READABLE, on_reports);
	watch_socket(i, i->waiting != NULL);
	return 0;
}

int init_reports(const struct init *i)
{
	return i->reports;
}

/* ---- sending ---- */

static void waiting_free(struct waiting *w)
{
	for (size_t k = 0; k < w->n_fds; k++)
		(void)close(w->fds[k]);
	free(w);
}

static void on_event(uv_poll_t *h, int status, int events);
static void on_retry(uv_timer_t *t);

/* Of a socket that is shut for reading only its end can be heard (EPOLLHUP, which is always told), so what is asked for
 * is something that there never is. */
static void watch_socket(struct init *i, bool writable)
{
	int events = i->reports >= 0 ? UV_PRIORITIZED : UV_READABLE;

	(void)uv_poll_start(&i->poll, events | (writable ? UV_WRITABLE : 0), on_event);
}

/* A send did. Maybe inside a caller's call: that it was the end the loop tells. */
static void socket_failed(struct init *i, int r)
{
	if (i->lost || (r != -EPIPE && r != -ECONNRESET))
		return;
	i->broken = true;
	(void)uv_timer_start(&i->retry, on_retry, 0, 0);
}

/* Sends what waits, in its order, and asks to be called again for the rest. */
static void flush(struct init *i)
{
	int r = 0;

	while (i->waiting && !i->lost) {
		struct waiting *w = i->waiting;

		r = fd_send_msg(i->sock, w->m, w->len, w->fds, w->n_fds);
		if (r == -EAGAIN || r == -ETOOMANYREFS)
			break;
		if (r < 0)
			socket_failed(i, r);
		LL_DELETE(i->waiting, w);
		i->n_waiting--;
		waiting_free(w);
	}
	if (i->lost)
		return;
	if (i->waiting && r == -ETOOMANYREFS)
		(void)uv_timer_start(&i->retry, on_retry, RETRY_MS, 0);
	watch_socket(i, i->waiting && r == -EAGAIN);
}

static void on_event(uv_poll_t *h, int status, int events)
{
	struct init *i = h->data;

	if (i->reports >= 0 && (status < 0 || (events & UV_PRIORITIZED)))
		lost(i, "it hung up");
	else if (i->reports < 0 && (status < 0 || (events & UV_READABLE)))
		receive(i, status);
	if ((events & UV_WRITABLE) && !i->lost)
		flush(i);
}

static void on_retry(uv_timer_t *t)
{
	struct init *i = t->data;

	if (i->broken)
		lost(i, "it hung up");
	else
		flush(i);
}

/* The message and duplicates of its fds, for later. */
static int put_by(struct init *i, const void *m, size_t n, const int *fds, size_t n_fds)
{
	struct waiting *w = i->n_waiting < INIT_MAX_WAITING ? calloc(1, sizeof(*w) + n) : NULL;

	if (!w)
		return -EAGAIN;
	memcpy(w->m, m, n);
	w->len = n;
	for (; w->n_fds < n_fds; w->n_fds++) {
		w->fds[w->n_fds] = fcntl(fds[w->n_fds], F_DUPFD_CLOEXEC, 3);
		if (w->fds[w->n_fds] < 0) {
			waiting_free(w);
			return -EAGAIN;
		}
	}
	LL_APPEND(i->waiting, w);
	i->n_waiting++;
	return 0;
}

static int fill_configure(const struct init_config *c, struct init_configure_msg *m)
{
	*m = (struct init_configure_msg){
		.h = { INIT_MAGIC, INIT_CONFIGURE },
		.n_layers = (uint32_t)c->n_layers,
		.cpus = c->cpus,
		.pids_max = c->pids_max,
		.memory_bytes = c->memory_bytes,
		.no_cgroup_view = c->no_cgroup_view,
	};
	if (c->n_layers == 0 || c->n_layers > TEMPLATE_MAX_LAYERS || strlen(c->slot) >= sizeof(m->slot) ||
	    strlen(c->hostname) >= sizeof(m->hostname))
		return -EINVAL;
	(void)snprintf(m->slot, sizeof(m->slot), "%s", c->slot);
	(void)snprintf(m->hostname, sizeof(m->hostname), "%s", c->hostname);
	for (size_t i = 0; i < c->n_layers; i++) {
		if (strlen(c->layers[i]) >= sizeof(m->layers[i]))
			return -ENAMETOOLONG;
		(void)snprintf(m->layers[i], sizeof(m->layers[i]), "%s", c->layers[i]);
	}
	return 0;
}

/* first: what it is told, or NULL and its reports. */
static int connect_init(struct uv_loop_s *loop, int ctl_sock, int reports, const struct init_configure_msg *first,
			const struct init_events *ev, struct init **ret, struct err *e)
{
	_cleanup_close_ int sock = ctl_sock, pipe_end = reports;
	_cleanup_free_ struct init *i = calloc(1, sizeof(*i));
	int r;

	if (!i)
		return err_errno(e, ENOMEM, "the init's connection");
	r = fd_set_nonblock(sock, true);
	if (r >= 0 && first)
		r = fd_send_msg(sock, first, sizeof(*first), NULL, 0);
	if (r < 0)
		return err_errno(e, -r, "configuring the sandbox's init");
	r = uv_poll_init(loop, &i->poll, sock);
	if (r < 0)
		return err_errno(e, -r, "watching the init's socket");
	i->sock = TAKE_FD(sock);
	i->reports = -1;
	i->ready = !first;
	i->ev = *ev;
	i->poll.data = i;
	(void)uv_timer_init(loop, &i->retry);
	i->retry.data = i;
	i->handles = 2;
	watch_socket(i, false);
	if (!first)
		r = hear_reports(i, TAKE_FD(pipe_end));
	if (r < 0) {
		init_free(TAKE_PTR(i));
		return err_errno(e, -r, "listening to the sandbox's init");
	}
	*ret = TAKE_PTR(i);
	return 0;
}

int init_connect(struct uv_loop_s *loop, int ctl_sock, const struct init_config *c, const struct init_events *ev,
		 struct init **ret, struct err *e)
{
	struct init_configure_msg m;
	int r = fill_configure(c, &m);

	if (r < 0) {
		closep(&ctl_sock);
		return err_errno(e, -r, "the sandbox's configuration");
	}
	return connect_init(loop, ctl_sock, -1, &m, ev, ret, e);
}

int init_adopt(struct uv_loop_s *loop, int ctl_sock, int reports, const struct init_events *ev, struct init **ret,
	       struct err *e)
{
	return connect_init(loop, ctl_sock, reports, NULL, ev, ret, e);
}

static int build_spec(const struct init_exec *x, struct init_exec_msg *m, struct buf *b)
{
	int r = 0;

	for (; x->argv[m->n_argv] && r >= 0; m->n_argv++)
		r = buf_add(b, x->argv[m->n_argv], strlen(x->argv[m->n_argv]) + 1);
	for (; r >= 0 && x->env[m->n_env]; m->n_env++)
		r = buf_add(b, x->env[m->n_env], strlen(x->env[m->n_env]) + 1);
	if (r >= 0)
		r = buf_add(b, x->cwd, strlen(x->cwd) + 1);
	m->spec_len = (uint32_t)b->len;
	return r;
}

static int send_to(struct init *i, const void *m, size_t n, const int *fds, size_t n_fds, struct err *e)
{
	int r = i->lost || i->broken ? -EPIPE : i->waiting ? -EAGAIN : fd_send_msg(i->sock, m, n, fds, n_fds);

	i->unasked = 0;
	if (r == -EAGAIN || r == -ETOOMANYREFS) {
		r = put_by(i, m, n, fds, n_fds);
		if (r == 0)
			flush(i);
	}
	if (r == -EAGAIN)
		return err_set(e, ERR_BUSY, EAGAIN, NULL, "the sandbox's init does not keep up; try again");
	if (r < 0)
		socket_failed(i, r);
	if (r < 0)
		return err_set(e, ERR_NOT_READY, -r, "sandbox_not_ready", "the sandbox is ending");
	return 0;
}

static int start_inline(struct init *i, const struct init_exec *x, const struct init_exec_msg *m,
			const struct buf *spec, struct err *e)
{
	struct init_exec_inline whole;

	whole.m = *m;
	memcpy(whole.spec, spec->p, spec->len);
	return send_to(i, &whole, sizeof(whole.m) + spec->len, x->stdio, 3, e);
}

int init_start(struct init *i, const struct init_exec *x, struct err *e)
{
	struct init_exec_msg m = {
		.h = { INIT_MAGIC, INIT_EXEC }, .id = x->id, .pty = x->pty, .tell_start = x->tell_start
	};
	_cleanup_buf_ struct buf spec = BUF_INIT(INIT_MAX_SPEC);
	_cleanup_close_ int mem = -1;
	int r = build_spec(x, &m, &spec);

	if (r == -EMSGSIZE)
		return err_set(e, ERR_TOO_LARGE, E2BIG, "payload_too_large",
			       "command and environment are longer than %u bytes", INIT_MAX_SPEC);
	if (r >= 0 && spec.len <= INIT_SPEC_INLINE)
		return start_inline(i, x, &m, &spec, e);
	if (r >= 0) {
		mem = fd_memfile("exec", spec.p, spec.len);
		r = mem;
	}
	if (r < 0)
		return err_errno(e, -r, "preparing the command");
	return send_to(i, &m, sizeof(m), (int[]){ mem, x->stdio[0], x->stdio[1], x->stdio[2] }, 4, e);
}

int init_signal(struct init *i, uint64_t exec_id, int sig, bool tree)
{
	const struct init_signal_msg m = { .h = { INIT_MAGIC, INIT_SIGNAL }, .id = exec_id, .sig = sig, .tree = tree };

	return send_to(i, &m, sizeof(m), NULL, 0, NULL);
}

int init_recall(struct init *i, uint64_t exec_id)
{
	const struct init_recall_msg m = { .h = { INIT_MAGIC, INIT_RECALL }, .id = exec_id };

	return send_to(i, &m, sizeof(m), NULL, 0, NULL);
}

static void on_closed(uv_handle_t *h)
{
	struct init *i = h->data;

	if (--i->handles == 0)
		free(i);
}

void init_free(struct init *i)
{
	struct waiting *w;

	if (!i)
		return;
	i->lost = true;
	(void)uv_poll_stop(&i->poll);
	if (i->reports >= 0)
		uv_close((uv_handle_t *)&i->reports_poll, on_closed);
	uv_close((uv_handle_t *)&i->poll, on_closed);
	uv_close((uv_handle_t *)&i->retry, on_closed);
	while ((w = i->waiting)) {
		i->waiting = w->next;
		waiting_free(w);
	}
	closep(&i->reports);
	closep(&i->sock);
}
