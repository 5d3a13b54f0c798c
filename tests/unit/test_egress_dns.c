#include "tests/unit/egress_fixture.h"

/* The resolver, through real namespaces: who is answered what, and what reaches the nameserver at all. */

static void set_up(void)
{
	if (geteuid() != 0)
		cr_skip_test("needs root for network namespaces");
	world_up(53);
}

TestSuite(egress_dns, .init = set_up, .fini = world_down, .timeout = 60);

static void mode(enum net_mode m, const char *const *rules, size_t n)
{
	tell(EGRESS_ADD, BOX, m, 0, "");
	for (size_t i = 0; i < n; i++)
		tell(EGRESS_ALLOW, BOX, NET_OFF, 0, rules[i]);
}

static const char *const RULES[] = { "ok.test",	    "alias.test", "rebind.test", "mixed.test", "evil.test",
				     "forged.test", "big.test",	  "silent.test", "loop.test",  "none.test",
				     "short.test",  "txt.test",	  "*.below.test" };

static bool is(const struct dns_answer *a, const char *ip)
{
	struct in_addr want;

	(void)inet_pton(AF_INET, ip, &want);
	return a->n_addr == 1 && memcmp(&a->addr[0].s6_addr[12], &want, 4) == 0;
}

Test(egress_dns, only_allowed_names_and_addresses)
{
	static const struct {
		const char *name;
		uint16_t type;
		enum dns_rcode rcode;
		const char *address; /* NULL: none */
		const char *blocked; /* the rule of the event, NULL: none is sent */
	} table[] = {
		{ "ok.test", DNS_A, DNS_NOERROR, PUBLIC, NULL },
		{ "mixed.test", DNS_AAAA, DNS_NOERROR, NULL, NULL },
		{ "ok.test", DNS_HTTPS, DNS_NOERROR, NULL, NULL },
		{ "ok.test", DNS_SVCB, DNS_NOERROR, NULL, NULL },
		{ "alias.test", DNS_A, DNS_NOERROR, PUBLIC, NULL },
		{ "none.test", DNS_A, DNS_NXDOMAIN, NULL, NULL },
		{ "evil.test", DNS_A, DNS_NOERROR, PUBLIC, NULL },
		{ "forged.test", DNS_A, DNS_NOERROR, PUBLIC, NULL },
		{ "_http._tcp.ok.test", DNS_SRV, DNS_NXDOMAIN, NULL, NULL },
		{ "txt.test", 16, DNS_REFUSED, NULL, "type-not-allowed" },
		{ "ok.test", DNS_ANY, DNS_REFUSED, NULL, "type-not-allowed" },
		{ "ok.test", 252, DNS_REFUSED, NULL, "type-not-allowed" },
		{ "a.cdn.test", DNS_A, DNS_NXDOMAIN, NULL, "not-in-allowlist" },
		{ "evil.example", DNS_A, DNS_NXDOMAIN, NULL, "not-in-allowlist" },
		{ "x.ok.test", DNS_A, DNS_NXDOMAIN, NULL, "not-in-allowlist" },
		{ "_http._tcp.evil.example", DNS_SRV, DNS_NXDOMAIN, NULL, "not-in-allowlist" },
		{ "rebind.test", DNS_A, DNS_NOERROR, NULL, "rebinding" },
		{ "mixed.test", DNS_A, DNS_NOERROR, PUBLIC, "rebinding" },
	};
	struct egress_event ev;

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct dns_answer a;

		cr_expect(ask(table[i].name, table[i].type, &a) == table[i].rcode, "%zu: %d", i, a.rcode);
		cr_expect(table[i].address ? is(&a, table[i].address) : a.n_addr == 0, "%zu: %zu", i, a.n_addr);
		if (!table[i].blocked)
			continue;
		do
			cr_assert(event(EGRESS_DNS, EGRESS_BLOCKED, &ev), "%zu: no event", i);
		while (strcmp(ev.host, table[i].name) != 0);
		cr_expect(strcmp(ev.rule, table[i].blocked) == 0, "%zu: %s", i, ev.rule);
	}
}

Test(egress_dns, refused_names_never_leave)
{
	unsigned int before;
	struct dns_answer a;
	char name[POLICY_NAME_MAX];

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	cr_assert(ask("ok.test", DNS_A, &a) == DNS_NOERROR);
	before = *w.queries;
	for (int i = 0; i < 50; i++) {
		(void)snprintf(name, sizeof(name), "nbswy3dpfqqho%d.tunnel.example", i);
		cr_expect(ask(name, DNS_A, &a) == DNS_NXDOMAIN);
	}
	cr_expect(*w.queries == before, "the nameserver heard of them");
	/* Names below a wildcard are the operator's choice. */
	cr_expect(ask("x.below.test", DNS_A, &a) == DNS_NXDOMAIN && *w.queries > before);
}

Test(egress_dns, cache)
{
	unsigned int before;
	struct dns_answer a;
	int64_t took[101];

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	cr_assert(ask("ok.test", DNS_A, &a) == DNS_NOERROR && a.ttl == 60);
	cr_assert(ask("none.test", DNS_A, &a) == DNS_NXDOMAIN);
	before = *w.queries;
	for (size_t i = 0; i < ARRAY_SIZE(took); i++) {
		int64_t start = clock_mono_us();

		cr_assert(ask("ok.test", DNS_A, &a) == DNS_NOERROR && a.ttl <= 60 && a.ttl >= 55);
		took[i] = clock_mono_us() - start;
		for (size_t k = i; k > 0 && took[k] < took[k - 1]; k--) {
			int64_t t = took[k];

			took[k] = took[k - 1];
			took[k - 1] = t;
		}
	}
	cr_expect(ask("none.test", DNS_A, &a) == DNS_NXDOMAIN);
	cr_expect(*w.queries == before, "asked again");
	fprintf(stderr, "an answer from the cache: p50 %ld us, p99 %ld us\n", took[50], took[100]);
	cr_expect(took[50] < 20000);
	(void)ask("short.test", DNS_A, &a);
	(void)ask("short.test", DNS_A, &a);
	cr_expect(*w.queries == before + 2, "a TTL of 0 is not kept");
}

Test(egress_dns, silence_and_circles_end_in_servfail)
{
	struct dns_answer a;
	struct egress_event ev;
	int64_t start = clock_mono_us();

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	cr_expect(ask("silent.test", DNS_A, &a) == DNS_SERVFAIL);
	cr_expect(clock_mono_us() - start < 4500000);
	cr_expect(event(EGRESS_DNS, EGRESS_FAILED, &ev) && strcmp(ev.host, "silent.test") == 0);
	cr_expect(ask("loop.test", DNS_A, &a) == DNS_SERVFAIL);
}

static int dns_tcp(void)
{
	return client(SOCK_STREAM, "8.8.8.8", 53); /* any resolver is ours */
}

static size_t framed(uint8_t *buf, const char *name, uint16_t type)
{
	ssize_t n = dns_build_query(buf + 2, 512, 77, name, type);

	buf[0] = (uint8_t)(n >> 8);
	buf[1] = (uint8_t)n;
	return (size_t)n + 2;
}

static ssize_t read_framed(int fd, uint8_t *buf)
{
	if (fd_read_all(fd, buf, 2) != 2)
		return -1;
	return fd_read_all(fd, buf + 2, (size_t)buf[0] << 8 | buf[1]);
}

Test(egress_dns, over_tcp)
{
	static uint8_t buf[DNS_MAX + 2];
	struct dns_answer a;
	size_t n;
	ssize_t k;
	int fd = dns_tcp();

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	(void)usleep(20000);
	(void)close(fd);
	fd = dns_tcp();
	cr_assert(fd >= 0);
	/* Byte by byte, then two in one segment. */
	n = framed(buf, "ok.test", DNS_A);
	for (size_t i = 0; i < n; i++)
		cr_assert(send(fd, buf + i, 1, MSG_NOSIGNAL) == 1);
	k = read_framed(fd, buf);
	cr_expect(k > 0 && dns_parse_answer(buf + 2, (size_t)k, 77, "ok.test", DNS_A, &a) == 0 && is(&a, PUBLIC));
	n = framed(buf, "ok.test", DNS_A);
	n += framed(buf + n, "evil.example", DNS_A);
	cr_assert(send(fd, buf, n, 0) == (ssize_t)n);
	k = read_framed(fd, buf);
	cr_expect(k > 0 && dns_parse_answer(buf + 2, (size_t)k, 77, "ok.test", DNS_A, &a) == 0);
	k = read_framed(fd, buf);
	cr_expect(k > 0 && dns_parse_answer(buf + 2, (size_t)k, 77, "evil.example", DNS_A, &a) == 0 &&
		  a.rcode == DNS_NXDOMAIN);
	/* Truncated by the nameserver: asked again over TCP, and whole for a TCP client. */
	n = framed(buf, "big.test", DNS_A);
	cr_assert(send(fd, buf, n, 0) == (ssize_t)n);
	k = read_framed(fd, buf);
	cr_expect(k > 0 && dns_parse_answer(buf + 2, (size_t)k, 77, "big.test", DNS_A, &a) == 0 && a.n_addr == 30,
		  "%zd %zu", k, a.n_addr);
	(void)shutdown(fd, SHUT_WR);
	cr_expect(read(fd, buf, 1) == 0, "our end closes too");
	(void)close(fd);
}

Test(egress_dns, hostile_messages)
{
	static uint8_t big[DNS_MAX + 2];
	static const struct {
		const char *p;
		size_t n;
		int rcode; /* -1: silence */
	} table[] = {
		{ "\0\7\1\0\0\1\0\0\0\0\0\0\300\14\0\1\0\1", 18, DNS_FORMERR },	     /* a pointer at itself */
		{ "\0\7\1\0\0\1\0\0\0\0\0\0\300\20\0\1\0\1", 18, DNS_FORMERR },	     /* forward */
		{ "\0\7\1\0\0\2\0\0\0\0\0\0\2ok\4test\0\0\1\0\1", 25, DNS_FORMERR }, /* two, says it */
		{ "\0\7\1\0\0\1\0\0\0\0\0\0\2ok\4te", 18, DNS_FORMERR },
		{ "\0\7\1\0\0\1\0\0\0\0\0\0\2ok\4test\0\0\1\0\3", 25, DNS_REFUSED },  /* CHAOS */
		{ "\0\7\x28\0\0\1\0\0\0\0\0\0\2ok\4test\0\0\6\0\1", 25, DNS_NOTIMP }, /* an update */
		{ "\0\7\x81\0\0\1\0\0\0\0\0\0\2ok\4test\0\0\1\0\1", 25, -1 },
		{ "\0\7\1", 3, -1 },
	};
	struct dns_answer a;
	int fd = client(SOCK_DGRAM, GATEWAY_RESOLVER, 53);

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	cr_assert(ask("ok.test", DNS_A, &a) == DNS_NOERROR);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		uint8_t buf[512];

		cr_assert(send(fd, table[i].p, table[i].n, 0) == (ssize_t)table[i].n);
		if (table[i].rcode < 0) {
			cr_expect(poll(&p, 1, 150) == 0, "%zu", i);
			continue;
		}
		cr_expect(recv(fd, buf, sizeof(buf), 0) >= DNS_HEADER && buf[1] == 7 && (buf[3] & 15) == table[i].rcode,
			  "%zu: %d", i, buf[3] & 15);
	}
	(void)close(fd);
	fd = dns_tcp(); /* 64 KB that mean nothing */
	memset(big, 0xc0, sizeof(big));
	big[0] = big[1] = 0xff;
	memcpy(big + 2, "\0\7\1\0\0\1\0\0\0\0\0\0", 12);
	cr_expect(fd_write_all(fd, big, sizeof(big)) == 0 && read_framed(fd, big) == DNS_HEADER &&
		  (big[5] & 15) == DNS_FORMERR);
	(void)close(fd);
	cr_expect(ask("ok.test", DNS_A, &a) == DNS_NOERROR, "and goes on");
}

/* A sandbox that asks without end; another is answered meanwhile. */
Test(egress_dns, floods)
{
	static uint8_t buf[DNS_MAX], query[512];
	ssize_t n = dns_build_query(query, sizeof(query), 1, "silent.test", DNS_A);
	struct dns_answer a;
	int fd, conns[60], open = 0;

	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	tell(EGRESS_ADD, BOX2, NET_RESTRICTED, 0, "");
	tell(EGRESS_ALLOW, BOX2, NET_OFF, 0, "ok.test");
	cr_assert(ask("ok.test", DNS_A, &a) == DNS_NOERROR);
	fd = client(SOCK_DGRAM, GATEWAY_RESOLVER, 53);
	for (int i = 0; i < 5000; i++)
		(void)send(fd, query, (size_t)n, MSG_DONTWAIT);
	(void)usleep(100000);
	cr_expect(ask_from("100.64.0.26", "ok.test", DNS_A, buf, &a) > 0 && is(&a, PUBLIC));
	/* Connections that say nothing are few, and don't live long. */
	for (size_t i = 0; i < ARRAY_SIZE(conns); i++)
		conns[i] = dns_tcp();
	(void)usleep(100000);
	for (size_t i = 0; i < ARRAY_SIZE(conns); i++) {
		ssize_t k = recv(conns[i], buf, 1, MSG_DONTWAIT);

		open += k < 0 && errno == EAGAIN;
	}
	cr_expect(open == 32, "%d", open);
	cr_expect(ask_from("100.64.0.26", "ok.test", DNS_A, buf, &a) > 0);
	(void)close(fd);
}

Test(egress_dns, open_mode_forwards_all_types)
{
	static uint8_t buf[DNS_MAX];
	struct dns_answer a;

	mode(NET_OPEN, NULL, 0);
	cr_expect(ask("other.test", DNS_A, &a) == DNS_NOERROR && is(&a, PUBLIC2));
	cr_expect(ask_from("100.64.0.22", "txt.test", 16, buf, NULL) > 40 && memmem(buf, 100, "\5hello", 6));
	cr_expect(ask("rebind.test", DNS_A, &a) == DNS_NOERROR && a.n_addr == 0);
	cr_expect(ask("localhost", DNS_A, &a) == DNS_NOERROR && is(&a, "127.0.0.1"));
	tell(EGRESS_ADD, BOX, NET_OPEN, EGRESS_ALLOW_PRIVATE, "");
	(void)usleep(20000);
	cr_expect(ask("rebind.test", DNS_A, &a) == DNS_NOERROR && a.n_addr == 2);
}

Test(egress_dns, the_zone)
{
	struct dns_answer a;
	int fd;

	tell(EGRESS_ZONE, 0, NET_OFF, 0, "db.internal=10.0.0.1");
	tell(EGRESS_ZONE, 0, NET_OFF, 0, "db.internal=2001:db8::1");
	mode(NET_OPEN, NULL, 0);
	cr_expect(ask("db.internal", DNS_A, &a) == DNS_NOERROR && is(&a, "10.0.0.1"));
	cr_expect(ask("db.internal", DNS_AAAA, &a) == DNS_NOERROR && a.n_addr == 1);
	cr_expect(ask("db.internal", 16, &a) == DNS_NOERROR);
	fd = client(SOCK_STREAM, "10.0.0.1", 7000);
	cr_expect(echoes(fd, "x", 1), "the operator's own name for it");
	(void)close(fd);
}

/* A gateway whose resolver sits at another port: the answer still comes from where it was asked. */
TestSuite(egress_dns_port, .fini = world_down, .timeout = 60);

Test(egress_dns_port, answers_come_from_the_port_that_was_asked)
{
	uint8_t one[512], two[512], in[512];
	struct dns_answer a;
	ssize_t n, m;
	int fd;

	if (geteuid() != 0)
		cr_skip_test("needs root for network namespaces");
	world_up(5353);
	mode(NET_RESTRICTED, RULES, ARRAY_SIZE(RULES));
	cr_expect(ask("ok.test", DNS_A, &a) == DNS_NOERROR && is(&a, PUBLIC));
	/* As glibc does: two questions at once from one socket, here with answers that are cached. */
	cr_expect(ask("ok.test", DNS_AAAA, &a) == DNS_NOERROR);
	n = dns_build_query(one, sizeof(one), 1, "ok.test", DNS_A);
	m = dns_build_query(two, sizeof(two), 2, "ok.test", DNS_AAAA);
	fd = client(SOCK_DGRAM, GATEWAY_RESOLVER, 53);
	for (int i = 0; i < 2000; i++) {
		cr_assert(send(fd, one, (size_t)n, 0) == n && send(fd, two, (size_t)m, 0) == m);
		cr_assert(recv(fd, in, sizeof(in), 0) > 0 && recv(fd, in, sizeof(in), 0) > 0, "%d", i);
	}
	(void)close(fd);
	/* From two addresses in turn. */
	for (int i = 0; i < 4; i++) {
		fd = client(SOCK_DGRAM, i % 2 ? "8.8.8.8" : "1.1.1.1", 53);
		cr_assert(send(fd, one, (size_t)n, 0) == n && recv(fd, in, sizeof(in), 0) > 0, "%d", i);
		(void)close(fd);
	}
}
