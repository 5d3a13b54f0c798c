#pragma once
/* Three network namespaces for the egress process's tests: a "host" with servers on addresses of its own (public
 * ones too: nothing leaves it), a "gateway" with the transparent sockets, and a "sandbox" behind a veth. A thread
 * of one process makes sockets in whichever it has entered. Needs root and iproute2, nftables. */

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "netpolicy/dns.h"
#include "netpolicy/egress.h"
#include "tests/unit/slow.h"

#define PUBLIC "93.184.216.34"	/* an address of the "host" */
#define PUBLIC2 "93.184.216.35" /* another */
#define PUBLIC6 "2606:4700::1111"
#define BOX 5u	/* 100.64.0.22, fd6f:726b::16 */
#define BOX2 6u /* 100.64.0.26, in the same namespace */

struct world {
	int host, gateway, sandbox; /* namespaces */
	int control, events;
	pid_t egress, dialer, dns, tcp, taker;
	unsigned int *queries; /* how many the nameserver has seen */
};

static struct world w;

/* The gateway's part of the contract, so that this test needs nothing of it. */
__attribute__((weak)) int gateway_index_of(const struct in6_addr *a)
{
	uint32_t v4;

	memcpy(&v4, &a->s6_addr[12], 4);
	v4 = ntohl(v4);
	if (memcmp(a, "\xfd\x6f\x72\x6b\0\0\0\0\0\0\0", 12) == 0 && (v4 & 3) == 2 && v4 / 4 < GATEWAY_MAX)
		return (int)v4 / 4;
	if (!IN6_IS_ADDR_V4MAPPED(a))
		return -1;
	if ((v4 & 0xffc00000u) != 0x64400000u || (v4 & 3) != 2 || (v4 & 0x3fffff) / 4 >= GATEWAY_MAX)
		return -1;
	return (int)((v4 & 0x3fffff) / 4);
}

/* Its log of refusals is a socket that carries the struct here. */
__attribute__((weak)) int gateway_read_refused(int nflog, gateway_refused_fn fn, void *arg)
{
	struct gateway_refused r;

	if (recv(nflog, &r, sizeof(r), MSG_DONTWAIT) != sizeof(r))
		return -EAGAIN;
	fn(arg, &r);
	return 1;
}

/* Nothing is asked here. */
__attribute__((weak)) int gateway_read_asked(int queue _unused_, gateway_asked_fn fn _unused_, void *arg _unused_)
{
	return -EAGAIN;
}

__attribute__((weak)) int gateway_answer(int queue _unused_, uint32_t id _unused_, enum gateway_mark mark _unused_)
{
	return 0;
}

static void enter(int ns)
{
	cr_assert(setns(ns, CLONE_NEWNET) == 0);
}

static int new_namespace(void)
{
	int fd;

	cr_assert(unshare(CLONE_NEWNET) == 0, "errno %d", errno);
	fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	cr_assert(fd >= 0);
	return fd;
}

static void run(const char *script)
{
	int status;
	pid_t p = fork();

	if (p == 0) {
		execl("/bin/sh", "sh", "-ec", script, (char *)NULL);
		_exit(127);
	}
	cr_assert(waitpid(p, &status, 0) == p && status == 0, "failed: %s", script);
}

static pid_t child(void)
{
	pid_t p = fork();

	cr_assert(p >= 0);
	if (p == 0)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	return p;
}

static struct sockaddr_storage sa(const char *ip, unsigned int port, socklen_t *ret_len)
{
	struct sockaddr_storage ss = { 0 };
	struct sockaddr_in6 *v6 = (void *)&ss;
	struct sockaddr_in *v4 = (void *)&ss;

	*ret_len = sizeof(*v4);
	v4->sin_family = AF_INET;
	v4->sin_port = htons((uint16_t)port);
	if (inet_pton(AF_INET, ip, &v4->sin_addr) == 1)
		return ss;
	*ret_len = sizeof(*v6);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	cr_assert(inet_pton(AF_INET6, ip, &v6->sin6_addr) == 1, "%s", ip);
	return ss;
}

static int bound(int type, const char *ip, unsigned int port, bool transparent)
{
	socklen_t n;
	struct sockaddr_storage a = sa(ip, port, &n);
	bool v6 = a.ss_family == AF_INET6;
	int fd = socket(a.ss_family, type | SOCK_CLOEXEC, 0), one = 1;

	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (v6)
		(void)setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (transparent)
		cr_assert(setsockopt(fd, v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &one,
				     sizeof(one)) == 0);
	cr_assert(bind(fd, (struct sockaddr *)&a, n) == 0, "%s:%u errno %d", ip, port, errno);
	if (type == SOCK_STREAM)
		cr_assert(listen(fd, 1024) == 0);
	return fd;
}

/* --- the host's servers --- */

/* Sends back what it gets, and "BYE" after the end of it; or, a sink, counts and says how much. */
static void tcp_session(int fd, bool sink)
{
	static char buf[262144];
	uint64_t total = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		total += (uint64_t)n;
		if (!sink && fd_write_all(fd, buf, (size_t)n) < 0)
			_exit(1);
	}
	if (n == 0)
		(void)fd_write_all(fd, sink ? (void *)&total : "BYE", sink ? sizeof(total) : 3);
	_exit(0);
}

static void tcp_servers(const int *fds, size_t n, size_t sink)
{
	struct pollfd p[16];

	(void)signal(SIGCHLD, SIG_IGN);
	for (size_t i = 0; i < n; i++)
		p[i] = (struct pollfd){ .fd = fds[i], .events = POLLIN };
	for (;;) {
		(void)poll(p, n, -1);
		for (size_t i = 0; i < n; i++)
			if (p[i].revents) {
				int fd = accept(fds[i], NULL, NULL);

				if (fork() == 0) {
					(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
					tcp_session(fd, i == sink);
				}
				(void)close(fd);
			}
	}
}

struct record {
	const char *asked;
	uint16_t type;
	const char *owner, *cname, *address;
	uint32_t ttl;
};

static const struct record RECORDS[] = {
	{ "ok.test", DNS_A, "ok.test", NULL, PUBLIC, 60 },
	{ "big.test", DNS_A, "big.test", NULL, PUBLIC, 60 },
	{ "other.test", DNS_A, "other.test", NULL, PUBLIC2, 60 },
	{ "shared.test", DNS_A, "shared.test", NULL, PUBLIC, 60 },
	{ "short.test", DNS_A, "short.test", NULL, PUBLIC, 0 },
	{ "alias.test", DNS_A, "alias.test", "a.cdn.test", NULL, 60 },
	{ "alias.test", DNS_A, "a.cdn.test", "b.cdn.test", NULL, 60 },
	{ "alias.test", DNS_A, "b.cdn.test", NULL, PUBLIC, 30 },
	{ "loop.test", DNS_A, "loop.test", "loop2.test", NULL, 60 },
	{ "loop.test", DNS_A, "loop2.test", "loop.test", NULL, 60 },
	{ "rebind.test", DNS_A, "rebind.test", NULL, "10.0.0.1", 60 },
	{ "rebind.test", DNS_A, "rebind.test", NULL, "127.0.0.1", 60 },
	{ "mixed.test", DNS_A, "mixed.test", NULL, "192.168.1.1", 60 },
	{ "mixed.test", DNS_A, "mixed.test", NULL, PUBLIC, 60 },
	{ "evil.test", DNS_A, "victim.test", NULL, "6.6.6.6", 60 },
	{ "evil.test", DNS_A, "evil.test", NULL, PUBLIC, 60 },
	{ "ok.test", DNS_AAAA, "ok.test", NULL, PUBLIC6, 60 },
	{ "txt.test", 16, "txt.test", NULL, "", 60 },
};

static size_t put_dns_name(uint8_t *p, const char *name)
{
	size_t n = 0;

	while (*name) {
		size_t k = strcspn(name, ".");

		p[n++] = (uint8_t)k;
		memcpy(p + n, name, k);
		n += k;
		name += k + (name[k] == '.');
	}
	p[n++] = 0;
	return n;
}

static size_t put_record(uint8_t *p, const struct record *r)
{
	size_t n = put_dns_name(p, r->owner), len;
	uint16_t type = r->cname ? DNS_CNAME : r->type;
	uint8_t *rdata;

	memcpy(p + n, (uint8_t[]){ 0, (uint8_t)type, 0, 1, 0, 0, 0, (uint8_t)r->ttl }, 8);
	rdata = p + n + 10;
	if (r->cname) {
		len = put_dns_name(rdata, r->cname);
	} else if (type == DNS_A || type == DNS_AAAA) {
		(void)inet_pton(type == DNS_A ? AF_INET : AF_INET6, r->address, rdata);
		len = type == DNS_A ? 4 : 16;
	} else {
		memcpy(rdata, "\5hello", 6);
		len = 6;
	}
	p[n + 8] = 0;
	p[n + 9] = (uint8_t)len;
	return n + 10 + len;
}

/* Its own writer on purpose: the tested one must not check itself. */
static size_t nameserver_answer(const uint8_t *q, size_t n, bool tcp, uint8_t *out)
{
	struct dns_query query;
	size_t len, count = 0, repeat;
	bool known = false;

	if (dns_parse_query(q, n, &query) < 0 || strcmp(query.name, "silent.test") == 0)
		return 0;
	len = DNS_HEADER + query.question_len;
	memcpy(out, q, len);
	memset(out + 4, 0, 8);
	out[2] = 0x81;
	out[5] = 1;
	repeat = tcp && strcmp(query.name, "big.test") == 0 ? 30 : 1;
	for (size_t i = 0; i < ARRAY_SIZE(RECORDS); i++) {
		if (strcmp(RECORDS[i].asked, query.name) != 0)
			continue;
		known = true;
		for (size_t k = 0; k < repeat && RECORDS[i].type == query.type; k++, count++)
			len += put_record(out + len, &RECORDS[i]);
	}
	out[3] = known ? 0x80 : 0x83;
	out[7] = (uint8_t)count;
	if (!tcp && strcmp(query.name, "big.test") == 0) {
		out[2] |= 2; /* truncated */
		out[7] = 0;
		len = DNS_HEADER + query.question_len;
	}
	if (!known) { /* an SOA, so that the "no" may be kept */
		len += put_dns_name(out + len, "test");
		memcpy(out + len, "\0\6\0\1\0\0\0\74\0\26\0\0", 12);
		memset(out + len + 12, 0, 20);
		out[len + 31] = 60;
		out[9] = 1;
		len += 32;
	}
	return len;
}

static void nameserver_udp(int udp, const uint8_t *in, size_t n, const struct sockaddr_in *from)
{
	uint8_t out[4096];
	size_t len = nameserver_answer(in, n, false, out);

	++*w.queries;
	if (memmem(in, n, "forged", 6)) { /* first an answer with another id, and one to another question */
		uint8_t bad[4096];
		const char *ip = "6.6.6.6";
		struct record r = { "", DNS_A, "forged.test", NULL, ip, 60 };

		memcpy(out, in, n);
		len = DNS_HEADER + 17;
		memset(out + 4, 0, 8);
		out[2] = 0x81, out[3] = 0x80, out[5] = 1, out[7] = 1;
		len += put_record(out + len, &r);
		memcpy(bad, out, len);
		bad[0] ^= 1;
		(void)sendto(udp, bad, len, 0, (const struct sockaddr *)from, sizeof(*from));
		memcpy(bad, out, len);
		bad[14] ^= 1;
		(void)sendto(udp, bad, len, 0, (const struct sockaddr *)from, sizeof(*from));
		(void)inet_pton(AF_INET, PUBLIC, out + len - 4);
	}
	if (len)
		(void)sendto(udp, out, len, 0, (const struct sockaddr *)from, sizeof(*from));
}

static void nameserver(int udp, int tcp)
{
	struct pollfd p[2] = { { .fd = udp, .events = POLLIN }, { .fd = tcp, .events = POLLIN } };
	static uint8_t in[65537], out[65537];

	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		ssize_t n;

		(void)poll(p, 2, -1);
		if (p[0].revents && (n = recvfrom(udp, in, sizeof(in), 0, (struct sockaddr *)&from, &len)) > 0)
			nameserver_udp(udp, in, (size_t)n, &from);
		if (p[1].revents) {
			int fd = accept(tcp, NULL, NULL);

			n = fd_read_all(fd, in, 2);
			n = fd_read_all(fd, in, (size_t)in[0] << 8 | in[1]);
			len = (socklen_t)nameserver_answer(in, (size_t)n, true, out + 2);
			out[0] = (uint8_t)(len >> 8);
			out[1] = (uint8_t)len;
			++*w.queries;
			(void)fd_write_all(fd, out, len + 2);
			(void)close(fd);
		}
	}
}

static _noreturn_ void udp_echo(int fd)
{
	char buf[2048];

	for (;;) {
		struct sockaddr_storage from;
		socklen_t n = sizeof(from);
		ssize_t k = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &n);

		if (k >= 0)
			(void)sendto(fd, buf, (size_t)k, 0, (struct sockaddr *)&from, n);
	}
}

static void start_servers(void)
{
	int tcp[6], udp, udp6, dns_udp, dns_tcp;

	enter(w.host);
	run("ip link set lo up; ip addr add " PUBLIC "/32 dev lo; ip addr add " PUBLIC2 "/32 dev lo;"
	    "ip addr add 10.0.0.1/32 dev lo; ip addr add " PUBLIC6 "/128 dev lo nodad");
	tcp[0] = bound(SOCK_STREAM, "0.0.0.0", 443, false);
	tcp[1] = bound(SOCK_STREAM, "0.0.0.0", 80, false);
	tcp[2] = bound(SOCK_STREAM, "0.0.0.0", 7000, false);
	tcp[3] = bound(SOCK_STREAM, "0.0.0.0", 7001, false); /* the sink */
	tcp[4] = bound(SOCK_STREAM, "127.0.0.1", 8443, false);
	tcp[5] = bound(SOCK_STREAM, PUBLIC6, 443, false);
	udp = bound(SOCK_DGRAM, "0.0.0.0", 7000, false);
	udp6 = bound(SOCK_DGRAM, PUBLIC6, 7000, false);
	dns_udp = bound(SOCK_DGRAM, "127.0.0.1", 5300, false);
	dns_tcp = bound(SOCK_STREAM, "127.0.0.1", 5300, false);
	w.tcp = child();
	if (w.tcp == 0)
		tcp_servers(tcp, 6, 3);
	w.dns = child();
	if (w.dns == 0) {
		if (child() == 0) { /* the UDP echo */
			if (child() == 0)
				udp_echo(udp6);
			udp_echo(udp);
		}
		nameserver(dns_udp, dns_tcp);
	}
	for (int i = 0; i < 6; i++)
		(void)close(tcp[i]);
	(void)close(udp);
	(void)close(udp6);
	(void)close(dns_udp);
	(void)close(dns_tcp);
}

/* --- the daemon's part of holding refusals: every event is taken in at once, and goes on to the test --- */

static _noreturn_ void take_in(int egress, int test)
{
	static struct egress_event ev;

	(void)fd_set_nonblock(test, true); /* a test that does not listen holds nobody up */
	while (fd_recv_msg(egress, &ev, sizeof(ev), NULL, 0, NULL) == sizeof(ev)) {
		const struct egress_msg noted = { .magic = EGRESS_MAGIC, .type = EGRESS_NOTED, .token = ev.token };

		if (ev.type == EGRESS_EVENT && ev.token)
			(void)fd_send_msg(egress, &noted, sizeof(noted), NULL, 0);
		(void)fd_send_msg(test, &ev, sizeof(ev), NULL, 0);
	}
	_exit(0);
}

/* --- the gateway --- */

static int nflog_writer;

static void start_egress(unsigned int dns_port)
{
	struct gateway_sockets s = {
		.tcp = { -1, -1 }, .udp = { -1, -1 }, .dns_tcp = { -1, -1 }, .dns_udp = { -1, -1 }, .queue = -1
	};
	struct egress_config c = { .sockets = &s, .nameservers = { "127.0.0.1#5301", "127.0.0.1#5300" } };
	int control[2], dialer[2], nflog[2], test[2];

	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) == 0);
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, test) == 0);
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, dialer) == 0);
	cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, nflog) == 0);
	enter(w.host);
	w.dialer = child();
	if (w.dialer == 0)
		dialer_main(dialer[1]);
	enter(w.gateway);
	s.tcp[0] = bound(SOCK_STREAM, "127.0.0.1", 4000, true);
	s.udp[0] = bound(SOCK_DGRAM, "127.0.0.1", 4000, true);
	s.dns_tcp[0] = bound(SOCK_STREAM, "127.0.0.1", dns_port, true);
	s.dns_udp[0] = bound(SOCK_DGRAM, "127.0.0.1", dns_port, true);
	s.tcp[1] = bound(SOCK_STREAM, "::1", 4000, true);
	s.udp[1] = bound(SOCK_DGRAM, "::1", 4000, true);
	s.dns_tcp[1] = bound(SOCK_STREAM, "::1", dns_port, true);
	s.dns_udp[1] = bound(SOCK_DGRAM, "::1", dns_port, true);
	s.nflog = nflog[1];
	c.control = control[1];
	c.dialer = dialer[0];
	w.egress = child();
	if (w.egress == 0) {
		(void)close(control[0]);
		(void)close(dialer[1]);
		(void)close(test[0]);
		(void)close(test[1]);
		egress_main(&c);
	}
	w.taker = child();
	if (w.taker == 0) {
		(void)close(control[1]);
		(void)close(test[0]);
		for (int i = 0; i < 2; i++)
			(void)close(dialer[i]);
		take_in(control[0], test[1]);
	}
	(void)close(test[1]);
	for (int i = 0; i < 2; i++)
		(void)close(dialer[i]);
	(void)close(control[1]);
	(void)close(nflog[1]);
	w.control = control[0];
	w.events = test[0];
	nflog_writer = nflog[0];
	for (int i = 0; i < 2; i++) {
		(void)close(s.tcp[i]);
		(void)close(s.udp[i]);
		(void)close(s.dns_tcp[i]);
		(void)close(s.dns_udp[i]);
	}
}

static const char GATEWAY[] =
	"ip link set lo up; ip link add v5 type veth peer name eth0 netns /proc/%d/fd/%d;"
	"ip addr add 100.64.0.21/30 dev v5; ip addr add 100.64.0.25/30 dev v5;"
	"ip addr add fd6f:726b::15/126 dev v5 nodad; ip link set v5 up;"
	"ip route add local default dev lo table 100; ip rule add fwmark 1 lookup 100;"
	"ip -6 route add local default dev lo table 100; ip -6 rule add fwmark 1 lookup 100;"
	"nft -f - <<'END'\n"
	"table inet t {\n chain pre {\n type filter hook prerouting priority mangle;\n"
	"  iifname v5 meta l4proto ipv6-icmp accept\n"
	"  iifname v5 meta nfproto ipv4 meta l4proto { tcp, udp } th dport 53 tproxy ip to 127.0.0.1:%u meta mark set "
	"1 accept\n"
	"  iifname v5 meta nfproto ipv4 meta l4proto { tcp, udp } tproxy ip to 127.0.0.1:4000 meta mark set 1 accept\n"
	"  iifname v5 meta nfproto ipv6 meta l4proto { tcp, udp } th dport 53 tproxy ip6 to [::1]:%u meta mark set 1 "
	"accept\n"
	"  iifname v5 meta nfproto ipv6 meta l4proto { tcp, udp } tproxy ip6 to [::1]:4000 meta mark set 1 accept\n"
	" }\n}\nEND\n";

static void world_up(unsigned int dns_port)
{
	char script[2048];

	w.queries = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	w.host = new_namespace();
	w.sandbox = new_namespace();
	w.gateway = new_namespace();
	(void)snprintf(script, sizeof(script), GATEWAY, getpid(), w.sandbox, dns_port, dns_port);
	run(script);
	enter(w.sandbox);
	run("ip link set lo up; ip addr add 100.64.0.22/30 dev eth0; ip addr add 100.64.0.26/30 dev eth0;"
	    "ip addr add fd6f:726b::16/126 dev eth0 nodad; ip link set eth0 up;"
	    "ip route add default via 100.64.0.21; ip -6 route add default via fd6f:726b::15");
	start_servers();
	start_egress(dns_port);
	enter(w.sandbox);
}

static void kill_wait(pid_t p)
{
	if (p > 0 && kill(p, SIGKILL) == 0)
		(void)waitpid(p, NULL, 0);
}

static void world_down(void)
{
	kill_wait(w.tcp);
	kill_wait(w.dns);
	kill_wait(w.egress);
	kill_wait(w.dialer);
	kill_wait(w.taker);
}

/* --- the daemon's side --- */

static void tell(enum egress_msg_type type, uint32_t index, enum net_mode mode, unsigned int flags, const char *text)
{
	struct egress_msg m = {
		.magic = EGRESS_MAGIC, .type = type, .index = index, .mode = mode, .flags = flags, .value = 1
	};

	(void)snprintf(m.text, sizeof(m.text), "%s", text);
	cr_assert(fd_send_msg(w.control, &m, sizeof(m), NULL, 0) == 0);
}

/* The next event of this kind and verdict within 3 s (slow.h); others are passed over. */
static _unused_ bool event(enum egress_kind kind, enum egress_verdict verdict, struct egress_event *ret)
{
	int64_t end = clock_mono_us() + (int64_t)slow_ms(3000) * 1000;

	while (clock_mono_us() < end) {
		struct pollfd p = { .fd = w.events, .events = POLLIN };

		if (poll(&p, 1, 100) != 1)
			continue;
		if (fd_recv_msg(w.events, ret, sizeof(*ret), NULL, 0, NULL) != sizeof(*ret))
			return false;
		if (ret->magic == EGRESS_MAGIC && ret->kind == kind && ret->verdict == verdict)
			return true;
	}
	return false;
}

/* --- the sandbox's side --- */

static int client_from(const char *from, int type, const char *ip, unsigned int port)
{
	socklen_t n, own_n;
	struct sockaddr_storage a = sa(ip, port, &n), own = sa(from, 0, &own_n);
	struct timeval limit = { .tv_sec = (time_t)slow_ms(8000) / 1000 };
	int fd = socket(a.ss_family, type | SOCK_CLOEXEC, 0);

	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	cr_assert(bind(fd, (struct sockaddr *)&own, own_n) == 0, "%s: errno %d", from, errno);
	if (connect(fd, (struct sockaddr *)&a, n) < 0) {
		(void)close(fd);
		return -1;
	}
	return fd;
}

static _unused_ int client(int type, const char *ip, unsigned int port)
{
	return client_from(strchr(ip, ':') ? "fd6f:726b::16" : "100.64.0.22", type, ip, port);
}

/* Asks the resolver; the answer's length, *ret_answer parsed. */
static _unused_ ssize_t ask_from(const char *from, const char *name, uint16_t type, uint8_t *buf,
				 struct dns_answer *ret)
{
	int fd = client_from(from, SOCK_DGRAM, strchr(from, ':') ? "fd6f:726b::15" : GATEWAY_RESOLVER, 53);
	ssize_t n = dns_build_query(buf, 512, 77, name, type);

	cr_assert(fd >= 0 && n > 0 && send(fd, buf, (size_t)n, 0) == n);
	n = recv(fd, buf, DNS_MAX, 0);
	(void)close(fd);
	if (n > 0 && ret && dns_parse_answer(buf, (size_t)n, 77, name, type, ret) < 0)
		return -EBADMSG;
	return n;
}

static _unused_ enum dns_rcode ask(const char *name, uint16_t type, struct dns_answer *ret)
{
	static uint8_t buf[DNS_MAX];
	ssize_t n = ask_from("100.64.0.22", name, type, buf, ret);

	cr_assert(n > 0, "%s: no answer (%zd)", name, n);
	return ret->rcode;
}

/* True if what is sent comes back. */
static _unused_ bool echoes(int fd, const void *p, size_t n)
{
	char buf[4096];

	if (fd < 0 || fd_write_all(fd, p, n) < 0 || n > sizeof(buf))
		return false;
	return fd_read_all(fd, buf, n) == (ssize_t)n && memcmp(buf, p, n) == 0;
}

/* True if the connection was reset, and at once (ms; slow.h). */
static _unused_ bool is_reset(int fd, int within_ms)
{
	int64_t start = clock_mono_us();
	char c;
	ssize_t n = fd < 0 ? -1 : read(fd, &c, 1);

	return n < 0 && (fd < 0 || errno == ECONNRESET || errno == EPIPE) &&
	       clock_mono_us() - start < (int64_t)slow_ms((uint64_t)within_ms) * 1000;
}

/* A ClientHello with this SNI ("" for none). */
static _unused_ size_t client_hello(uint8_t *p, const char *sni)
{
	size_t k = strlen(sni), ext = k ? 9 + k : 0, n = 0;
	size_t body = 2 + 32 + 1 + 4 + 2 + 2 + ext + 4;

	p[n++] = 22, p[n++] = 3, p[n++] = 1;
	p[n++] = (uint8_t)((body + 4) >> 8), p[n++] = (uint8_t)(body + 4);
	p[n++] = 1, p[n++] = 0, p[n++] = (uint8_t)(body >> 8), p[n++] = (uint8_t)body;
	p[n++] = 3, p[n++] = 3;
	memset(p + n, 7, 32);
	n += 32;
	p[n++] = 0;
	memcpy(p + n, "\0\2\x13\1\1\0", 6);
	n += 6;
	p[n++] = (uint8_t)((ext + 4) >> 8), p[n++] = (uint8_t)(ext + 4);
	memcpy(p + n, "\0\x17\0\0", 4); /* extended_master_secret, empty */
	n += 4;
	if (k) {
		memcpy(p + n, (uint8_t[]){ 0, 0, 0, (uint8_t)(k + 5), 0, (uint8_t)(k + 3), 0, 0, (uint8_t)k }, 9);
		memcpy(p + n + 9, sni, k);
		n += 9 + k;
	}
	return n;
}
