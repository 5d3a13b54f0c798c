#include "emulator/base/text.h"

#include <errno.h>
#include <nettle/sha2.h>
#include <stdarg.h>
#include <string.h>
#include <sys/random.h>

#include "emulator/base/buf.h"

int text_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;

	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		unsigned int d = (unsigned int)(*s - '0');

		if (*s < '0' || *s > '9')
			return -EINVAL;
		if (v > (UINT64_MAX - d) / 10)
			return -ERANGE;
		v = v * 10 + d;
	}
	if (v < min || v > max)
		return -ERANGE;
	*ret = v;
	return 0;
}

int text_hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int text_index(const char *word, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(word, names[i]) == 0)
			return (int)i;
	return -EINVAL;
}

int text_format(char *ret, size_t cap, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(ret, cap, fmt, ap);
	va_end(ap);
	return n < 0 || (size_t)n >= cap ? -ENAMETOOLONG : n;
}

void text_random(void *p, size_t n)
{
	char *c = p;

	while (n > 0) {
		ssize_t k = getrandom(c, n, 0);

		if (k < 0) {
			if (errno == EINTR)
				continue;
			abort();
		}
		c += k;
		n -= (size_t)k;
	}
}

void text_ulid_of(int64_t ms, const unsigned char rnd[static TEXT_ULID_RANDOM], char ret[static TEXT_ULID_SIZE])
{
	static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	uint64_t t = (uint64_t)ms;

	for (int i = 9; i >= 0; i--, t >>= 5)
		ret[i] = alphabet[t & 31];
	for (int half = 0; half < 2; half++) {
		uint64_t v = 0;

		for (int i = 0; i < 5; i++)
			v = v << 8 | rnd[half * 5 + i];
		for (int i = 7; i >= 0; i--, v >>= 5)
			ret[10 + half * 8 + i] = alphabet[v & 31];
	}
	ret[26] = '\0';
}

void text_ulid(int64_t ms, char ret[static TEXT_ULID_SIZE])
{
	static int64_t last_ms = -1;
	static unsigned char rnd[TEXT_ULID_RANDOM];

	if (ms == last_ms) {
		for (int i = 9; i >= 0 && ++rnd[i] == 0; i--)
			;
	} else {
		text_random(rnd, sizeof(rnd));
		rnd[0] &= 0x7f; /* room to count up within one millisecond */
		last_ms = ms;
	}
	text_ulid_of(ms, rnd, ret);
}

void text_sha256(const void *p, size_t n, char ret[static TEXT_SHA256_SIZE])
{
	unsigned char d[SHA256_DIGEST_SIZE];
	struct sha256_ctx ctx;

	sha256_init(&ctx);
	sha256_update(&ctx, n, p);
	sha256_digest(&ctx, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(ret + 2 * i, 3, "%02x", d[i]);
}

size_t text_base64_encode(const void *p, size_t n, char *ret)
{
	static const char a[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *s = p;
	char *o = ret;

	for (; n >= 3; n -= 3, s += 3) {
		uint32_t v = (uint32_t)s[0] << 16 | (uint32_t)s[1] << 8 | s[2];

		*o++ = a[v >> 18];
		*o++ = a[v >> 12 & 63];
		*o++ = a[v >> 6 & 63];
		*o++ = a[v & 63];
	}
	if (n > 0) {
		uint32_t v = (uint32_t)s[0] << 16 | (n > 1 ? (uint32_t)s[1] << 8 : 0);

		*o++ = a[v >> 18];
		*o++ = a[v >> 12 & 63];
		*o++ = n > 1 ? a[v >> 6 & 63] : '=';
		*o++ = '=';
	}
	*o = '\0';
	return (size_t)(o - ret);
}

static int base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	if (c == '+' || c == '-')
		return 62;
	if (c == '/' || c == '_')
		return 63;
	return -1;
}

ssize_t text_base64_decode(const char *p, size_t n, void *ret)
{
	unsigned char *o = ret;
	uint32_t acc = 0;
	unsigned int bits = 0, chars = 0, pads = 0;

	for (size_t i = 0; i < n; i++) {
		int v;

		if (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t')
			continue;
		if (p[i] == '=') {
			pads++;
			continue;
		}
		v = base64_value(p[i]);
		if (v < 0 || pads > 0)
			return -EINVAL;
		acc = acc << 6 | (uint32_t)v;
		bits += 6;
		chars++;
		if (bits >= 8) {
			bits -= 8;
			*o++ = (unsigned char)(acc >> bits);
			acc &= (1u << bits) - 1;
		}
	}
	if (chars % 4 == 1 || pads > 2 || (pads > 0 && (chars + pads) % 4 != 0) || acc != 0)
		return -EINVAL;
	return o - (unsigned char *)ret;
}

/* Length of the valid character at p (1-4), 0 if the n bytes are a true prefix of one,
 * or minus the length of the maximal invalid part (Unicode 15, section 3.9, table 3-7). */
static int utf8_step(const unsigned char *p, size_t n)
{
	unsigned char lo = 0x80, hi = 0xbf;
	int need;

	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xc2 || p[0] > 0xf4)
		return -1;
	need = p[0] < 0xe0 ? 1 : p[0] < 0xf0 ? 2 : 3;
	if (p[0] == 0xe0)
		lo = 0xa0;
	else if (p[0] == 0xed)
		hi = 0x9f;
	else if (p[0] == 0xf0)
		lo = 0x90;
	else if (p[0] == 0xf4)
		hi = 0x8f;
	for (int i = 1; i <= need; i++) {
		if ((size_t)i >= n)
			return 0;
		if (p[i] < lo || p[i] > hi)
			return -i;
		lo = 0x80;
		hi = 0xbf;
	}
	return need + 1;
}

int text_utf8_sanitize(const char *p, size_t n, bool final, struct buf *out, size_t *ret_used)
{
	size_t i = 0, from = 0, before = out->len;
	int r;

	while (i < n) {
		int k = utf8_step((const unsigned char *)p + i, n - i);

		if (k > 0) {
			i += (size_t)k;
			continue;
		}
		if (k == 0 && !final)
			break;
		r = buf_add(out, p + from, i - from);
		if (r >= 0)
			r = buf_add(out, "\xef\xbf\xbd", 3);
		if (r < 0)
			goto fail;
		i += k == 0 ? n - i : (size_t)-k;
		from = i;
	}
	r = buf_add(out, p + from, i - from);
	if (r < 0)
		goto fail;
	if (ret_used)
		*ret_used = i;
	return 0;

fail: /* nothing was taken, so nothing may have been written */
	out->len = before;
	if (out->p)
		out->p[before] = '\0';
	return r;
}

size_t text_utf8_span(const char *p, size_t n)
{
	size_t i = 0;

	while (i < n) {
		int k = utf8_step((const unsigned char *)p + i, n - i);

		if (k <= 0)
			break;
		i += (size_t)k;
	}
	return i;
}

bool text_utf8_valid(const char *p, size_t n)
{
	return text_utf8_span(p, n) == n;
}
