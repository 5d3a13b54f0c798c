#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "netpolicy/dns.h"

/* Messages written by hand, so that the parser is not checked by its own builder. */

#define HEAD(flags, qd, an, ns, ar) "\x12\x34" flags "\0" qd "\0" an "\0" ns "\0" ar
#define ASKED "\7example\3org\0\0\1\0\1"
#define LIT(s)                                                                                                         \
	{                                                                                                              \
		s, sizeof(s) - 1                                                                                       \
	}

struct text {
	const char *p;
	size_t n;
};

static const uint8_t *bytes(const struct text *t)
{
	return (const void *)t->p;
}

Test(dns, queries)
{
	static const struct {
		struct text m;
		int r;
		const char *name;
	} table[] = {
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") ASKED), 0, "example.org" },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\7EXAMPLE\3oRg\0\0\1\0\1"), 0, "example.org" },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\0\0\2\0\1"), 0, "" },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\1") ASKED "\0\0\51\x10\0\0\0\0\0\0\0"), 0, "example.org" },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\1") ASKED "\0\0\51\x10\0\0\0\0\0\0\4\0\1\0\0"), 0,
		  "example.org" },
		{ LIT("\x12\x34\1\0\0\1\0\0\0\0\0"), -EPROTO, NULL },			   /* 11 bytes */
		{ LIT(HEAD("\x81\0", "\1", "\0", "\0", "\0") ASKED), -EPROTO, NULL },	   /* an answer */
		{ LIT(HEAD("\1\0", "\0", "\0", "\0", "\0")), -EBADMSG, NULL },		   /* no question */
		{ LIT(HEAD("\1\0", "\2", "\0", "\0", "\0") ASKED ASKED), -EBADMSG, NULL }, /* two */
		{ LIT(HEAD("\1\0", "\1", "\1", "\0", "\0") ASKED), -EBADMSG, NULL },	   /* an answer in a query */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\1") ASKED), -EBADMSG, NULL },	   /* a count that lies */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\2") ASKED "\0\0\51\x10\0\0\0\0\0\0\0"), -EBADMSG, NULL },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") ASKED "x"), -EBADMSG, NULL }, /* more than it says */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\7example\3org\0\0\1\0"), -EBADMSG, NULL },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\7example\3or"), -EBADMSG, NULL },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\300\14\0\1\0\1"), -EBADMSG, NULL }, /* points at itself */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\1a\300\14\0\1\0\1"), -EBADMSG, NULL },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\300\0\0\1\0\1"), -EBADMSG, NULL },	 /* into the header */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\300\20\0\1\0\1"), -EBADMSG, NULL }, /* forward */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\100a\0\0\1\0\1"), -EBADMSG,
		  NULL }, /* reserved label types */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\200a\0\0\1\0\1"), -EBADMSG, NULL },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\3a.b\0\0\1\0\1"), -EBADMSG, NULL }, /* a dot in a label */
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\3a\0b\0\0\1\0\1"), -EBADMSG, NULL },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\3a\377b\0\0\1\0\1"), -EBADMSG, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct dns_query q;
		int r = dns_parse_query(bytes(&table[i].m), table[i].m.n, &q);

		cr_expect(r == table[i].r, "%zu: %d", i, r);
		if (r == 0)
			cr_expect(strcmp(q.name, table[i].name) == 0 && q.id == 0x1234 && q.rd, "%zu: %s", i, q.name);
		if (r == -EBADMSG)
			cr_expect(q.id == 0x1234, "%zu: FORMERR needs the id", i);
	}
}

Test(dns, every_cut_of_a_query_is_refused)
{
	static const char whole[] = HEAD("\1\0", "\1", "\0", "\0", "\1") ASKED "\0\0\51\x10\0\0\0\0\0\0\0";
	struct dns_query q;

	for (size_t n = 0; n < sizeof(whole) - 1; n++) {
		/* Exactly n bytes, so that ASan sees a read too far. */
		uint8_t *p = malloc(n + !n);

		memcpy(p, whole, n);
		cr_expect(dns_parse_query(p, n, &q) < 0, "%zu", n);
		free(p);
	}
}

Test(dns, long_names)
{
	uint8_t m[400] = "\x12\x34\1\0\0\1\0\0\0\0\0";
	struct dns_query q;
	size_t n = DNS_HEADER;

	for (int i = 0; i < 3; i++) {
		m[n++] = 63;
		memset(m + n, 'a', 63);
		n += 63;
	}
	m[n] = 61; /* 3 * 64 + 61 = 253 characters */
	memset(m + n + 1, 'a', 62);
	memcpy(m + n + 62, "\0\0\1\0\1", 5);
	cr_expect(dns_parse_query(m, n + 62 + 5, &q) == 0 && strlen(q.name) == 253);
	m[n] = 62;
	m[n + 62] = 'a';
	memcpy(m + n + 63, "\0\0\1\0\1", 5);
	cr_expect(dns_parse_query(m, n + 63 + 5, &q) == -EBADMSG, "254");
}

#define RR(owner, type, ttl, len, data) owner "\0" type "\0\1\0\0\0" ttl "\0" len data

Test(dns, answers)
{
	static const struct {
		struct text m;
		int r;
		size_t chain, addr;
		uint32_t ttl;
	} table[] = {
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0") ASKED RR("\300\14", "\1", "\60", "\4", "\1\2\3\4")), 0,
		  0, 1, 48 },
		/* a chain of two, and the least TTL */
		{ LIT(HEAD("\x81\x80", "\1", "\3", "\0", "\0") ASKED RR("\300\14", "\5", "\60", "\4", "\1a\300\24")
			      RR("\1a\3org\0", "\5", "\50", "\3", "\1b\0") RR("\1b\0", "\1", "\70", "\4", "\1\2\3\4")),
		  0, 2, 1, 40 },
		/* records of other names, before and after */
		{ LIT(HEAD("\x81\x80", "\1", "\3", "\0", "\0") ASKED RR("\1x\0", "\1", "\60", "\4", "\6\6\6\6")
			      RR("\300\14", "\1", "\60", "\4", "\1\2\3\4") RR("\1y\0", "\1", "\1", "\4", "\6\6\6\6")),
		  0, 0, 1, 48 },
		/* an address in the additional section does not count */
		{ LIT(HEAD("\x81\x80", "\1", "\0", "\0", "\1") ASKED RR("\300\14", "\1", "\60", "\4", "\6\6\6\6")), 0,
		  0, 0, 0 },
		/* an address of the wrong family, or of a wrong length */
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0")
			      ASKED RR("\300\14", "\34", "\60", "\20", "0123456789abcdef")),
		  0, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0") ASKED RR("\300\14", "\1", "\60", "\5", "\1\2\3\4\5")), 0,
		  0, 0, 0 },
		/* a circle of CNAMEs; a CNAME beside an address; two CNAMEs */
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0") ASKED RR("\300\14", "\5", "\60", "\2", "\300\14")),
		  -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\2", "\0", "\0") ASKED RR("\300\14", "\5", "\60", "\3", "\1b\0")
			      RR("\300\14", "\1", "\60", "\4", "\1\2\3\4")),
		  -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\2", "\0", "\0") ASKED RR("\300\14", "\5", "\60", "\3", "\1b\0")
			      RR("\300\14", "\5", "\60", "\3", "\1c\0")),
		  -EBADMSG, 0, 0, 0 },
		/* a CNAME with something after its name; rdata longer than the message; a count that lies */
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0") ASKED RR("\300\14", "\5", "\60", "\4", "\1b\0x")),
		  -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0") ASKED RR("\300\14", "\1", "\60", "\5", "\1\2\3\4")),
		  -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\2", "\0", "\0") ASKED RR("\300\14", "\1", "\60", "\4", "\1\2\3\4")),
		  -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\0") ASKED RR("\300\14", "\1", "\60", "\4", "\1\2\3\4") "x"),
		  -EBADMSG, 0, 0, 0 },
		/* another question, another id, a query, truncated */
		{ LIT(HEAD("\x81\x80", "\1", "\0", "\0", "\0") "\7example\3net\0\0\1\0\1"), -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x81\x80", "\1", "\0", "\0", "\0") "\7example\3org\0\0\34\0\1"), -EBADMSG, 0, 0, 0 },
		{ LIT("\x12\x35\x81\x80\0\1\0\0\0\0\0\0" ASKED), -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") ASKED), -EBADMSG, 0, 0, 0 },
		{ LIT(HEAD("\x83\x80", "\1", "\0", "\0", "\0") ASKED), -EMSGSIZE, 0, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct dns_answer a;
		int r = dns_parse_answer(bytes(&table[i].m), table[i].m.n, 0x1234, "example.org", DNS_A, &a);

		cr_expect(r == table[i].r, "%zu: %d", i, r);
		if (r == 0)
			cr_expect(a.n_chain == table[i].chain && a.n_addr == table[i].addr &&
					  (a.n_addr == 0 || a.ttl == table[i].ttl),
				  "%zu: %zu %zu %u", i, a.n_chain, a.n_addr, a.ttl);
		if (r == 0 && a.n_addr)
			cr_expect(memcmp(&a.addr[0].s6_addr[12], "\1\2\3\4", 4) == 0, "%zu", i);
	}
}

Test(dns, how_long_a_no_holds)
{
	static const struct text no =
		LIT(HEAD("\x81\x83", "\1", "\0", "\1", "\0")
			    ASKED RR("\300\24", "\6", "\70", "\26", "\0\0\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\1\0\0\0\52"));
	struct dns_answer a;

	cr_assert(dns_parse_answer(bytes(&no), no.n, 0x1234, "example.org", DNS_A, &a) == 0);
	cr_expect(a.rcode == DNS_NXDOMAIN && a.ttl == 42, "%u", a.ttl);
}

/* The chain of pointers that costs most: each record's name points to the one before. */
Test(dns, deep_pointers_are_cheap)
{
	static uint8_t m[65535] = "\x12\x34\x81\x80\0\1\0\0\0\0\0\0" ASKED;
	size_t n = DNS_HEADER + 17, count = 0, before = DNS_HEADER;
	struct dns_answer a;

	while (n + 14 < sizeof(m) && n < 0x3fff) {
		m[n] = (uint8_t)(0xc0 | before >> 8);
		m[n + 1] = (uint8_t)before;
		memcpy(m + n + 2, "\0\1\0\1\0\0\0\60\0\0", 10);
		before = n;
		n += 12;
		count++;
	}
	m[6] = (uint8_t)(count >> 8);
	m[7] = (uint8_t)count;
	cr_expect(dns_parse_answer(m, n, 0x1234, "example.org", DNS_A, &a) == 0 && a.n_addr == 0);
}

static struct dns_query parsed(const char *name, uint16_t type, bool edns)
{
	uint8_t buf[512];
	struct dns_query q;
	ssize_t n = dns_build_query(buf, sizeof(buf), 7, name, type);

	cr_assert(n > 0 && dns_parse_query(buf, (size_t)n, &q) == 0);
	cr_assert(q.edns && q.udp_size == DNS_UDP_MAX && q.id == 7 && q.type == type && strcmp(q.name, name) == 0);
	q.edns = edns;
	return q;
}

Test(dns, building_and_back)
{
	struct dns_query q = parsed("www.example.org", DNS_AAAA, true);
	struct dns_answer a = { .ttl = 70000, .n_chain = 2, .n_addr = 2 }, b;
	uint8_t buf[DNS_MAX];
	ssize_t n;

	(void)snprintf(a.chain[0], POLICY_NAME_MAX, "a.cdn.example");
	(void)snprintf(a.chain[1], POLICY_NAME_MAX, "b.cdn.example");
	(void)inet_pton(AF_INET6, "2001:db8::1", &a.addr[0]);
	(void)inet_pton(AF_INET6, "2001:db8::2", &a.addr[1]);
	n = dns_build_answer(buf, sizeof(buf), &q, &a);
	cr_assert(n > 0 && dns_parse_answer(buf, (size_t)n, 7, "www.example.org", DNS_AAAA, &b) == 0);
	cr_expect(b.ttl == a.ttl && b.n_chain == 2 && b.n_addr == 2 && strcmp(b.chain[1], a.chain[1]) == 0 &&
		  memcmp(b.addr, a.addr, 2 * sizeof(a.addr[0])) == 0);
	/* Too small for it: the question and TC. */
	n = dns_build_answer(buf, 80, &q, &a);
	cr_expect(n > 0 && n <= 80 &&
		  dns_parse_answer(buf, (size_t)n, 7, "www.example.org", DNS_AAAA, &b) == -EMSGSIZE);
	cr_expect(dns_build_answer(buf, 20, &q, &a) == -EMSGSIZE);
	cr_expect(dns_build_query(buf, sizeof(buf), 7, "a..b", DNS_A) == -EINVAL);
	cr_expect(dns_build_query(buf, 16, 7, "example.org", DNS_A) == -EMSGSIZE);
}

Test(dns, an_answer_echoes_the_question_s_capitals)
{
	static const struct text m = LIT(HEAD("\1\0", "\1", "\0", "\0", "\0") "\7eXaMple\3orG\0\0\1\0\1");
	struct dns_answer a = { .rcode = DNS_NXDOMAIN };
	struct dns_query q;
	uint8_t buf[512];

	cr_assert(dns_parse_query(bytes(&m), m.n, &q) == 0);
	cr_expect(dns_build_answer(buf, sizeof(buf), &q, &a) == (ssize_t)m.n);
	cr_expect(memcmp(buf + DNS_HEADER, m.p + DNS_HEADER, m.n - DNS_HEADER) == 0 && (buf[3] & 15) == DNS_NXDOMAIN);
}

Test(dns, passing_on_cuts_what_is_not_an_answer)
{
	static const struct text m = LIT(HEAD("\x81\x80", "\1", "\1", "\0", "\1") "\7example\3org\0\0\20\0\1" RR(
		"\300\14", "\20", "\60", "\3", "\2hi") RR("\1x\0", "\1", "\60", "\4", "\6\6\6\6"));
	struct dns_query q = parsed("example.org", 16, false);
	enum dns_rcode rcode;
	uint8_t buf[512];
	size_t len;
	ssize_t n;

	cr_assert(dns_check_answer(bytes(&m), m.n, 0x1234, "example.org", 16, &len, &rcode) == 0 &&
		  rcode == DNS_NOERROR);
	n = dns_build_passed(buf, sizeof(buf), &q, bytes(&m), len);
	cr_expect(n == (ssize_t)(m.n - 3 - 14) && buf[7] == 1 && buf[11] == 0 && buf[1] == 7, "%zd", n);
}
