#include "emulator/cmd/ask.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cmd/options.h"

#define ANSWER_MAX (16u << 20)
#define PATIENCE_S 30

struct place {
	char host[256], port[8];
};

static int parse_url(const char *url, struct place *ret, struct err *e)
{
	static const char scheme[] = "http://";
	char authority[300];
	uint16_t port = 80;
	size_t n;

	if (strncmp(url, scheme, sizeof(scheme) - 1) != 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%.100s is not of the form http://HOST:PORT", url);
	url += sizeof(scheme) - 1;
	n = strcspn(url, "/");
	if (url[n] && strcmp(url + n, "/") != 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "the emulator's address has no path: %.100s", url + n);
	if (text_format(authority, sizeof(authority), "%.*s%s", (int)n, url, memchr(url, ':', n) ? "" : ":80") < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "the address is too long");
	if (serve_parse_listen(authority, ret->host, sizeof(ret->host), &port, NULL) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%.100s is not HOST:PORT", authority);
	(void)snprintf(ret->port, sizeof(ret->port), "%u", port);
	return 0;
}

static int reach(const struct place *p, struct err *e)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
	const struct timeval patience = { .tv_sec = PATIENCE_S };
	struct addrinfo *list = NULL;
	int fd = -1, r = getaddrinfo(p->host, p->port, &hints, &list);

	if (r != 0)
		return err_set(e, ERR_IO, EHOSTUNREACH, NULL, "%s: %s", p->host, gai_strerror(r));
	r = ECONNREFUSED;
	for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (fd >= 0)
			(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
			break;
		r = errno;
		closep(&fd);
	}
	freeaddrinfo(list);
	if (fd < 0)
		return err_set(e, ERR_IO, r, NULL,
			       "no emulator answers at %s:%s (%s); is `orkestr-emulator serve` running, and "
			       "ORKESTR_BASE_URL set?",
			       p->host, p->port, strerror(r));
	return fd;
}

/* HTTP/1.0, so that the answer is what comes until the end. */
static int exchange(int fd, const struct place *p, const char *key, const char *path, struct buf *answer, struct err *e)
{
	_cleanup_buf_ struct buf q = BUF_INIT(8192);
	int r = buf_printf(&q, "GET %s HTTP/1.0\r\nHost: %s:%s\r\nAuthorization: Bearer %s\r\n\r\n", path, p->host,
			   p->port, key);
	ssize_t n = 1;
	char *to;

	if (r >= 0)
		r = fd_write_all(fd, q.p, q.len);
	while (r >= 0 && n > 0) {
		r = buf_reserve(answer, 65536, &to);
		if (r < 0)
			break;
		n = read(fd, to, 65536);
		if (n < 0 && errno != EINTR)
			r = -errno;
		buf_commit(answer, n > 0 ? (size_t)n : 0);
		n = n < 0 ? 1 : n;
	}
	return r < 0 ? err_errno(e, -r, "talking to the emulator") : 0;
}

static int parse_answer(const struct buf *answer, struct json_object **ret, struct err *e)
{
	struct json_object *o, *detail;
	const char *body = answer->p ? strstr(answer->p, "\r\n\r\n") : NULL;
	int status = 0;

	if (!body || sscanf(answer->p, "HTTP/1.%*d %d", &status) != 1)
		return err_set(e, ERR_IO, EPROTO, NULL, "what answers there does not speak HTTP");
	o = json_tokener_parse(body + 4);
	if (status == 200 && o) {
		*ret = o;
		return 0;
	}
	(void)err_set(e, ERR_IO, EPROTO, NULL, "the emulator answered %d: %.200s", status,
		      o && json_object_object_get_ex(o, "detail", &detail) ? json_object_get_string(detail) : "");
	json_object_put(o);
	return -EPROTO;
}

int ask_json(const struct ask_target *t, const char *path, struct json_object **ret, struct err *e)
{
	const char *url = t->url ? t->url : getenv("ORKESTR_BASE_URL"),
		   *key = t->key ? t->key : getenv("ORKESTR_API_KEY");
	_cleanup_buf_ struct buf answer = BUF_INIT(ANSWER_MAX);
	_cleanup_close_ int fd = -1;
	struct place p;
	int r;

	if (!url || !*url)
		url = "http://127.0.0.1:4520";
	if (!key || !*key || strpbrk(key, " \r\n"))
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "a key is needed: export ORKESTR_API_KEY=..., as printed by serve");
	r = parse_url(url, &p, e);
	if (r < 0)
		return r;
	r = fd = reach(&p, e);
	if (r >= 0)
		r = exchange(fd, &p, key, path, &answer, e);
	return r < 0 ? r : parse_answer(&answer, ret, e);
}
