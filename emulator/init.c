/* The daemon's end of an init's control socket. What arrives may come from a sandbox that took over its
 * PID 1, so lengths, types, ids and descriptors are all checked, and one wrong message ends it. */

#include "emulator/init.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <utlist.h>
#include <uv.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/proto.h"

#define RETRY_MS 2 /* after ETOOMANYREFS, which no poll tells the end of */

struct waiting { /* a message the socket had no room for */
	struct waiting *next;
	int fds[4];
	size_t n_fds;
	size_t len;
	char m[];
};

struct init {
	uv_poll_t poll;
	uv_timer_t retry;
	unsigned int handles;
	int sock;
	struct init_events ev;
	bool ready, lost;
	struct waiting *waiting;
	unsigned int n_waiting;
};

static void lost(struct init *i, const char *why)
{
	if (i->lost)
		return;
	i->lost = true;
	(void)uv_poll_stop(&i->poll);
	i->ev.lost(i->ev.arg, why);
}

static void on_ready(struct init *i, int fd)
{
	struct stat st;

	if (i->ready || fd < 0 || fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode) || !(fcntl(fd, F_GETFL) & O_PATH)) {
		closep(&fd);
		lost(i, "it sent something that is not its root");
		return;
	}
	i->ready = true;
	i->ev.ready(i->ev.arg, NULL, fd);
}

static void on_failed(struct init *i, const struct init_failed_msg *m)
{
	struct err e;

	if (i->ready || !proto_string_ok(m->text, sizeof(m->text))) {
		lost(i, "it failed twice");
		return;
	}
	i->ready = true;
	err_set(&e, ERR_INTERNAL, m->errnum > 0 ? m->errnum : EIO, "isolation", "isolating the sandbox: %s", m->text);
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

static void on_started(struct init *i, const struct init_started_msg *m)
{
	if (m->pid < 2 || m->pid > 1 << 22) {
		lost(i, "it reported a process that can't be");
		return;
	}
	i->ev.started(i->ev.arg, m->id, m->pid);
}

static void on_exited(struct init *i, const struct init_exited_msg *m)
{
	const struct init_exit x = { .kind = (enum init_exit_kind)m->kind,
				     .value = m->value,
				     .duration_us = m->duration_us,
				     .background = m->background };

	if (m->background < -1 || m->background > 1 << 22 || m->kind < INIT_EXIT_CODE ||
	    m->kind > INIT_EXIT_NOT_STARTED || m->value < 0 || m->value > 4095) {
		lost(i, "it reported an exit that can't be");
		return;
	}
	i->ev.exited(i->ev.arg, m->id, &x);
}

static void receive(struct init *i, int status)
{
	for (int turn = 0; turn < 64 && !i->lost; turn++) {
		union init_msg m;
		int fd = -1;
		size_t n_fds = 0;
		ssize_t n = status < 0 ? status : fd_recv_msg(i->sock, &m, sizeof(m), &fd, 1, &n_fds);

		if (n == -EAGAIN)
			return;
		if (n == -EMFILE && !i->ready) {
			on_starved(i);
			return;
		}
		if (n < (ssize_t)sizeof(m.h) || m.h.magic != INIT_MAGIC) {
			closep(&fd);
			lost(i, n == 0 ? "it ended" : "it sent a message that makes no sense");
			return;
		}
		if (m.h.type == INIT_READY && n == sizeof(m.h) && n_fds == 1) {
			on_ready(i, fd);
			continue;
		}
		closep(&fd);
		if (m.h.type == INIT_FAILED && n == sizeof(m.failed))
			on_failed(i, &m.failed);
		else if (m.h.type == INIT_STARTED && n == sizeof(m.started) && i->ready)
			on_started(i, &m.started);
		else if (m.h.type == INIT_EXITED && n == sizeof(m.exited) && i->ready)
			on_exited(i, &m.exited);
		else
			lost(i, "it sent a message of the wrong kind");
	}
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

/* Sends what waits, in its order, and asks to be called again for the rest. */
static void flush(struct init *i)
{
	int r = 0;

	while (i->waiting && !i->lost) {
		struct waiting *w = i->waiting;

		r = fd_send_msg(i->sock, w->m, w->len, w->fds, w->n_fds);
		if (r == -EAGAIN || r == -ETOOMANYREFS)
			break;
		/* Any other failure is the end of the socket, which reading will find. */
		LL_DELETE(i->waiting, w);
		i->n_waiting--;
		waiting_free(w);
	}
	if (i->lost)
		return;
	if (i->waiting && r == -ETOOMANYREFS)
		(void)uv_timer_start(&i->retry, on_retry, RETRY_MS, 0);
	(void)uv_poll_start(&i->poll, i->waiting && r == -EAGAIN ? UV_READABLE | UV_WRITABLE : UV_READABLE, on_event);
}

static void on_event(uv_poll_t *h, int status, int events)
{
	struct init *i = h->data;

	if (status < 0 || (events & UV_READABLE))
		receive(i, status);
	if (events & UV_WRITABLE)
		flush(i);
}

static void on_retry(uv_timer_t *t)
{
	flush(t->data);
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

/* first (may be NULL): what it is told. */
static int connect_init(struct uv_loop_s *loop, int ctl_sock, const struct init_configure_msg *first,
			const struct init_events *ev, struct init **ret, struct err *e)
{
	_cleanup_close_ int sock = ctl_sock;
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
	i->ready = !first;
	i->ev = *ev;
	i->poll.data = i;
	(void)uv_timer_init(loop, &i->retry);
	i->retry.data = i;
	i->handles = 2;
	(void)uv_poll_start(&i->poll, UV_READABLE, on_event);
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
	return connect_init(loop, ctl_sock, &m, ev, ret, e);
}

int init_adopt(struct uv_loop_s *loop, int ctl_sock, const struct init_events *ev, struct init **ret, struct err *e)
{
	return connect_init(loop, ctl_sock, NULL, ev, ret, e);
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
	int r = i->lost ? -EPIPE : i->waiting ? -EAGAIN : fd_send_msg(i->sock, m, n, fds, n_fds);

	if (r == -EAGAIN || r == -ETOOMANYREFS) {
		r = put_by(i, m, n, fds, n_fds);
		if (r == 0)
			flush(i);
	}
	if (r == -EAGAIN)
		return err_set(e, ERR_BUSY, EAGAIN, NULL, "the sandbox's init does not keep up; try again");
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
	uv_close((uv_handle_t *)&i->poll, on_closed);
	uv_close((uv_handle_t *)&i->retry, on_closed);
	while ((w = i->waiting)) {
		i->waiting = w->next;
		waiting_free(w);
	}
	closep(&i->sock);
}
