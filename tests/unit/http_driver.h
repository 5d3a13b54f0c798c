#pragma once
/* For test_http.c: a server with a route table of its own, in a child process, and a client on raw sockets.
 * The server ends on SIGTERM and exits 0 only if its loop closed without a handle left and no fd was leaked. */

#include "api/req.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "api/errors.h"
#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "tests/unit/slow.h"

#define IDLE_S 2

/* The real one is emulator/account.c; only what a token may do matters here. */
int accounts_find(const struct accounts *a _unused_, const char *token, struct account *ret, struct err *e)
{
	if (strcmp(token, "expired") == 0)
		return err_set(e, ERR_DENIED, EACCES, "key_expired", "the key has expired");
	if (strcmp(token, "rw") != 0 && strcmp(token, "r") != 0)
		return err_set(e, ERR_DENIED, EACCES, "unauthorized", "no such key");
	*ret = (struct account){ .id = "acc_1", .scopes = strcmp(token, "rw") == 0 ? 3 : SCOPE_READ };
	return 0;
}

/* ---- the server's routes ---- */

static struct {
	int gone, freed, streams_freed, begun, pieces;
} counts;

static void reply_text(struct req *r, const char *s)
{
	req_reply_bytes(r, 200, "text/plain", s, strlen(s));
}

static void h_ping(struct req *r)
{
	reply_text(r, "pong");
}

static void h_echo(struct req *r)
{
	req_reply_bytes(r, 200, "application/octet-stream", req_body(r)->p, req_body(r)->len);
}

static void h_json(struct req *r)
{
	struct json_object *o = req_json(r);

	if (o)
		req_reply_json(r, 200, json_object_get(o));
}

static void h_counts(struct req *r)
{
	char s[128];

	(void)text_format(s, sizeof(s), "gone=%d freed=%d streams=%d begun=%d pieces=%d", counts.gone, counts.freed,
			  counts.streams_freed, counts.begun, counts.pieces);
	reply_text(r, s);
}

static void on_gone(void *arg _unused_)
{
	counts.gone++;
}

static void on_data_freed(void *p)
{
	counts.freed++;
	free(p);
}

static void h_hang(struct req *r)
{
	req_set_data(r, malloc(100), on_data_freed);
	req_on_gone(r, on_gone, NULL);
}

/* An answer, or a stream of n lines, after ms each. */
struct slow {
	uv_timer_t timer;
	struct req *req;
	int ms, left, ready;
	bool stream, over;
};

static void on_slow_closed(uv_handle_t *h)
{
	free(h->data);
}

static void slow_end(struct slow *s)
{
	if (!uv_is_closing((uv_handle_t *)&s->timer))
		uv_close((uv_handle_t *)&s->timer, on_slow_closed);
}

static void on_slow_gone(void *arg)
{
	struct slow *s = arg;

	counts.gone++;
	if (!s->stream)
		slow_end(s);
}

static void on_slow_timer(uv_timer_t *t)
{
	struct slow *s = t->data;

	if (!s->stream) {
		reply_text(s->req, "slow");
		slow_end(s);
		return;
	}
	s->ready++;
	if (s->ready == s->left)
		(void)uv_timer_stop(t);
	req_wake(s->req);
}

static ssize_t on_slow_pull(void *arg, char *p, size_t cap)
{
	struct slow *s = arg;

	if (s->left == 0)
		return -1;
	if (s->ready == 0)
		return 0;
	s->ready--;
	s->left--;
	return snprintf(p, cap, "line %d\n", s->left);
}

static void on_slow_over(void *arg)
{
	counts.streams_freed++;
	slow_end(arg);
}

static int query_int(const struct req *r, const char *name, int otherwise)
{
	uint64_t n;

	return req_query(r, name) && text_parse_u64(req_query(r, name), 0, 1 << 30, &n) == 0 ? (int)n : otherwise;
}

static void slow_start(struct req *r, bool stream)
{
	struct slow *s = calloc(1, sizeof(*s));

	*s = (struct slow){ .req = r, .ms = query_int(r, "ms", 50), .left = query_int(r, "n", 3), .stream = stream };
	(void)uv_timer_init(req_loop(r), &s->timer);
	s->timer.data = s;
	req_on_gone(r, on_slow_gone, s);
	(void)uv_timer_start(&s->timer, on_slow_timer, (uint64_t)s->ms, (uint64_t)s->ms);
	if (stream)
		req_reply_stream(r, 200, "text/plain", on_slow_pull, on_slow_over, s);
}

static void h_slow(struct req *r)
{
	slow_start(r, false);
}

static void h_stream(struct req *r)
{
	slow_start(r, true);
}

/* As many bytes as the reader takes, then the end, or a break. */
struct flood {
	long left;
	bool cut;
};

static ssize_t on_flood_pull(void *arg, char *p, size_t cap)
{
	struct flood *f = arg;
	size_t n = MIN(cap, (size_t)f->left);

	if (n == 0)
		return f->cut ? -2 : -1;
	memset(p, 'f', n);
	f->left -= (long)n;
	return (ssize_t)n;
}

static void on_flood_over(void *arg)
{
	counts.streams_freed++;
	free(arg);
}

static void h_flood(struct req *r)
{
	struct flood *f = calloc(1, sizeof(*f));

	f->left = query_int(r, "n", 1);
	f->cut = req_query(r, "cut") != NULL;
	req_on_gone(r, on_gone, NULL);
	req_reply_stream(r, 200, "text/plain", on_flood_pull, on_flood_over, f);
}

static void h_bytes(struct req *r)
{
	size_t n = (size_t)query_int(r, "n", 0);
	char *p = malloc(n + 1);

	memset(p, 'b', n);
	req_reply_bytes(r, 200, "application/octet-stream", p, n);
	free(p);
}

static void h_fd(struct req *r)
{
	int fd = fd_memfile("test", "0123456789", 10);

	req_reply_fd(r, 206, "text/plain", fd, (uint64_t)query_int(r, "from", 0), (uint64_t)query_int(r, "n", 10));
}

static void h_param(struct req *r)
{
	req_divergence(r, "one");
	req_divergence(r, "two");
	req_divergence(r, "one");
	req_add_header(r, "X-Extra", "yes");
	reply_text(r, req_param(r, "id"));
}

static void h_path(struct req *r)
{
	reply_text(r, req_query(r, "path") ? req_query(r, "path") : "(none)");
}

static void h_fixed(struct req *r)
{
	reply_text(r, "the literal");
}

static void h_account(struct req *r)
{
	reply_text(r, req_account(r)->id);
}

static void h_empty(struct req *r)
{
	req_reply_empty(r, 204);
}

static void h_twice(struct req *r)
{
	reply_text(r, "first");
	req_reply_json(r, 500, json_object_new_object());
}

static void h_internal(struct req *r)
{
	struct err e;

	(void)err_errno(&e, EACCES, "open /var/lib/secret/path");
	req_reply_err(r, &e);
}

static void h_error(struct req *r)
{
	struct err e;
	struct json_object *extra = json_object_new_object();

	json_object_object_add(extra, "stdout", json_object_new_string("so far"));
	(void)err_set(&e, ERR_TIMEOUT, ETIMEDOUT, "exec_timeout", "bad bytes \xff \"quoted\"");
	req_reply_err_with(r, &e, extra);
}

static void h_invalid(struct req *r)
{
	req_reply_invalid(r, "query", "limit", "int_parsing", "Input should be %d", 7);
}

static void upload_begin(struct req *r)
{
	struct err e;

	counts.begun++;
	counts.pieces = 0;
	req_set_data(r, calloc(1, sizeof(uint64_t)), on_data_freed);
	if (!req_header(r, "X-Refuse"))
		return;
	(void)err_set(&e, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "refused before the body");
	req_reply_err(r, &e);
}

static void upload_data(struct req *r, const char *p _unused_, size_t n)
{
	uint64_t *seen = req_data(r);
	struct err e;

	counts.pieces++;
	*seen += n;
	if (*seen <= (uint64_t)query_int(r, "fail_at", 1 << 30))
		return;
	(void)err_set(&e, ERR_FULL, ENOSPC, "disk_full", "no space left");
	req_reply_err(r, &e);
}

static void upload_end(struct req *r)
{
	char s[32];

	(void)text_format(s, sizeof(s), "%llu", (unsigned long long)*(uint64_t *)req_data(r));
	reply_text(r, s);
}

static const struct route routes[] = {
	{ "GET", "/ping", 0, 0, h_ping, NULL, NULL },
	{ "POST", "/ping", 0, 0, h_ping, NULL, NULL },
	{ "POST", "/echo", 0, 100000, h_echo, NULL, NULL },
	{ "POST", "/json", 0, 1 << 20, h_json, NULL, NULL },
	{ "GET", "/counts", 0, 0, h_counts, NULL, NULL },
	{ "GET", "/hang", 0, 0, h_hang, NULL, NULL },
	{ "GET", "/slow", 0, 0, h_slow, NULL, NULL },
	{ "GET", "/stream", 0, 0, h_stream, NULL, NULL },
	{ "GET", "/flood", 0, 0, h_flood, NULL, NULL },
	{ "GET", "/bytes", 0, 0, h_bytes, NULL, NULL },
	{ "GET", "/fd", 0, 0, h_fd, NULL, NULL },
	{ "GET", "/param/{id}", 0, 0, h_param, NULL, NULL },
	{ "GET", "/param/fixed", 0, 0, h_fixed, NULL, NULL },
	{ "GET", "/path", 0, 0, h_path, NULL, NULL },
	{ "GET", "/read", SCOPE_READ, 0, h_account, NULL, NULL },
	{ "POST", "/write", SCOPE_WRITE, 1000, h_account, NULL, NULL },
	{ "DELETE", "/empty", 0, 0, h_empty, NULL, NULL },
	{ "GET", "/twice", 0, 0, h_twice, NULL, NULL },
	{ "GET", "/internal", 0, 0, h_internal, NULL, NULL },
	{ "GET", "/error", 0, 0, h_error, NULL, NULL },
	{ "GET", "/invalid", 0, 0, h_invalid, NULL, NULL },
	{ "PUT", "/upload", 0, 0, upload_end, upload_begin, upload_data },
	{ "PUT", "/small-upload", 0, 1000, upload_end, upload_begin, upload_data },
};

/* ---- the server's process ---- */

static struct http *server;
static uint16_t port;
static pid_t server_pid;
static char unix_path[64];

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		(void)closedir(d);
	return n;
}

static void on_term(uv_signal_t *s, int sig)
{
	if (sig == SIGUSR1) {
		http_stop_listening(server);
		return;
	}
	http_free(server);
	for (int i = 0; i < 2; i++)
		uv_close((uv_handle_t *)((uv_signal_t *)s->data + i), NULL);
}

static int serve(int listen_fd, int unix_fd)
{
	struct http_config c = {
		.listen_fd = listen_fd, .unix_fd = unix_fd, .max_connections = 1500, .idle_timeout_s = IDLE_S
	};
	uv_signal_t sig[2];
	uv_loop_t loop;
	struct err e;
	int before;

	log_set_level(LOG_LEVEL_ERROR);
	if (uv_loop_init(&loop) != 0)
		return 10;
	(void)uv_signal_init(&loop, &sig[0]);
	(void)uv_signal_init(&loop, &sig[1]);
	sig[0].data = sig[1].data = sig;
	(void)uv_signal_start(&sig[0], on_term, SIGTERM);
	(void)uv_signal_start(&sig[1], on_term, SIGUSR1);
	before = count_fds() - 2; /* the listeners are the server's to close */
	c.loop = &loop;
	if (http_new(&c, &server, &e) < 0)
		return 11;
	http_add_routes(server, routes, ARRAY_SIZE(routes));
	if (http_start(server, &e) < 0)
		return 12;
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	if (count_fds() != before)
		return 13;
	return uv_loop_close(&loop) == 0 ? 0 : 14;
}

static int listen_tcp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(fd, 1024), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	port = ntohs(a.sin_port);
	return fd;
}

static int listen_unix(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)snprintf(unix_path, sizeof(unix_path), "/tmp/test_http.%d", getpid());
	(void)snprintf(a.sun_path, sizeof(a.sun_path), "%s", unix_path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	cr_assert_eq(listen(fd, 16), 0);
	return fd;
}

static void setup(void)
{
	struct rlimit rl;
	int fd, ufd;

	(void)signal(SIGPIPE, SIG_IGN);
	(void)getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = MIN(rl.rlim_max, (rlim_t)8192);
	(void)setrlimit(RLIMIT_NOFILE, &rl);
	fd = listen_tcp();
	ufd = listen_unix();
	server_pid = fork();
	cr_assert_geq(server_pid, 0);
	if (server_pid == 0)
		exit(serve(fd, ufd));
	(void)close(fd);
	(void)close(ufd);
}

static void teardown(void)
{
	int status = -1;

	(void)unlink(unix_path);
	(void)kill(server_pid, SIGTERM);
	for (uint64_t i = 0; i < slow_ms(500) && waitpid(server_pid, &status, WNOHANG) == 0; i++)
		(void)usleep(10000);
	if (status == -1)
		(void)kill(server_pid, SIGKILL);
	cr_assert(WIFEXITED(status), "the server did not end by itself: %x", (unsigned int)status);
	cr_assert_eq(WEXITSTATUS(status), 0, "the server ended with %d", WEXITSTATUS(status));
}

TestSuite(http, .init = setup, .fini = teardown, .timeout = 60);

/* ---- the client ---- */

struct client {
	int fd;
	struct buf in;
};

struct answer {
	int status;
	char head[4096];
	struct buf body;
	bool closed; /* ended by the end of the connection, before it was complete */
};

static struct client client_new(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons(port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct client c = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .in = BUF_INIT(200u << 20) };

	cr_assert_eq(connect(c.fd, (struct sockaddr *)&a, sizeof(a)), 0);
	return c;
}

static void client_free(struct client *c)
{
	closep(&c->fd);
	buf_free(&c->in);
}

static void say_n(struct client *c, const char *p, size_t n)
{
	(void)fd_write_all(c->fd, p, n);
}

static void say(struct client *c, const char *s)
{
	say_n(c, s, strlen(s));
}

/* Reads some more; false at the end of the connection or after ms (slow.h). */
static bool hear(struct client *c, int ms)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	char *to;
	ssize_t n;

	if (poll(&p, 1, (int)slow_ms((uint64_t)ms)) <= 0)
		return false;
	cr_assert_eq(buf_reserve(&c->in, 65536, &to), 0);
	n = recv(c->fd, to, 65536, 0);
	if (n <= 0)
		return false;
	buf_commit(&c->in, (size_t)n);
	return true;
}

static const char *header(const struct answer *a, const char *name)
{
	static char value[512];
	size_t len = strlen(name);

	for (const char *p = a->head; (p = strstr(p, "\r\n")); p += 2)
		if (strncasecmp(p + 2, name, len) == 0 && p[2 + len] == ':') {
			const char *v = p + 2 + len + 1 + strspn(p + 2 + len + 1, " ");

			(void)snprintf(value, sizeof(value), "%.*s", (int)strcspn(v, "\r"), v);
			return value;
		}
	return NULL;
}

static bool need(struct client *c, size_t n)
{
	while (c->in.len < n)
		if (!hear(c, 10000))
			return false;
	return true;
}

static void read_chunked(struct client *c, struct answer *a)
{
	for (;;) {
		char *eol;
		size_t n;

		while (!c->in.p || !(eol = strstr(c->in.p, "\r\n")))
			if (!hear(c, 10000)) {
				a->closed = true;
				return;
			}
		n = strtoul(c->in.p, NULL, 16);
		buf_consume(&c->in, (size_t)(eol + 2 - c->in.p));
		if (!need(c, n + 2)) {
			a->closed = true;
			return;
		}
		cr_assert_eq(buf_add(&a->body, c->in.p, n), 0);
		buf_consume(&c->in, n + 2);
		if (n == 0)
			return;
	}
}

static struct answer read_head(struct client *c)
{
	struct answer a = { .body = BUF_INIT(200u << 20) };
	char *end;

	while (!c->in.p || !(end = strstr(c->in.p, "\r\n\r\n")))
		if (!hear(c, 10000)) {
			a.closed = true;
			return a;
		}
	(void)snprintf(a.head, sizeof(a.head), "%.*s", (int)(end + 2 - c->in.p), c->in.p);
	buf_consume(&c->in, (size_t)(end + 4 - c->in.p));
	a.status = (int)strtol(a.head + strlen("HTTP/1.1 "), NULL, 10);
	return a;
}

static struct answer read_answer(struct client *c, bool head_only)
{
	struct answer a = read_head(c);
	const char *v;

	if (a.closed || head_only || a.status == 204 || a.status < 200)
		return a;
	v = header(&a, "Transfer-Encoding");
	if (v && strcmp(v, "chunked") == 0) {
		read_chunked(c, &a);
	} else if ((v = header(&a, "Content-Length"))) {
		size_t n = strtoul(v, NULL, 10);

		a.closed = !need(c, n);
		n = MIN(n, c->in.len);
		cr_assert_eq(buf_add(&a.body, c->in.p ? c->in.p : "", n), 0);
		buf_consume(&c->in, n);
	} else {
		while (hear(c, 10000))
			;
		cr_assert_eq(buf_add(&a.body, c->in.p ? c->in.p : "", c->in.len), 0);
		buf_reset(&c->in);
	}
	return a;
}

/* One request on a connection of its own. */
static struct answer ask(const char *fmt, ...) _printf_(1, 2);
static struct answer ask(const char *fmt, ...)
{
	struct client c = client_new();
	struct answer a;
	char s[8192];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(s, sizeof(s), fmt, ap);
	va_end(ap);
	say(&c, s);
	a = read_answer(&c, strncmp(s, "HEAD", 4) == 0);
	client_free(&c);
	return a;
}

#define GET(path) ask("GET " path " HTTP/1.1\r\nHost: x\r\n\r\n")

static void expect(struct answer *a, int status, const char *body)
{
	cr_expect_eq(a->status, status, "status %d instead of %d, body %s", a->status, status, a->body.p);
	cr_expect_not(a->closed);
	if (body)
		cr_expect_str_eq(a->body.p ? a->body.p : "", body);
	buf_free(&a->body);
}

static bool closes(struct client *c, int ms)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	char b[256];

	return poll(&p, 1, (int)slow_ms((uint64_t)ms)) > 0 && recv(c->fd, b, sizeof(b), 0) <= 0;
}

static int count_of(const char *name)
{
	struct answer a = GET("/counts");
	const char *p = strstr(a.body.p, name);
	int n = (int)strtol(p + strlen(name) + 1, NULL, 10);

	buf_free(&a.body);
	return n;
}

static bool becomes(const char *name, int want)
{
	for (uint64_t i = 0; i < slow_ms(100); i++) {
		if (count_of(name) == want)
			return true;
		(void)usleep(20000);
	}
	return false;
}
