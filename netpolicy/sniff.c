#include "netpolicy/sniff.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

/* --- TLS --- */

/* A window over bytes; take_* fail when it is too short, and then `bad` stays. */
struct window {
	const uint8_t *p;
	size_t n;
	bool bad;
};

static const uint8_t *take(struct window *w, size_t n)
{
	const uint8_t *p = w->p;

	if (w->bad || n > w->n) {
		w->bad = true;
		return NULL;
	}
	w->p += n;
	w->n -= n;
	return p;
}

static size_t take_int(struct window *w, size_t bytes)
{
	const uint8_t *p = take(w, bytes);
	size_t v = 0;

	for (size_t i = 0; p && i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

/* A vector with a length of so many bytes before it. */
static struct window take_vector(struct window *w, size_t bytes)
{
	struct window v = { .n = take_int(w, bytes) };

	v.p = take(w, v.n);
	v.bad = w->bad;
	if (v.bad)
		v.n = 0;
	return v;
}

static enum sniff server_name(struct window ext, char ret[static POLICY_NAME_MAX])
{
	struct window list = take_vector(&ext, 2), name;

	/* RFC 6066, 3: one name of a type; and no other type was ever defined. */
	if (take_int(&list, 1) != 0)
		return SNIFF_BAD;
	name = take_vector(&list, 2);
	if (name.bad || list.n || ext.n || policy_normalise((const char *)name.p, name.n, ret) < 0)
		return SNIFF_BAD;
	return SNIFF_NAME;
}

static enum sniff client_hello(struct window w, char ret[static POLICY_NAME_MAX])
{
	enum sniff s = SNIFF_NONE;
	struct window all;

	(void)take(&w, 2 + 32);	  /* legacy_version, random */
	(void)take_vector(&w, 1); /* session id */
	(void)take_vector(&w, 2); /* cipher suites */
	(void)take_vector(&w, 1); /* compression methods */
	if (!w.bad && w.n == 0)
		return SNIFF_NONE; /* TLS 1.0 without extensions */
	all = take_vector(&w, 2);
	if (w.bad || w.n)
		return SNIFF_BAD;
	while (all.n) {
		size_t type = take_int(&all, 2);
		struct window ext = take_vector(&all, 2);

		if (all.bad)
			return SNIFF_BAD;
		if (type != 0)
			continue;
		if (s != SNIFF_NONE)
			return SNIFF_BAD;
		s = server_name(ext, ret);
		if (s != SNIFF_NAME)
			return s;
	}
	return s;
}

/* The handshake message may be cut into records anywhere, so it is put together first. */
enum sniff sniff_tls(const void *p, size_t n, char ret[static POLICY_NAME_MAX])
{
	uint8_t hello[SNIFF_MAX];
	size_t have = 0;
	const uint8_t *b = p;

	for (;;) {
		size_t len, got;

		if ((n > 0 && b[0] != 22) || (n > 1 && b[1] != 3))
			return SNIFF_BAD;
		if (n < 5)
			return SNIFF_MORE;
		len = (size_t)b[3] << 8 | b[4];
		if (len == 0 || len > 16384)
			return SNIFF_BAD;
		got = MIN(len, n - 5);
		if (have + got > sizeof(hello))
			return SNIFF_BAD;
		memcpy(hello + have, b + 5, got);
		have += got;
		if (have > 0 && hello[0] != 1)
			return SNIFF_BAD;
		if (have >= 4) {
			size_t want = (size_t)hello[1] << 16 | (size_t)hello[2] << 8 | hello[3];

			if (want > sizeof(hello) - 4)
				return SNIFF_BAD;
			if (have >= want + 4)
				return client_hello((struct window){ .p = hello + 4, .n = want }, ret);
		}
		if (got < len)
			return SNIFF_MORE;
		b += 5 + len;
		n -= 5 + len;
	}
}

/* --- HTTP/1 --- */

static bool is_token(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* HOST[:PORT], without userinfo: that is how one writes a name that two readers see differently. */
static enum sniff authority(const char *p, size_t n, char ret[static POLICY_NAME_MAX])
{
	const char *colon = memchr(p, ':', n);
	size_t host = colon ? (size_t)(colon - p) : n;
	struct in_addr v4;

	if (n == 0)
		return SNIFF_NONE;
	if (p[0] == '[')
		return SNIFF_NONE;
	if (colon && (n - host > 6 || memchr(colon + 1, ':', n - host - 1)))
		return SNIFF_BAD;
	for (size_t i = host + 1; i < n; i++)
		if (p[i] < '0' || p[i] > '9')
			return SNIFF_BAD;
	if (policy_normalise(p, host, ret) < 0)
		return SNIFF_BAD;
	return inet_pton(AF_INET, ret, &v4) == 1 ? SNIFF_NONE : SNIFF_NAME;
}

/* METHOD SP TARGET SP HTTP/1.x; for an absolute target, *ret_authority is what it names. */
static enum sniff request_line(const char *p, size_t n, const char **ret_authority, size_t *ret_len)
{
	const char *target = memchr(p, ' ', n), *version;
	size_t rest;

	*ret_authority = NULL;
	if (!target || target == p)
		return SNIFF_BAD;
	target++;
	rest = n - (size_t)(target - p);
	version = memchr(target, ' ', rest);
	if (!version || version == target)
		return SNIFF_BAD;
	rest = (size_t)(version - target);
	version++;
	if (n - (size_t)(version - p) != 8 || memcmp(version, "HTTP/1.", 7) != 0)
		return SNIFF_BAD;
	if (target[0] == '/' || (target[0] == '*' && rest == 1))
		return SNIFF_NAME;
	if (rest < 7 || strncasecmp(target, "http://", 7) != 0)
		return SNIFF_BAD; /* CONNECT: we are no proxy */
	*ret_authority = target + 7;
	for (*ret_len = 0; *ret_len < rest - 7; ++*ret_len)
		if (strchr("/?#", target[7 + *ret_len]))
			break;
	return SNIFF_NAME;
}

/* One header line. SNIFF_MORE: another header than Host. */
static enum sniff header_line(const char *p, size_t n, char ret[static POLICY_NAME_MAX])
{
	const char *colon = memchr(p, ':', n);
	size_t name = colon ? (size_t)(colon - p) : 0;

	if (name == 0)
		return SNIFF_BAD;
	/* A folded line or a blank before the colon is read differently by different servers. */
	for (size_t i = 0; i < name; i++)
		if (!is_token(p[i]))
			return SNIFF_BAD;
	if (name != 4 || strncasecmp(p, "host", 4) != 0)
		return SNIFF_MORE;
	p = colon + 1;
	n -= name + 1;
	for (; n && (*p == ' ' || *p == '\t'); p++)
		n--;
	while (n && (p[n - 1] == ' ' || p[n - 1] == '\t'))
		n--;
	return authority(p, n, ret);
}

/* The next line without its end; -1: not whole yet; -2: a NUL or a lone CR in it. */
static ssize_t next_line(const char *p, size_t n)
{
	const char *lf = memchr(p, '\n', n);
	size_t len = lf ? (size_t)(lf - p) : n;

	/* Without an LF it may be still to come. */
	if (len > 0 && p[len - 1] == '\r')
		len--;
	if (memchr(p, '\r', len) || memchr(p, '\0', len))
		return -2;
	return lf ? (ssize_t)len : -1;
}

static enum sniff agree(const char *absolute, size_t n, enum sniff host, char ret[static POLICY_NAME_MAX])
{
	char named[POLICY_NAME_MAX];
	enum sniff s;

	if (!absolute)
		return host;
	/* RFC 9112, 3.2.2: a server goes by the target; so the two must say the same. */
	s = authority(absolute, n, named);
	if (s == SNIFF_NAME && host == SNIFF_NAME)
		return strcmp(named, ret) == 0 ? SNIFF_NAME : SNIFF_BAD;
	return s == host ? s : SNIFF_BAD;
}

enum sniff sniff_http(const void *start, size_t n, char ret[static POLICY_NAME_MAX])
{
	const char *p = start, *absolute = NULL;
	enum sniff host = SNIFF_MORE, s;
	size_t absolute_len = 0, whole = n;

	/* Whatever does not begin like a method is refused at its first byte, not after a wait for more. */
	for (size_t i = 0; i < n && p[i] != ' '; i++)
		if (!is_token(p[i]) || i > 31)
			return SNIFF_BAD;
	for (unsigned int line = 0;; line++) {
		ssize_t len = next_line(p, n);

		if (len < 0)
			return len == -1 && whole < SNIFF_MAX ? SNIFF_MORE : SNIFF_BAD;
		if (line == 0) {
			if (request_line(p, (size_t)len, &absolute, &absolute_len) != SNIFF_NAME)
				return SNIFF_BAD;
		} else if (len == 0) {
			return agree(absolute, absolute_len, host == SNIFF_MORE ? SNIFF_NONE : host, ret);
		} else {
			s = header_line(p, (size_t)len, ret);
			if (s == SNIFF_BAD || (s != SNIFF_MORE && host != SNIFF_MORE))
				return SNIFF_BAD;
			if (s != SNIFF_MORE)
				host = s;
		}
		len = (ssize_t)((const char *)memchr(p, '\n', n) - p) + 1;
		p += len;
		n -= (size_t)len;
	}
}
