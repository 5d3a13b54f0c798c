/* Theory of operation.
 *
 * libmicrohttpd parses and sends; it runs without a thread on an epoll fd of its own, which is one uv_poll
 * in our loop. MHD_run is called when that fd is ready, when libmicrohttpd's earliest timeout is due, and,
 * from a uv_prepare, before the loop sleeps after a connection was resumed. It is never called from
 * inside a reply: that may be deep in another module's stack, and MHD_run may call any handler.
 *
 * libmicrohttpd calls on_access at least twice a request: after the headers (here the route, the token and
 * the length are checked), for each piece of body, and at the end, where the handler runs. A handler that
 * has not answered when it returns leaves its connection suspended; the answer resumes it, and on_access
 * is called once more to queue it. A response can be queued in the first and the last of these calls only,
 * so an answer given while a body arrives waits until the rest was discarded.
 *
 * A refusal that comes before a large body is queued at once, and the connection then closed. Closing a
 * socket with input unread makes the kernel send a reset, which can destroy the answer on its way, so a
 * duplicate of the socket is kept open for a moment and what the client still sends is thrown away.
 *
 * libmicrohttpd does not look at suspended connections, so while one is, its socket is also watched here
 * for EPOLLRDHUP. Only that: bytes of a pipelined next request stay where they are. A client that shuts
 * down its sending side while it waits counts as gone, as with most servers.
 *
 * While a body comes in pieces that watch is on as well, see expect_more.
 *
 * A handler that can't take all of a piece of body (req_hold) has its connection suspended as well; what it left
 * stays in libmicrohttpd's buffer, the socket is not read, and TCP holds the client back.
 *
 * The X-Request-Id is always ours; a client's is ignored. OPTIONS is a method like others (405). */

#include "api/conns.h"
#include "api/inject.h"
#include "api/req.h"
#include "api/subreq.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"

#define CONNECTION_MEMORY 65536
#define CONNECTION_MEMORY_STEP 8192
#define DEFAULT_CONNECTIONS 1024
#define DEFAULT_IDLE_S 30
#define STREAM_IDLE_S 3600	       /* a reader may pause a stream this long */
#define DRAIN_KEEP_ALIVE (64u << 10)   /* a refused body up to this size is read, so the connection lives */
#define DRAIN_CHUNKED_MAX (256u << 20) /* a refused body without a known end is cut off here */
#define DRAIN_SOCKETS 64
#define DRAIN_MS 5000
#define DRAIN_BYTES (64u << 20)

struct drain {
	struct drain *prev, *next;
	struct http *http;
	uv_poll_t poll;
	uv_timer_t timer;
	int fd;
	uint64_t left;
	unsigned int handles;
};

void http_hold(struct http *h)
{
	h->handles++;
}

void http_release(struct http *h)
{
	if (--h->handles == 0)
		free(h);
}

static void on_handle_closed(uv_handle_t *handle)
{
	http_release(handle->data);
}

/* ---- closing with input unread ---- */

static void on_drains_closed(uv_handle_t *handle)
{
	struct drain *l = handle->data;
	struct http *h = l->http;

	if (--l->handles > 0)
		return;
	free(l);
	http_release(h);
}

static void drain_end(struct drain *l)
{
	if (uv_is_closing((uv_handle_t *)&l->poll))
		return;
	DL_DELETE(l->http->drains, l);
	l->http->n_drains--;
	uv_close((uv_handle_t *)&l->poll, on_drains_closed);
	uv_close((uv_handle_t *)&l->timer, on_drains_closed);
	closep(&l->fd);
}

static void on_drains_readable(uv_poll_t *poll, int status, int events _unused_)
{
	static char scratch[65536];
	struct drain *l = poll->data;
	ssize_t n = status < 0 ? 0 : recv(l->fd, scratch, sizeof(scratch), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || (uint64_t)n >= l->left) {
		drain_end(l);
		return;
	}
	l->left -= (uint64_t)n;
}

static void on_drains_timeout(uv_timer_t *timer)
{
	drain_end(timer->data);
}

/* Takes fd, a duplicate of a connection that libmicrohttpd is about to close. */
static void drain_start(struct http *h, int fd)
{
	struct drain *l = h->dying || h->n_drains >= DRAIN_SOCKETS ? NULL : calloc(1, sizeof(*l));

	if (!l) {
		(void)close(fd);
		return;
	}
	l->http = h;
	l->left = DRAIN_BYTES;
	l->fd = fd;
	if (uv_poll_init(h->loop, &l->poll, fd) < 0) {
		(void)close(fd);
		free(l);
		return;
	}
	(void)uv_timer_init(h->loop, &l->timer);
	l->poll.data = l;
	l->timer.data = l;
	l->handles = 2;
	h->handles++;
	h->n_drains++;
	DL_APPEND(h->drains, l);
	(void)uv_poll_start(&l->poll, UV_READABLE, on_drains_readable);
	(void)uv_timer_start(&l->timer, on_drains_timeout, DRAIN_MS, 0);
}

/* ---- one request ---- */

int req_fd(const struct req *r)
{
	const union MHD_ConnectionInfo *info =
		r->conn ? MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CONNECTION_FD) : NULL;

	return info ? info->connect_fd : -1;
}

static void on_watch_closed(uv_handle_t *handle)
{
	struct req *r = handle->data;
	struct http *h = r->http;

	free(r);
	http_release(h);
}

static void req_free(struct req *r)
{
	DL_DELETE(r->http->reqs, r);
	req_free_contents(r);
	if (r->watch_made)
		uv_close((uv_handle_t *)&r->watch, on_watch_closed);
	else
		free(r);
}

static void req_tell_gone(struct req *r)
{
	void (*fn)(void *arg) = TAKE_PTR(r->gone_fn);

	r->gone = true;
	if (fn)
		fn(r->gone_arg);
}

/* Makes libmicrohttpd read the socket again. */
static void req_nudge(struct req *r)
{
	MHD_suspend_connection(r->conn);
	MHD_resume_connection(r->conn);
	r->http->dirty = true;
}

/* The event may be of a connection that had this descriptor's number before (libuv 1.48 with io_uring). */
static bool peer_is_gone(const struct req *r)
{
	struct pollfd p = { .fd = req_fd(r), .events = POLLRDHUP };

	return poll(&p, 1, 0) == 1;
}

static void on_peer_gone(uv_poll_t *watch, int status, int events _unused_)
{
	struct req *r = watch->data;

	if (status == 0 && !peer_is_gone(r))
		return;
	(void)uv_poll_stop(watch);
	r->half_shut = true;
	if (r->suspended && !r->holding) {
		req_tell_gone(r);
		req_resume(r);
	} else if (!r->suspended && !r->body_over) {
		req_nudge(r);
	}
}

static void watch_peer(struct req *r)
{
	if (!r->watch_made && uv_poll_init(r->http->loop, &r->watch, req_fd(r)) == 0) {
		r->watch_made = true;
		r->watch.data = r;
		r->http->handles++;
	}
	if (!r->watch_made || uv_poll_start(&r->watch, UV_DISCONNECT, on_peer_gone) < 0)
		log_warn("%s: the client can't be watched while it waits", r->id);
}

static void req_suspend(struct req *r)
{
	MHD_suspend_connection(r->conn);
	r->suspended = true;
	watch_peer(r);
}

void req_resume(struct req *r)
{
	if (!r->suspended)
		return;
	r->suspended = false;
	/* The watch of an upload goes on until the body is in. */
	if (r->watch_made && !r->holding)
		(void)uv_poll_stop(&r->watch);
	r->holding = false;
	MHD_resume_connection(r->conn);
	r->http->dirty = true;
}

void req_wake(struct req *r)
{
	if (r->sub)
		subreq_wake(r);
	else if (r->in_pull)
		r->woken = true;
	else
		req_resume(r);
}

ssize_t req_pull(void *cls, uint64_t pos _unused_, char *p, size_t cap)
{
	struct req *r = cls;
	int one = 1;
	ssize_t n = 0;

	if (r->gone || r->http->dying || inject_breaks_stream(r))
		return MHD_CONTENT_READER_END_WITH_ERROR;
	r->in_pull = true;
	do {
		r->woken = false;
		n = r->pull(r->pull_arg, p, cap);
	} while (n == 0 && r->woken);
	r->in_pull = false;
	if (n > 0) {
		r->out_bytes += (uint64_t)n;
		return n;
	}
	if (n < 0)
		return n == -1 ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
	/* The headers went out with MSG_MORE, for there might have been a body at once: tcp(7) says that
	 * setting this option sends what is held back. */
	(void)setsockopt(req_fd(r), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	req_suspend(r);
	return 0;
}

static void set_idle_timeout(struct req *r, unsigned int s)
{
	(void)MHD_set_connection_option(r->conn, MHD_CONNECTION_OPTION_TIMEOUT, s);
}

/* Queues the answer that was given; MHD_NO closes the connection. */
static enum MHD_Result req_queue(struct req *r)
{
	enum MHD_Result ok;

	if (r->broken || r->gone || !r->resp || inject_breaks_answer(r))
		return MHD_NO;
	ok = MHD_queue_response(r->conn, r->status, r->resp);
	MHD_destroy_response(TAKE_PTR(r->resp));
	if (r->pull) {
		set_idle_timeout(r, STREAM_IDLE_S);
		r->long_timeout = true;
	}
	return ok;
}

/* True if a refusal should not wait for the body: it is large, has no known end, or waits for a 100. */
static bool body_is_costly(const struct req *r)
{
	const char *length = req_header(r, "Content-Length");
	uint64_t n;

	return req_header(r, "Transfer-Encoding") || req_header(r, "Expect") ||
	       (length && text_parse_u64(length, 0, DRAIN_KEEP_ALIVE, &n) < 0);
}

static enum MHD_Result req_headers(struct req *r, const char *version)
{

	r->started = true;
	if (req_check(r, version)) {
		r->body = BUF_INIT(r->route->body_max);
		if (!inject_begin(r))
			return MHD_NO;
		if (r->status == 0 && r->route->begin && !inject_answers(r))
			r->route->begin(r);
	}
	if (r->status == 0 || !body_is_costly(r))
		return MHD_YES;
	r->drain_fd = fcntl(req_fd(r), F_DUPFD_CLOEXEC, 0);
	return req_queue(r);
}

static void refuse_large(struct req *r)
{
	struct err e;

	(void)err_set(&e, ERR_TOO_LARGE, EMSGSIZE, "payload_too_large", "the body is larger than %zu bytes",
		      r->route->body_max);
	req_reply_err(r, &e);
}

void req_hold(struct req *r, size_t left)
{
	r->held = left;
}

/* Suspends until req_wake. A client that shuts down its sending side meanwhile is not gone: it may have sent
 * everything. */
static void hold_upload(struct req *r)
{
	MHD_suspend_connection(r->conn);
	r->suspended = r->holding = true;
}

/* A body that comes in pieces may stop coming. libmicrohttpd's epoll is edge-triggered, and after a short read
 * it waits for the next edge: when the client's end came together with its last bytes, there is none, and an
 * upload that was given up would be kept until the time-out. So the socket is watched for the end, and read
 * again once it was seen. */
static void expect_more(struct req *r)
{
	if (r->half_shut)
		req_nudge(r);
	else if (!r->watch_made)
		watch_peer(r);
}

static enum MHD_Result req_upload(struct req *r, const char *p, size_t n, size_t *ret_left)
{
	size_t max = r->route ? r->route->body_max : 0;

	r->body_seen += n;
	if (r->status != 0 || !r->route || inject_answers(r) || (max == 0 && !r->route->data))
		return r->sized || r->body_seen <= DRAIN_CHUNKED_MAX ? MHD_YES : MHD_NO;
	if (max > 0 && r->body_seen > max) {
		buf_free(&r->body);
		refuse_large(r);
		return MHD_YES;
	}
	if (!r->route->data)
		return buf_add(&r->body, p, n) < 0 ? MHD_NO : MHD_YES;
	r->held = 0;
	r->route->data(r, p, n);
	*ret_left = r->status == 0 ? r->held : 0;
	r->body_seen -= *ret_left;
	if (*ret_left > 0)
		hold_upload(r);
	else if (r->body_seen < r->body_size)
		expect_more(r);
	return MHD_YES;
}

static enum MHD_Result req_finish(struct req *r)
{
	if (r->gone)
		return MHD_NO;
	if (!r->body_over && r->watch_made)
		(void)uv_poll_stop(&r->watch);
	r->body_over = true;
	conns_set_busy(r->conn, true);
	if (r->status == 0 && !r->handled && !inject_waits(r)) {
		r->handled = true;
		if (inject_answers(r))
			inject_answer(r);
		else
			r->route->handle(r);
	}
	if (r->status != 0 || r->broken)
		return req_queue(r);
	req_suspend(r);
	return MHD_YES;
}

/* ---- libmicrohttpd's callbacks ---- */

static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
	struct listener *l = cls;
	struct req *r = calloc(1, sizeof(*r));
	char ulid[TEXT_ULID_SIZE];

	if (!r)
		return NULL;
	r->http = l->http;
	r->conn = conn;
	r->drain_fd = -1;
	r->start_us = clock_mono_us();
	text_ulid(clock_real_ms(), ulid);
	(void)text_format(r->id, sizeof(r->id), "req_%s", ulid);
	r->uri_at = uri;
	r->uri_len = uri ? strlen(uri) : 0;
	r->uri = strdup(uri ? uri : "");
	r->uri_raw = strndup(uri ? uri : "", uri ? strcspn(uri, "?") : 0);
	DL_APPEND(l->http->reqs, r);
	return r;
}

static enum MHD_Result on_access(void *cls _unused_, struct MHD_Connection *conn _unused_, const char *url _unused_,
				 const char *method, const char *version, const char *p, size_t *n, void **req_cls)
{
	struct req *r = *req_cls;
	size_t got = *n;

	if (!r || !r->uri || !r->uri_raw || r->http->dying)
		return MHD_NO;
	r->method = method;
	if (!r->started)
		return req_headers(r, version);
	if (got == 0)
		return req_finish(r);
	*n = 0;
	return req_upload(r, p, got, n);
}

static void on_completed(void *cls _unused_, struct MHD_Connection *conn, void **req_cls,
			 enum MHD_RequestTerminationCode code)
{
	struct req *r = TAKE_PTR(*req_cls);

	conns_set_busy(conn, false);
	if (!r)
		return;
	log_debug("%s %s %u %.1f ms %s", r->method ? r->method : "-", r->uri_raw ? r->uri_raw : "-", r->status,
		  (double)(clock_mono_us() - r->start_us) / 1000, r->id);
	if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK)
		req_tell_gone(r);
	req_journal(r);
	if (r->long_timeout)
		set_idle_timeout(r, r->http->idle_timeout_s);
	if (r->drain_fd >= 0)
		drain_start(r->http, TAKE_FD(r->drain_fd));
	req_free(r);
}

/* Escapes are decoded by router.c. */
static size_t on_unescape(void *cls _unused_, struct MHD_Connection *conn _unused_, char *s)
{
	return strlen(s);
}

static void on_log(void *cls _unused_, const char *fmt, va_list ap) _printf_(2, 0);
static void on_log(void *cls _unused_, const char *fmt, va_list ap)
{
	char line[512];

	(void)vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	log_debug("http: %s", line);
}

/* ---- the loop ---- */

static void on_timer(uv_timer_t *timer);

static void http_run(struct http *h)
{
	uint64_t wait = UINT64_MAX;
	int turns = 0;

	if (h->running || h->dying)
		return;
	h->running = true;
	do {
		h->dirty = false;
		for (size_t i = 0; i < h->n_listeners; i++)
			(void)MHD_run(h->listeners[i].daemon);
	} while (h->dirty && ++turns < 8);
	h->running = false;
	for (size_t i = 0; i < h->n_listeners; i++) {
		MHD_UNSIGNED_LONG_LONG ms;

		if (MHD_get_timeout(h->listeners[i].daemon, &ms) == MHD_YES)
			wait = MIN(wait, (uint64_t)ms);
	}
	if (h->dirty)
		wait = 0;
	(void)uv_timer_stop(&h->timer);
	if (wait != UINT64_MAX)
		(void)uv_timer_start(&h->timer, on_timer, wait, 0);
}

static void on_timer(uv_timer_t *timer)
{
	http_run(timer->data);
}

static void on_prepare(uv_prepare_t *prepare)
{
	struct http *h = prepare->data;

	if (h->dirty)
		http_run(h);
}

static void on_epoll(uv_poll_t *poll, int status, int events _unused_)
{
	struct listener *l = poll->data;

	if (status < 0)
		log_error("http: epoll: %s", uv_strerror(status));
	http_run(l->http);
}

/* ---- the server ---- */

/* Suspended and resumed, a connection is read again, and libmicrohttpd sees the end it missed. */
static void on_client_left(void *arg, struct MHD_Connection *conn)
{
	struct http *h = arg;
	struct req *r;

	DL_FOREACH(h->reqs, r)
	if (r->conn == conn && (r->suspended || r->body_over))
		return; /* somebody else's to resume */
	MHD_suspend_connection(conn);
	MHD_resume_connection(conn);
	h->dirty = true;
}

int http_new(const struct http_config *c, struct http **ret, struct err *e)
{
	struct http *h = calloc(1, sizeof(*h));

	if (!h)
		return err_errno(e, ENOMEM, "HTTP server");
	h->loop = c->loop;
	h->api = c->api;
	h->accounts = c->accounts;
	h->limits = c->limits;
	h->fds[0] = c->listen_fd;
	h->fds[1] = c->unix_fd;
	h->max_connections = c->max_connections ? c->max_connections : DEFAULT_CONNECTIONS;
	h->idle_timeout_s = c->idle_timeout_s ? c->idle_timeout_s : DEFAULT_IDLE_S;
	h->handles = 1; /* http_free's */
	*ret = h;
	return 0;
}

void http_add_routes(struct http *h, const struct route *routes, size_t n)
{
	if (h->n_tables == HTTP_MAX_TABLES)
		abort(); /* fixed when the program was written */
	h->tables[h->n_tables].routes = routes;
	h->tables[h->n_tables++].n = n;
}

static int start_listener(struct http *h, int fd, struct err *e)
{
	struct listener *l = &h->listeners[h->n_listeners];
	const union MHD_DaemonInfo *info;
	int r;

	r = fd_set_nonblock(fd, true);
	if (r < 0)
		return err_errno(e, -r, "HTTP server");
	l->http = h;
	l->daemon =
		MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_access,
				 l, MHD_OPTION_EXTERNAL_LOGGER, on_log, h, MHD_OPTION_LISTEN_SOCKET, fd,
				 MHD_OPTION_CONNECTION_LIMIT, h->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
				 (size_t)CONNECTION_MEMORY, MHD_OPTION_CONNECTION_MEMORY_INCREMENT,
				 (size_t)CONNECTION_MEMORY_STEP, MHD_OPTION_CONNECTION_TIMEOUT, h->idle_timeout_s,
				 MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL, MHD_OPTION_URI_LOG_CALLBACK, on_uri,
				 l, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
				 conns_notify, &h->conns, MHD_OPTION_END);
	if (!l->daemon)
		return err_set(e, ERR_INTERNAL, errno, NULL, "the HTTP server can't start");
	info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	r = info ? uv_poll_init(h->loop, &l->poll, info->epoll_fd) : UV_EINVAL;
	if (r < 0) {
		MHD_stop_daemon(TAKE_PTR(l->daemon));
		return err_set(e, ERR_INTERNAL, -r, NULL, "the HTTP server can't be watched");
	}
	l->poll.data = l;
	h->handles++;
	h->n_listeners++;
	(void)uv_poll_start(&l->poll, UV_READABLE, on_epoll);
	return 0;
}

int http_start(struct http *h, struct err *e)
{
	(void)uv_prepare_init(h->loop, &h->prepare);
	(void)uv_timer_init(h->loop, &h->timer);
	(void)conns_init(&h->conns, h->loop, on_client_left, h);
	h->prepare.data = h;
	h->timer.data = h;
	h->handles += 3;
	(void)uv_prepare_start(&h->prepare, on_prepare);
	for (size_t i = 0; i < HTTP_MAX_LISTENERS; i++) {
		int r = h->fds[i] < 0 ? 0 : start_listener(h, h->fds[i], e);

		if (r < 0)
			return r;
		h->fds[i] = -1;
	}
	http_run(h);
	return 0;
}

void http_stop_listening(struct http *h)
{
	for (size_t i = 0; i < h->n_listeners && !h->quiesced; i++) {
		int fd = MHD_quiesce_daemon(h->listeners[i].daemon);

		if (fd >= 0)
			(void)close(fd);
	}
	h->quiesced = true;
}

void http_free(struct http *h)
{
	if (!h)
		return;
	h->dying = true;
	/* A daemon must not be stopped while a connection is suspended. */
	for (struct req *r = h->reqs; r; r = r->next) {
		req_tell_gone(r);
		req_resume(r);
	}
	for (size_t i = 0; i < h->n_listeners; i++) {
		uv_close((uv_handle_t *)&h->listeners[i].poll, on_handle_closed);
		h->listeners[i].poll.data = h;
		MHD_stop_daemon(h->listeners[i].daemon);
	}
	while (h->drains)
		drain_end(h->drains);
	for (size_t i = 0; i < HTTP_MAX_LISTENERS; i++)
		closep(&h->fds[i]);
	if (h->prepare.data) {
		uv_close((uv_handle_t *)&h->prepare, on_handle_closed);
		uv_close((uv_handle_t *)&h->timer, on_handle_closed);
		h->conns.timer.data = h;
		uv_close((uv_handle_t *)&h->conns.timer, on_handle_closed);
	}
	http_release(h);
}
