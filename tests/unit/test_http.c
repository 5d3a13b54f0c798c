/* The HTTP server, driven over real sockets. The server is a child process with a route table of its own;
 * it ends on SIGTERM and exits 0 only if its loop closed without a handle left and no fd was leaked. */

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
	struct http_config c = { .listen_fd = listen_fd, .unix_fd = unix_fd, .max_connections = 1500, .idle_timeout_s = IDLE_S };
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
	for (int i = 0; i < 500 && waitpid(server_pid, &status, WNOHANG) == 0; i++)
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
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
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

/* Reads some more; false at the end of the connection or after ms. */
static bool hear(struct client *c, int ms)
{
	struct pollfd p = { .fd = c->fd, .events = POLLIN };
	char *to;
	ssize_t n;

	if (poll(&p, 1, ms) <= 0)
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

	return poll(&p, 1, ms) > 0 && recv(c->fd, b, sizeof(b), 0) <= 0;
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
	for (int i = 0; i < 100; i++) {
		if (count_of(name) == want)
			return true;
		(void)usleep(20000);
	}
	return false;
}

/* ---- answers ---- */

Test(http, table)
{
	static const struct {
		const char *request;
		int status;
		const char *body;
	} t[] = {
		{ "GET /ping", 200, "pong" },
		{ "GET /ping?a=%20", 200, "pong" },
		{ "GET /nope", 404, "{\"detail\":\"Not Found\"}" },
		{ "GET /ping/", 404, "{\"detail\":\"Not Found\"}" },
		{ "GET //ping", 404, "{\"detail\":\"Not Found\"}" },
		{ "DELETE /ping", 405, "{\"detail\":\"Method Not Allowed\"}" },
		{ "OPTIONS /ping", 405, "{\"detail\":\"Method Not Allowed\"}" },
		{ "GET /param/a%20b%2Fc", 200, "a b/c" },
		{ "GET /param/fixed", 200, "the literal" },
		{ "GET /path?path=/a%20b%0Ac+d%2B%C3%A4", 200, "/a b\nc d+\xc3\xa4" },
		{ "GET /path?path=%00", 400, NULL },
		{ "GET /path?path=a%zz", 400, NULL },
		{ "GET /param/%00", 400, NULL },
		{ "GET /param/%4", 400, NULL },
		{ "DELETE /empty", 204, "" },
		{ "GET /twice", 200, "first" },
		{ "GET /bytes?n=0", 200, "" },
		{ "GET /fd?from=3&n=4", 206, "3456" },
		{ "GET /fd?n=0", 206, "" },
		{ "GET /error", 408, "{\"detail\":\"bad bytes \xef\xbf\xbd \\\"quoted\\\"\",\"code\":\"exec_timeout\",\"stdout\":\"so far\"}" },
		{ "GET /invalid", 422,
		  "{\"detail\":[{\"loc\":[\"query\",\"limit\"],\"msg\":\"Input should be 7\",\"type\":\"int_parsing\"}],\"code\":\"validation_error\"}" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct answer a = ask("%s HTTP/1.1\r\nHost: x\r\n\r\n", t[i].request);

		cr_expect_not_null(header(&a, "X-Request-Id"), "%s", t[i].request);
		cr_expect_not_null(header(&a, "X-Orkestr-Emulator"), "%s", t[i].request);
		expect(&a, t[i].status, t[i].body);
	}
}

Test(http, headers)
{
	struct answer a = GET("/param/x"), b = ask("PUT /ping HTTP/1.1\r\nHost: x\r\n\r\n"), c = GET("/internal");
	char id[64];

	cr_expect_str_eq(header(&a, "X-Orkestr-Divergence"), "one, two");
	cr_expect_str_eq(header(&a, "X-Extra"), "yes");
	cr_expect_eq(strlen(header(&a, "X-Request-Id")), 30);
	cr_expect_eq(strncmp(header(&a, "X-Request-Id"), "req_", 4), 0);
	expect(&a, 200, "x");
	cr_expect_str_eq(header(&b, "Allow"), "GET, HEAD, POST");
	expect(&b, 405, NULL);
	(void)snprintf(id, sizeof(id), "%s", header(&c, "X-Request-Id"));
	cr_expect_not_null(strstr(c.body.p, id));
	cr_expect_null(strstr(c.body.p, "secret"));
	expect(&c, 500, NULL);
}

Test(http, tokens)
{
	static const struct {
		const char *request, *token;
		int status;
		const char *code;
	} t[] = {
		{ "GET /read", NULL, 401, "unauthorized" },
		{ "GET /read", "Authorization: rw\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Basic rw\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearer\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearerrw\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearer nobody\r\n", 401, "unauthorized" },
		{ "GET /read", "Authorization: Bearer expired\r\n", 401, "key_expired" },
		{ "GET /read", "Authorization: Bearer r\r\n", 200, NULL },
		{ "GET /read", "authorization: bEARER   rw\r\n", 200, NULL },
		{ "POST /write", "Authorization: Bearer r\r\n", 403, "insufficient_scope" },
		{ "POST /write", "Authorization: Bearer rw\r\n", 200, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct answer a = ask("%s HTTP/1.1\r\nHost: x\r\n%s\r\n", t[i].request, t[i].token ? t[i].token : "");

		if (t[i].code)
			cr_expect_not_null(strstr(a.body.p, t[i].code), "row %zu: %s", i, a.body.p);
		cr_expect_eq(header(&a, "WWW-Authenticate") != NULL, t[i].status == 401, "row %zu", i);
		expect(&a, t[i].status, NULL);
	}
}

Test(http, head)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, true);
	cr_expect_str_eq(header(&a, "Content-Length"), "4");
	expect(&a, 200, "");
	a = read_answer(&c, false);
	expect(&a, 200, "pong");
	client_free(&c);
}

Test(http, json)
{
	static const struct {
		const char *body;
		int status;
		const char *want;
	} t[] = {
		{ "", 200, "{}" },
		{ "  \n", 200, "{}" },
		{ "{\"a\":1}", 200, "{\"a\":1}" },
		{ " {\"a\":1} \n", 200, "{\"a\":1}" },
		{ "{\"a\":1,\"a\":2}", 200, "{\"a\":2}" },
		{ "{\"a\":1}x", 422, NULL },
		{ "{\"a\":1}{}", 422, NULL },
		{ "{\"a\":1", 422, NULL },
		{ "{'a':1}", 422, NULL },
		{ "{\"a\":1,}", 422, NULL },
		{ "{a:1}", 422, NULL },
		{ "{/**/}", 422, NULL },
		{ "[]", 422, NULL },
		{ "null", 422, NULL },
		{ "12", 422, NULL },
		{ "\"s\"", 422, NULL },
		{ "{\"a\":\"\xff\"}", 422, NULL },
		{ "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}", 422, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct answer a = ask("POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s", strlen(t[i].body),
				      t[i].body);

		if (t[i].status == 422)
			cr_expect_not_null(strstr(a.body.p, "\"validation_error\""), "%s", t[i].body);
		cr_expect_eq(a.status, t[i].status, "%s: %d %s", t[i].body, a.status, a.body.p);
		expect(&a, t[i].status, t[i].want);
	}
}

Test(http, json_with_a_nul)
{
	struct client c = client_new();
	struct answer a;

	say_n(&c, "POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n{}\0x", 55);
	a = read_answer(&c, false);
	expect(&a, 422, NULL);
	client_free(&c);
}

Test(http, json_of_too_many_values)
{
	struct client c = client_new();
	struct answer a;
	char *s = malloc(200000);

	(void)snprintf(s, 100, "POST /json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{\"a\":[", 6 + 150000 + 2);
	say(&c, s);
	for (int i = 0; i < 150000; i += 2)
		memcpy(s + i, "1,", 2);
	s[149999] = '1';
	say_n(&c, s, 150000);
	say(&c, "]}");
	a = read_answer(&c, false);
	cr_expect_not_null(strstr(a.body.p, "too many values"));
	expect(&a, 422, NULL);
	client_free(&c);
	free(s);
}

/* ---- connections ---- */

Test(http, keep_alive_and_pipelining)
{
	struct client c = client_new();
	struct answer a;

	for (int i = 0; i < 3; i++) {
		say(&c, "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
		a = read_answer(&c, false);
		expect(&a, 200, "pong");
	}
	/* The first waits suspended while the others are already in the socket. */
	say(&c, "GET /slow?ms=50 HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
		"GET /nope HTTP/1.1\r\nHost: x\r\n\r\nGET /stream?n=2&ms=10 HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, false);
	expect(&a, 200, "slow");
	a = read_answer(&c, false);
	expect(&a, 200, "abc");
	a = read_answer(&c, false);
	expect(&a, 404, NULL);
	a = read_answer(&c, false);
	expect(&a, 200, "line 1\nline 0\n");
	a = read_answer(&c, false);
	expect(&a, 200, "pong");
	cr_expect_eq(count_of("gone"), 0);
	client_free(&c);
}

/* A refused request whose small body still arrives leaves the connection usable. */
Test(http, refusal_keeps_the_connection)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345POST /write HTTP/1.1\r\nHost: x\r\n"
		"Content-Length: 5\r\n\r\n12345GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, false);
	expect(&a, 404, NULL);
	a = read_answer(&c, false);
	expect(&a, 401, NULL);
	a = read_answer(&c, false);
	expect(&a, 200, "pong");
	client_free(&c);
}

Test(http, unix_socket)
{
	struct sockaddr_un u = { .sun_family = AF_UNIX };
	struct client c = { .fd = socket(AF_UNIX, SOCK_STREAM, 0), .in = BUF_INIT(1 << 20) };
	struct answer a;

	(void)snprintf(u.sun_path, sizeof(u.sun_path), "%s", unix_path);
	cr_assert_eq(connect(c.fd, (struct sockaddr *)&u, sizeof(u)), 0);
	say(&c, "GET /slow?ms=10 HTTP/1.1\r\nHost: x\r\n\r\nGET /stream?ms=10 HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_answer(&c, false);
	expect(&a, 200, "slow");
	a = read_answer(&c, false);
	expect(&a, 200, "line 2\nline 1\nline 0\n");
	say(&c, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	client_free(&c);
	cr_expect(becomes("gone", 1));
}

Test(http, http_1_0)
{
	struct answer a = ask("GET /stream?ms=10 HTTP/1.0\r\n\r\n");

	cr_expect_null(header(&a, "Transfer-Encoding"));
	expect(&a, 200, "line 2\nline 1\nline 0\n");
	a = ask("GET /ping HTTP/1.0\r\n\r\n");
	expect(&a, 200, "pong");
}

Test(http, half_sent_requests_end)
{
	static const char *const t[] = { "", "GET /pi", "GET /ping HTTP/1.1\r\nHost:",
					 "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345",
					 "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123" };
	struct client c[ARRAY_SIZE(t)];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		c[i] = client_new();
		say(&c[i], t[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cr_expect(closes(&c[i], (IDLE_S + 3) * 1000), "row %zu", i);
		client_free(&c[i]);
	}
}

/* A suspended request outlives the idle time-out, and so does a stream that has nothing to say. */
Test(http, waiting_is_not_idle)
{
	struct answer a = ask("GET /slow?ms=%d HTTP/1.1\r\nHost: x\r\n\r\n", (IDLE_S + 1) * 1000);

	expect(&a, 200, "slow");
	a = ask("GET /stream?n=1&ms=%d HTTP/1.1\r\nHost: x\r\n\r\n", (IDLE_S + 1) * 1000);
	expect(&a, 200, "line 0\n");
}

Test(http, malformed)
{
	static const struct {
		const char *s;
		size_t n;
		int status; /* 0: closed without a word */
	} t[] = {
		{ "\x16\x03\x01\x02\r\n\r\n", 8, 0 },
		{ "GET\r\n\r\n", 7, 0 },
		{ "GET /ping HTTP/9.9\r\n\r\n", 22, 505 },
		{ "GET /pi\0ng HTTP/1.1\r\nHost: x\r\n\r\n", 33, 400 },
		{ "GET /ping?a\0b HTTP/1.1\r\nHost: x\r\n\r\n", 36, 400 },
		{ "GET /ping HTTP/1.1\r\nContent-Length: x\r\n\r\n", 41, 400 },
		{ "GET /ping HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 42, 400 },
		{ "POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 65, 413 },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 49, 400 },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 71, 400 },
		{ "POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 57, 400 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct client c = client_new();
		struct answer a;

		say_n(&c, t[i].s, t[i].n);
		a = read_answer(&c, false);
		cr_expect_eq(a.status, t[i].status, "row %zu: %d", i, a.status);
		buf_free(&a.body);
		client_free(&c);
	}
}

Test(http, header_flood)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "GET /ping HTTP/1.1\r\nHost: x\r\n");
	for (int i = 0; i < 20000; i++)
		say(&c, "X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n");
	say(&c, "\r\n");
	a = read_answer(&c, false);
	/* The reset may win: this client never listens while it floods. */
	cr_expect(a.status == 431 || a.closed, "%d", a.status);
	buf_free(&a.body);
	client_free(&c);
	a = GET("/ping");
	expect(&a, 200, "pong");
}

Test(http, thousand_connections)
{
	enum { N = 1000 };
	struct client *c = calloc(N, sizeof(*c));

	for (int i = 0; i < N; i++) {
		c[i] = client_new();
		say(&c[i], i % 2 ? "GET /slow?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n" : "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	}
	for (int i = 0; i < N; i++) {
		struct answer a = read_answer(&c[i], false);

		expect(&a, 200, i % 2 ? "slow" : "pong");
	}
	for (int i = 0; i < N; i++) {
		if (i % 3 == 0)
			say(&c[i], "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
		client_free(&c[i]);
	}
	free(c);
	cr_expect(becomes("freed", 334));
}

/* ---- bodies ---- */

Test(http, uploads)
{
	struct answer a = ask("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
			      "3\r\nabc\r\n5;ext=1\r\ndefgh\r\n0\r\nTrailer: x\r\n\r\n");
	struct client c;
	char *big = malloc(100001);

	expect(&a, 200, "abcdefgh");
	a = ask("POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nignored!!");
	expect(&a, 200, "pong");
	/* Exactly the limit, byte by byte at the ends. */
	memset(big, 'x', 100001);
	c = client_new();
	say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
	say_n(&c, big, 1);
	(void)usleep(20000);
	say_n(&c, big, 99998);
	(void)usleep(20000);
	say_n(&c, big, 1);
	a = read_answer(&c, false);
	cr_expect_eq(a.body.len, 100000);
	expect(&a, 200, NULL);
	client_free(&c);
	free(big);
}

/* Sends a head, then 10 MB, all of it before the answer is read, as Python's http.client does. */
static struct answer send_ten_mb(const char *head, bool chunked)
{
	struct client c = client_new();
	struct answer a;
	char *mb = malloc(1 << 20);

	memset(mb, 'm', 1 << 20);
	say(&c, head);
	for (int i = 0; i < 10; i++) {
		if (chunked)
			say(&c, "100000\r\n");
		cr_expect_eq(fd_write_all(c.fd, mb, 1 << 20), 0, "the connection was reset at %d MB", i);
		if (chunked)
			say(&c, "\r\n");
	}
	if (chunked)
		say(&c, "0\r\n\r\n");
	a = read_answer(&c, false);
	client_free(&c);
	free(mb);
	return a;
}

Test(http, ten_megabytes_too_much)
{
	struct answer a = send_ten_mb("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);

	cr_expect_not_null(strstr(a.body.p, "payload_too_large"));
	expect(&a, 413, NULL);
	a = send_ten_mb("POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 413, NULL);
	a = send_ten_mb("POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 401, NULL);
	a = send_ten_mb("POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 404, NULL);
	a = send_ten_mb("PUT /small-upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 413, NULL);
	a = send_ten_mb("PUT /small-upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 413, NULL);
	a = GET("/ping");
	expect(&a, 200, "pong");
}

Test(http, data_and_begin)
{
	struct answer a = send_ten_mb("PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);

	expect(&a, 200, "10485760");
	cr_expect_gt(count_of("pieces"), 10);
	a = send_ten_mb("PUT /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", true);
	expect(&a, 200, "10485760");
	a = send_ten_mb("PUT /upload?fail_at=3000000 HTTP/1.1\r\nHost: x\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 507, NULL);
	a = send_ten_mb("PUT /upload HTTP/1.1\r\nHost: x\r\nX-Refuse: 1\r\nContent-Length: 10485760\r\n\r\n", false);
	expect(&a, 409, NULL);
	a = ask("PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
	expect(&a, 200, "0");
	cr_expect_eq(count_of("begun"), 5);
	cr_expect_eq(count_of("freed"), 5);
}

Test(http, expect_100_continue)
{
	struct client c = client_new();
	struct answer a;

	say(&c, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
	a = read_answer(&c, false);
	cr_expect_eq(a.status, 100);
	say(&c, "abc");
	a = read_answer(&c, false);
	expect(&a, 200, "abc");
	client_free(&c);
	/* A refusal comes instead of the 100. */
	a = ask("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n");
	expect(&a, 413, NULL);
	a = ask("POST /write HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999\r\n\r\n");
	expect(&a, 401, NULL);
	a = ask("POST /write HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
	expect(&a, 401, NULL);
}

/* ---- going away ---- */

Test(http, client_gone_while_suspended)
{
	struct client c = client_new();

	say(&c, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	cr_expect_eq(count_of("gone"), 0);
	client_free(&c);
	cr_expect(becomes("gone", 1));
	cr_expect(becomes("freed", 1));
	/* The same with the next request's bytes behind it, and with a reset. */
	c = client_new();
	say(&c, "GET /hang HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	cr_expect_eq(count_of("gone"), 1);
	(void)setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
	client_free(&c);
	cr_expect(becomes("gone", 2));
	cr_expect(becomes("freed", 2));
}

Test(http, client_gone_while_streaming)
{
	struct client c = client_new();

	say(&c, "GET /stream?n=1000&ms=20 HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert(hear(&c, 1000));
	client_free(&c);
	cr_expect(becomes("streams", 1));
	cr_expect_eq(count_of("gone"), 1);
	/* One that does not read. */
	c = client_new();
	say(&c, "GET /flood?n=1000000000 HTTP/1.1\r\nHost: x\r\n\r\n");
	cr_assert(hear(&c, 1000));
	client_free(&c);
	cr_expect(becomes("streams", 2));
	cr_expect_eq(count_of("gone"), 2);
}

Test(http, gone_is_not_called_after_the_end)
{
	struct answer a = GET("/slow?ms=10");

	expect(&a, 200, "slow");
	a = GET("/stream?n=2&ms=10");
	expect(&a, 200, "line 1\nline 0\n");
	cr_expect(becomes("streams", 1));
	cr_expect_eq(count_of("gone"), 0);
}

/* ---- streams ---- */

static int64_t since_ms(int64_t t)
{
	return (clock_mono_us() - t) / 1000;
}

/* Head and pieces leave at once, not when the kernel thinks it is worth a packet. */
Test(http, stream_latency)
{
	struct client c = client_new();
	struct answer a;
	int64_t t = clock_mono_us(), worst = 0;

	say(&c, "GET /stream?n=5&ms=300 HTTP/1.1\r\nHost: x\r\n\r\n");
	a = read_head(&c);
	cr_expect_eq(a.status, 200);
	cr_expect_lt(since_ms(t), 150, "the head took %d ms", (int)since_ms(t));
	for (int i = 1; i <= 5; i++) {
		int64_t late;

		if (c.in.len == 0)
			cr_assert(hear(&c, 2000));
		late = since_ms(t) - 300 * i;
		worst = MAX(worst, late);
		buf_reset(&c.in);
	}
	cr_expect_lt(worst, 150, "a piece was %d ms late", (int)worst);
	client_free(&c);
}

Test(http, stream_of_many_megabytes)
{
	struct answer a = GET("/flood?n=50000000");

	cr_expect_eq(a.body.len, 50000000);
	expect(&a, 200, NULL);
	a = GET("/bytes?n=20000000");
	cr_expect_eq(a.body.len, 20000000);
	expect(&a, 200, NULL);
}

Test(http, broken_stream_is_seen)
{
	struct answer a = GET("/flood?n=100000&cut=1");

	cr_expect_eq(a.status, 200);
	cr_expect(a.closed);
	buf_free(&a.body);
	cr_expect(becomes("gone", 1));
}

/* ---- the end ---- */

Test(http, stop_listening)
{
	struct client c = client_new(), idle = client_new();
	struct answer a;

	say(&c, "GET /slow?ms=300 HTTP/1.1\r\nHost: x\r\n\r\n");
	(void)usleep(50000);
	(void)kill(server_pid, SIGUSR1);
	(void)usleep(50000);
	/* What runs goes on and closes afterwards; nobody new gets in. */
	a = read_answer(&c, false);
	cr_expect_str_eq(header(&a, "Connection"), "close");
	expect(&a, 200, "slow");
	cr_expect(closes(&c, 1000));
	client_free(&c);
	client_free(&idle);
	c.fd = socket(AF_INET, SOCK_STREAM, 0);
	cr_expect_lt(connect(c.fd,
			     (struct sockaddr *)&(struct sockaddr_in){ .sin_family = AF_INET,
								       .sin_port = htons(port),
								       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) },
			     sizeof(struct sockaddr_in)),
		     0);
	(void)close(c.fd);
}

/* The server ends (teardown) with requests in every state. */
Test(http, ends_in_the_middle)
{
	static const char *const t[] = { "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n",
					 "GET /stream?n=1000&ms=30 HTTP/1.1\r\nHost: x\r\n\r\n",
					 "GET /slow?ms=5000 HTTP/1.1\r\nHost: x\r\n\r\n",
					 "GET /flood?n=1000000000 HTTP/1.1\r\nHost: x\r\n\r\n",
					 "PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123",
					 "PUT /upload HTTP/1.1\r\nHost: x\r\nX-Refuse: 1\r\nContent-Length: 999999\r\n\r\n123",
					 "GET /pi" };

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct client c = client_new();

		say(&c, t[i]);
	}
	(void)usleep(100000);
}
