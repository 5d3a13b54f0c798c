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

static int read_answer(struct client *c, struct err *e)
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
	return read_answer(c, e);
}

int client_upload(struct client *c, const char *path, const void *p, size_t n, struct err *e)
{
	char head[1024];
	int len = text_format(head, sizeof(head),
			      "PUT %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
			      "Content-Type: application/octet-stream\r\nContent-Length: %zu\r\n\r\n",
			      path, c->key, n);
	int r;

	if (len < 0)
		return err_set(e, ERR_TOO_LARGE, EMSGSIZE, NULL, "the request is too large");
	r = fd_write_all(c->fd, head, (size_t)len);
	if (r >= 0)
		r = fd_write_all(c->fd, p, n);
	return r < 0 ? err_errno(e, -r, "can't send the request") : read_answer(c, e);
}
