#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "netpolicy/sniff.h"

#define LIT(s)                                                                                                         \
	{                                                                                                              \
		s, sizeof(s) - 1                                                                                       \
	}

struct text {
	const char *p;
	size_t n;
};

/* Every prefix in memory of its own length: more is wanted until the verdict comes, and then it stays. */
static enum sniff grow(enum sniff (*fn)(const void *p, size_t n, char *ret), const void *p, size_t n, char *ret)
{
	enum sniff s = SNIFF_MORE;

	for (size_t k = 0; k <= n && s == SNIFF_MORE; k++) {
		char *part = malloc(k + !k);

		memcpy(part, p, k);
		s = fn(part, k, ret);
		free(part);
	}
	return s;
}

/* A ClientHello around these extensions, in records of at most `record` bytes. */
static size_t hello(uint8_t *out, const struct text *ext, size_t record)
{
	uint8_t body[4096];
	size_t n = 0, len = 2 + 32 + 1 + 4 + 2 + 2 + ext->n, at, used = 0;

	body[n++] = 1;
	body[n++] = 0;
	body[n++] = (uint8_t)(len >> 8);
	body[n++] = (uint8_t)len;
	memset(body + n, 3, 34);
	n += 34;
	memcpy(body + n, "\0\0\2\x13\1\1\0", 7);
	n += 7;
	body[n++] = (uint8_t)(ext->n >> 8);
	body[n++] = (uint8_t)ext->n;
	memcpy(body + n, ext->p, ext->n);
	n += ext->n;
	for (at = 0; at < n; at += record) {
		size_t part = MIN(record, n - at);

		memcpy(out + used, (uint8_t[]){ 22, 3, 1, (uint8_t)(part >> 8), (uint8_t)part }, 5);
		memcpy(out + used + 5, body + at, part);
		used += 5 + part;
	}
	return used;
}

#define SNI(total, list, len, name) "\0\0\0" total "\0" list "\0\0" len name

Test(sniff, hellos)
{
	static const struct {
		struct text ext;
		enum sniff verdict;
	} table[] = {
		{ LIT(SNI("\x10", "\x0e", "\x0b", "Example.ORG")), SNIFF_NAME },
		{ LIT("\0\x17\0\0" SNI("\x10", "\x0e", "\x0b", "example.org") "\0\x2b\0\1x"), SNIFF_NAME },
		{ LIT("\0\x17\0\0"), SNIFF_NONE },
		{ LIT(""), SNIFF_NONE },
		{ LIT(SNI("\x10", "\x0e", "\x0b", "example.org") SNI("\x0c", "\x0a", "\7", "evil.io")), SNIFF_BAD },
		{ LIT(SNI("\x10", "\x0e", "\x0b", "exam\0le.org")), SNIFF_BAD },
		{ LIT(SNI("\x10", "\x0e", "\x0b", "example org")), SNIFF_BAD },
		{ LIT(SNI("\x10", "\x0f", "\x0b", "example.org")), SNIFF_BAD }, /* a list longer than its extension */
		{ LIT(SNI("\x10", "\x0d", "\x0b", "example.org")), SNIFF_BAD }, /* ... or shorter */
		{ LIT(SNI("\x10", "\x0e", "\x0a", "example.org")), SNIFF_BAD }, /* something after the name */
		{ LIT(SNI("\x11", "\x0e", "\x0b", "example.org!")), SNIFF_BAD },
		{ LIT("\0\0\0\x10\0\x0e\1\0\x0b"
		      "example.org"),
		  SNIFF_BAD },				  /* another type of name */
		{ LIT("\0\0\0\5\0\3\0\0\0"), SNIFF_BAD }, /* an empty name */
		{ LIT("\0\0\0\0"), SNIFF_BAD },
		{ LIT("\0\0\0\xff\0\x0e\0\0\x0b"
		      "example.org"),
		  SNIFF_BAD },
		{ LIT("\0\x17\0"), SNIFF_BAD },
	};
	static const size_t records[] = { 16384, 100, 5, 1 };
	static uint8_t buf[SNIFF_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		for (size_t k = 0; k < ARRAY_SIZE(records); k++) {
			char name[POLICY_NAME_MAX] = "";
			size_t n = hello(buf, &table[i].ext, records[k]);
			enum sniff s = grow(sniff_tls, buf, n, name);

			cr_expect(s == table[i].verdict, "%zu/%zu: %d", i, k, s);
			if (s == SNIFF_NAME)
				cr_expect(strcmp(name, "example.org") == 0, "%s", name);
		}
}

Test(sniff, what_is_no_hello)
{
	static const struct text table[] = {
		LIT("GET / HTTP/1.1\r\n"),     LIT("\x80\x2e\1\3\1"), /* SSLv2 */
		LIT("\x16\2\0\0\5"),	       LIT("\x17\3\3\0\5hello"),
		LIT("\x16\3\1\0\0"),	       LIT("\x16\3\1\0\1\2"), /* a ServerHello */
		LIT("\x16\3\1\x40\1"),	       LIT("\x16\3\1\0\4\1\xff\xff\xff"),
		LIT("\x16\3\1\0\5\1\0\0\1\3"),
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char name[POLICY_NAME_MAX];

		cr_expect(grow(sniff_tls, table[i].p, table[i].n, name) == SNIFF_BAD, "%zu", i);
	}
}

Test(sniff, requests)
{
	static const struct {
		const char *text;
		enum sniff verdict;
		const char *name;
	} table[] = {
		{ "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_NAME, "example.org" },
		{ "GET / HTTP/1.1\nhost:EXAMPLE.org.:8080 \n\n", SNIFF_NAME, "example.org" },
		{ "POST /a?b=c HTTP/1.0\r\nA: b\r\nHOST:\texample.org\t\r\nC: d\r\n\r\nbody", SNIFF_NAME,
		  "example.org" },
		{ "GET http://example.org/x HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_NAME, "example.org" },
		{ "OPTIONS * HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_NAME, "example.org" },
		{ "GET / HTTP/1.0\r\n\r\n", SNIFF_NONE, NULL },
		{ "GET / HTTP/1.1\r\nHost:\r\n\r\n", SNIFF_NONE, NULL },
		{ "GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n\r\n", SNIFF_NONE, NULL },
		{ "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n", SNIFF_NONE, NULL },
		{ "GET http://evil.io/ HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET http://evil.io/ HTTP/1.1\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET https://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org\r\nHost: evil.io\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost : evil.io\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nA: b\r\n Host: evil.io\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nA: b\rHost: evil.io\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: user@example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org evil.io\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org, evil.io\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org:80:80\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org:8x\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nno colon\r\n\r\n", SNIFF_BAD, NULL },
		{ "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET /\r\n", SNIFF_BAD, NULL },
		{ "GET  / HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "GET / x HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "\r\nGET / HTTP/1.1\r\nHost: example.org\r\n\r\n", SNIFF_BAD, NULL },
		{ "SSH-2.0-OpenSSH\r\n", SNIFF_BAD, NULL },
		{ "GET / HTTP/1.1\r\nHost: example.org\r\n", SNIFF_MORE, NULL }, /* another Host may follow */
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char name[POLICY_NAME_MAX] = "";
		enum sniff s = grow(sniff_http, table[i].text, strlen(table[i].text), name);

		cr_expect(s == table[i].verdict, "%zu: %d", i, s);
		if (table[i].name)
			cr_expect(strcmp(name, table[i].name) == 0, "%zu: %s", i, name);
	}
}

Test(sniff, endless_headers)
{
	static char buf[SNIFF_MAX];
	char name[POLICY_NAME_MAX];

	memset(buf, 'a', sizeof(buf));
	memcpy(buf, "GET / HTTP/1.1\r\n", 16);
	cr_expect(sniff_http(buf, sizeof(buf) - 1, name) == SNIFF_MORE);
	cr_expect(sniff_http(buf, sizeof(buf), name) == SNIFF_BAD);
	memset(buf, 'A', sizeof(buf));
	cr_expect(sniff_http(buf, 40, name) == SNIFF_BAD, "no method is so long");
}
