#include "tests/bench/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

int client_open(struct client *c, uint16_t port, const char *key, struct err *e)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int on = 1;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0)
		return err_errno(e, errno, "can't make a socket");
	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
		return err_errno(e, errno, "can't connect to port %u", port);
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		return err_errno(e, errno, "can't set TCP_NODELAY");
	if (text_format(c->key, sizeof(c->key), "%s", key) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "the key is too long");
	c->fd = TAKE_FD(fd);
	return 0;
}

void client_close(struct client *c)
{
	closep(&c->fd);
	buf_free(&c->in);
}

/* Where the body starts and how long it is, once the whole head is there. 0: not yet. */
static int parse_head(const struct buf *in, size_t *ret_start, size_t *ret_len)
{
	const char *end = in->p ? strstr(in->p, "\r\n\r\n") : NULL;
	const char *h;

	if (!end)
		return 0;
	*ret_start = (size_t)(end - in->p) + 4;
	*ret_len = 0;
	h = strcasestr(in->p, "\r\nContent-Length:");
	if (h && h < end)
		*ret_len = strtoul(h + strlen("\r\nContent-Length:"), NULL, 10);
	else if (strncmp(in->p + 9, "204", 3) != 0)
		return -EPROTO;
	return 1;
}

int client_answer(struct client *c, struct err *e)
{
	size_t start = 0, len = 0;
	int have = 0;

	buf_reset(&c->in);
	while (have == 0 || c->in.len < start + len) {
		char *p;
		ssize_t k;

		if (buf_reserve(&c->in, 16384, &p) < 0)
			return err_set(e, ERR_TOO_LARGE, EMSGSIZE, NULL, "the answer is too large");
		do
			k = read(c->fd, p, 16384);
		while (k < 0 && errno == EINTR);
		if (k < 0)
			return err_errno(e, errno, "can't read the answer");
		if (k == 0)
			return err_set(e, ERR_IO, ECONNRESET, NULL, "the server closed the connection");
		buf_commit(&c->in, (size_t)k);
		if (have == 0)
			have = parse_head(&c->in, &start, &len);
		if (have < 0 || strncmp(c->in.p, "HTTP/1.1 ", MIN(c->in.len, (size_t)9)) != 0)
			return err_set(e, ERR_IO, EPROTO, NULL, "an answer without a length: %.60s", c->in.p);
	}
	c->status = (int)strtol(c->in.p + 9, NULL, 10);
	c->body = c->in.p + start;
	c->body_len = len;
	return 0;
}

int client_head(struct client *c, const char *method, const char *path, const char *headers, uint64_t length,
		struct err *e)
{
	char out[1024];
	int n = text_format(out, sizeof(out),
			    "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n%s"
			    "Content-Length: %llu\r\n\r\n",
			    method, path, c->key, headers, (unsigned long long)length);
	int r;

	if (n < 0)
		return err_set(e, ERR_TOO_LARGE, EMSGSIZE, NULL, "the request's head is too large");
	r = fd_write_all(c->fd, out, (size_t)n);
	return r < 0 ? err_errno(e, -r, "can't send the request") : 0;
}

#define LAST_CHUNK "\r\n0\r\n\r\n"

int client_drain(struct client *c, int to, uint64_t *ret, struct err *e)
{
	static char in[1 << 20];
	size_t have = 0, start, len;
	uint64_t total = 0;
	bool chunked;
	ssize_t k;

	do {
		k = read(c->fd, in + have, 16384 - have - 1);
		if (k <= 0)
			return err_set(e, ERR_IO, ECONNRESET, NULL, "no answer");
		have += (size_t)k;
		in[have] = '\0';
	} while (!strstr(in, "\r\n\r\n") && have < 16384 - 1);
	chunked = strcasestr(in, "\r\nTransfer-Encoding: chunked") != NULL;
	if (strncmp(in, "HTTP/1.1 20", 11) != 0 ||
	    (!chunked && parse_head(&(struct buf){ .p = in, .len = have }, &start, &len) != 1))
		return err_set(e, ERR_IO, EPROTO, NULL, "answered %.120s", in);
	start = (size_t)(strstr(in, "\r\n\r\n") - in) + 4;
	total = have - start;
	if (to >= 0 && fd_write_all(to, in + start, have - start) < 0)
		return err_set(e, ERR_IO, EIO, NULL, "can't write the body");
	for (size_t tail = have; chunked ? tail < 7 || memcmp(in + tail - 7, LAST_CHUNK, 7) != 0 : total < len;) {
		size_t keep = MIN(tail, (size_t)7);

		memmove(in, in + tail - keep, keep);
		k = read(c->fd, in + keep, sizeof(in) - keep);
		if (k <= 0)
			return err_set(e, ERR_IO, ECONNRESET, NULL, "the answer ended after %llu bytes",
				       (unsigned long long)total);
		if (to >= 0 && fd_write_all(to, in + keep, (size_t)k) < 0)
			return err_set(e, ERR_IO, EIO, NULL, "can't write the body");
		total += (uint64_t)k;
		tail = keep + (size_t)k;
	}
	*ret = total;
	return 0;
}

int client_call(struct client *c, const char *method, const char *path, const char *body, struct err *e)
{
	char out[4096];
	int n, r;

	n = text_format(out, sizeof(out),
			"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
			"Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
			method, path, c->key, body ? strlen(body) : 0, body ? body : "");
	if (n < 0)
		return err_set(e, ERR_TOO_LARGE, EMSGSIZE, NULL, "the request is too large");
	r = fd_write_all(c->fd, out, (size_t)n);
	if (r < 0)
		return err_errno(e, -r, "can't send the request");
	return client_answer(c, e);
}
