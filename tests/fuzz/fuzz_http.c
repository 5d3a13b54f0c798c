/* The whole of the server over a socket: what a client's bytes do to libmicrohttpd, the route table, the checks before the
 * body, JSON, uploads in pieces and streams. The first byte says how the bytes are cut on their way. */

#include "api/req.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <uv.h>

#include "emulator/base/log.h"
#include "tests/fuzz/fuzz.h"

static uv_loop_t loop;
static struct http *server;
static struct sockaddr_un address = { .sun_family = AF_UNIX };

static void h_json(struct req *r)
{
	struct json_object *o = req_json(r);

	(void)req_query(r, "path");
	(void)req_accepts(r, "text/event-stream");
	if (o)
		req_reply_json(r, 200, json_object_get(o));
}

static void h_param(struct req *r)
{
	const char *id = req_param(r, "id");

	fuzz_check(id && *id);
	req_divergence(r, "one");
	req_reply_bytes(r, 200, "text/plain", id, strlen(id));
}

static ssize_t pull(void *arg, char *p, size_t cap)
{
	int *left = arg;
	size_t n = MIN(cap, 100u);

	if (--*left < 0)
		return -1;
	memset(p, 'x', n);
	return (ssize_t)n;
}

static void h_stream(struct req *r)
{
	int *left = malloc(sizeof(*left));

	fuzz_check(left);
	*left = 3;
	req_reply_stream(r, 200, "text/plain", pull, free, left);
}

static void upload_begin(struct req *r)
{
	req_set_data(r, calloc(1, 8), free);
}

static void upload_data(struct req *r, const char *p, size_t n)
{
	uint64_t *seen = req_data(r);

	fuzz_check(p && n > 0);
	*seen += n;
	if (*seen > 500)
		req_reply_invalid(r, "body", "content", "too_long", "%llu is too much", (unsigned long long)*seen);
}

static void upload_end(struct req *r)
{
	req_reply_empty(r, 204);
}

static const struct route routes[] = {
	{ "POST", "/j", 0, 4096, h_json, NULL, NULL },
	{ "GET", "/p/{id}", 0, 0, h_param, NULL, NULL },
	{ "GET", "/s", 0, 0, h_stream, NULL, NULL },
	{ "PUT", "/u", 0, 0, upload_end, upload_begin, upload_data },
	{ "POST", "/auth", SCOPE_WRITE, 100, h_json, NULL, NULL },
};

static void start(void)
{
	struct accounts *accounts;
	struct http_config c = { .loop = &loop, .unix_fd = -1, .max_connections = 16, .idle_timeout_s = 5 };
	struct err e;
	socklen_t n;

	log_set_level(LOG_LEVEL_ERROR);
	fuzz_check(uv_loop_init(&loop) == 0 && accounts_new(true, &accounts) == 0);
	c.accounts = accounts;
	c.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
			(size_t)snprintf(address.sun_path + 1, 60, "orkestr-fuzz-http-%d", getpid()));
	fuzz_check(bind(c.listen_fd, (struct sockaddr *)&address, n) == 0 && listen(c.listen_fd, 16) == 0);
	fuzz_check(http_new(&c, &server, &e) == 0);
	http_add_routes(server, routes, ARRAY_SIZE(routes));
	fuzz_check(http_start(server, &e) == 0);
}

static void read_all(int fd)
{
	static char answer[65536];

	while (recv(fd, answer, sizeof(answer), MSG_DONTWAIT) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct fuzz_input in = { p, n };
	struct pollfd watch = { .events = POLLIN };
	socklen_t len;
	size_t step;

	if (n < 2 || n > 200000)
		return 0;
	if (!server)
		start();
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(address.sun_path + 1));
	watch.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fuzz_check(watch.fd >= 0 && connect(watch.fd, (struct sockaddr *)&address, len) == 0);
	step = fuzz_byte(&in);
	step = step & 0x80 ? step % 128 + 1 : SIZE_MAX;
	for (int i = 0; in.n > 0 && i < 64; i++) {
		size_t k = MIN(i == 63 ? in.n : step, in.n);
		ssize_t sent = send(watch.fd, in.p, k, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
			break;
		in.p += MAX(sent, 0);
		in.n -= (size_t)MAX(sent, 0);
		(void)uv_run(&loop, UV_RUN_NOWAIT);
		read_all(watch.fd);
	}
	(void)shutdown(watch.fd, SHUT_WR);
	for (int i = 0; i < 8 && server->reqs; i++) {
		(void)uv_run(&loop, UV_RUN_NOWAIT);
		read_all(watch.fd);
	}
	(void)close(watch.fd);
	for (int i = 0; i < 4 && (i == 0 || server->reqs || server->n_drains); i++)
		(void)uv_run(&loop, UV_RUN_NOWAIT);
	return 0;
}
