/* What a program in a sandbox may try on the network, as plain system calls. Built static, put into a sandbox
 * and run there by the network tests; prints one JSON line. It decides nothing; the test knows what must be.
 *
 *   tcp ADDR PORT [HEX]        connect, send HEX, wait a second for what comes back
 *   udp ADDR PORT TEXT         send a datagram, wait a second for an answer or an ICMP
 *   fling ADDR PORT            send a datagram and fail at once, without waiting for what becomes of it
 *   drip ADDR PORT HEX MS      as tcp, but byte by byte, with a pause before each
 *   loris ADDR PORT N MS       N connections that say one byte and wait; how many were ended meanwhile
 *   flood ADDR PORT MS HEX     datagrams as fast as they go; how many
 *   raw FROM TO PORT FLAGS     a TCP segment with these flags (hex) over a raw socket, and a torn one
 *   pieces FROM TO PORT        UDP in fragments: overlapping, without an end, and a whole one
 *   dns SERVER NAME TYPE       ask over UDP; dnstcp: over TCP
 *   many ADDR PORT N HEX       N connections at once, each sends HEX and reads to the end
 *   listen PORT                accept for ever, answer each connection with "hello"
 *   spoof FROM TO PORT HEX     a UDP datagram with another source address
 *   ping ADDR                  an ICMP echo over a raw socket
 *   admin                      what would change the interfaces and the rules of its own namespace */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 1000

static double now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static socklen_t address(const char *text, const char *port, struct sockaddr_storage *ret)
{
	struct sockaddr_in *a4 = (void *)ret;
	struct sockaddr_in6 *a6 = (void *)ret;

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, text, &a4->sin_addr) == 1) {
		a4->sin_family = AF_INET;
		a4->sin_port = htons((uint16_t)strtoul(port, NULL, 10));
		return sizeof(*a4);
	}
	if (inet_pton(AF_INET6, text, &a6->sin6_addr) != 1) {
		fprintf(stderr, "netprobe: %s is no address\n", text);
		exit(2);
	}
	a6->sin6_family = AF_INET6;
	a6->sin6_port = htons((uint16_t)strtoul(port, NULL, 10));
	return sizeof(*a6);
}

static size_t from_hex(const char *hex, uint8_t *out, size_t cap)
{
	size_t n = strlen(hex) / 2;
	unsigned int byte;

	for (size_t i = 0; i < n && i < cap; i++) {
		sscanf(hex + 2 * i, "%2x", &byte);
		out[i] = (uint8_t)byte;
	}
	return n < cap ? n : cap;
}

static int report(double start, int error, const uint8_t *got, ssize_t n)
{
	printf("{\"ok\": %s, \"errno\": \"%s\", \"ms\": %.2f, \"got\": ", error ? "false" : "true",
	       error ? strerrorname_np(error) : "", now_ms() - start);
	if (n < 0) {
		printf("null}\n");
		return 0;
	}
	printf("\"");
	for (ssize_t i = 0; i < n; i++)
		printf("%02x", got[i]);
	printf("\"}\n");
	return 0;
}

static int wait_for(int fd, short events, int ms)
{
	struct pollfd p = { .fd = fd, .events = events };

	return poll(&p, 1, ms);
}

static int finish_connect(int fd, const struct sockaddr_storage *to, socklen_t len)
{
	int error = 0;
	socklen_t n = sizeof(error);

	if (connect(fd, (const void *)to, len) == 0)
		return 0;
	if (errno != EINPROGRESS)
		return errno;
	if (wait_for(fd, POLLOUT, 5000) == 0)
		return ETIMEDOUT;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
	return error;
}

static int tcp(const char *addr, const char *port, const char *hex)
{
	static uint8_t bytes[1 << 16], in[4096];
	struct sockaddr_storage to;
	socklen_t len = address(addr, port, &to);
	int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	double start = now_ms();
	int error = finish_connect(fd, &to, len);
	size_t n = hex ? from_hex(hex, bytes, sizeof(bytes)) : 0;
	ssize_t got = -1;

	if (!error && n > 0 && send(fd, bytes, n, MSG_NOSIGNAL) < 0)
		error = errno;
	if (!error && wait_for(fd, POLLIN, WAIT_MS) > 0) {
		got = recv(fd, in, sizeof(in), 0);
		if (got < 0)
			error = errno;
	}
	/* An answer may come in pieces. */
	while (got > 0 && got < (ssize_t)sizeof(in) && wait_for(fd, POLLIN, WAIT_MS / 4) > 0) {
		ssize_t more = recv(fd, in + got, sizeof(in) - (size_t)got, 0);

		if (more <= 0)
			break;
		got += more;
	}
	return report(start, error, in, got);
}

static int udp(const char *addr, const char *port, const char *text)
{
	static uint8_t in[2048];
	struct sockaddr_storage to;
	socklen_t len = address(addr, port, &to);
	int fd = socket(to.ss_family, SOCK_DGRAM, 0), error = 0;
	double start = now_ms();
	ssize_t got = -1;

	if (connect(fd, (void *)&to, len) < 0 || send(fd, text, strlen(text), 0) < 0) {
		error = errno;
	} else if (wait_for(fd, POLLIN, WAIT_MS) > 0) {
		got = recv(fd, in, sizeof(in), 0);
		if (got < 0)
			error = errno;
	}
	return report(start, error, in, got);
}

static int fling(const char *addr, const char *port)
{
	struct sockaddr_storage to;
	socklen_t len = address(addr, port, &to);

	(void)sendto(socket(to.ss_family, SOCK_DGRAM, 0), "x", 1, 0, (void *)&to, len);
	return 1;
}

static int drip(const char *addr, const char *port, const char *hex, const char *ms)
{
	static uint8_t bytes[1 << 14], in[4096];
	struct sockaddr_storage to;
	socklen_t len = address(addr, port, &to);
	int fd = socket(to.ss_family, SOCK_STREAM, 0), error = 0, one = 1;
	double start = now_ms();
	size_t n = from_hex(hex, bytes, sizeof(bytes));
	ssize_t got = -1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (void *)&to, len) < 0)
		return report(start, errno, in, -1);
	for (size_t i = 0; i < n && !error; i++) {
		usleep((useconds_t)strtoul(ms, NULL, 10) * 1000);
		if (send(fd, bytes + i, 1, MSG_NOSIGNAL) < 0)
			error = errno;
	}
	if (!error && wait_for(fd, POLLIN, 3000) > 0) {
		got = recv(fd, in, sizeof(in), 0);
		if (got < 0)
			error = errno;
	}
	return report(start, error, in, got);
}

static int loris(const char *addr, const char *port, const char *count, const char *ms)
{
	enum { MOST = 900 };
	static struct pollfd p[MOST];
	unsigned long n = strtoul(count, NULL, 10), ended = 0, refused = 0;
	struct sockaddr_storage to;
	socklen_t len = address(addr, port, &to);
	double start = now_ms();

	for (unsigned long i = 0; i < n && i < MOST; i++) {
		p[i].fd = socket(to.ss_family, SOCK_STREAM, 0);
		p[i].events = POLLIN;
		refused += connect(p[i].fd, (void *)&to, len) < 0 || send(p[i].fd, "G", 1, MSG_NOSIGNAL) != 1;
	}
	usleep((useconds_t)strtoul(ms, NULL, 10) * 1000);
	for (unsigned long i = 0; i < n && i < MOST; i++)
		ended += poll(&p[i], 1, 0) == 1;
	printf("{\"n\": %lu, \"refused\": %lu, \"ended\": %lu, \"ms\": %.2f}\n", n, refused, ended, now_ms() - start);
	return 0;
}

static int flood(const char *addr, const char *port, const char *ms, const char *hex)
{
	static uint8_t bytes[2048];
	struct sockaddr_storage to;
	socklen_t len = address(addr, port, &to);
	size_t n = from_hex(hex, bytes, sizeof(bytes));
	double start = now_ms();
	unsigned long long sent = 0, refused = 0;
	int fd = -1;

	while (now_ms() - start < strtod(ms, NULL)) {
		if (sent % 50 == 0) { /* another source port */
			close(fd);
			fd = socket(to.ss_family, SOCK_DGRAM, 0);
		}
		refused += sendto(fd, bytes, n, MSG_DONTWAIT, (void *)&to, len) < 0;
		sent++;
	}
	printf("{\"sent\": %llu, \"refused\": %llu}\n", sent, refused);
	return 0;
}

static uint16_t sum(const void *p, size_t n, uint32_t start)
{
	const uint8_t *b = p;

	for (size_t i = 0; i < n; i++)
		start += (uint32_t)b[i] << (i % 2 ? 0 : 8);
	while (start >> 16)
		start = (start & 0xffff) + (start >> 16);
	return htons((uint16_t)~start);
}

/* One IPv4 packet; the kernel fills in length, id (unless given) and checksum of the header. */
static int send_ip(const char *from, const char *to, int proto, uint16_t id, uint16_t frag, const void *p, size_t n)
{
	uint8_t packet[2048] = { 0 };
	struct iphdr *ip = (void *)packet;
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW), r;

	ip->version = 4;
	ip->ihl = 5;
	ip->ttl = 64;
	ip->protocol = (uint8_t)proto;
	ip->id = htons(id);
	ip->frag_off = htons(frag);
	inet_pton(AF_INET, from, &ip->saddr);
	inet_pton(AF_INET, to, &ip->daddr);
	a.sin_addr.s_addr = ip->daddr;
	memcpy(packet + 20, p, n);
	r = sendto(fd, packet, 20 + n, 0, (void *)&a, sizeof(a)) < 0 ? errno : 0;
	close(fd);
	return r;
}

static int raw(const char *from, const char *to, const char *port, const char *flags)
{
	uint8_t segment[64] = { 0xc3, 0x50, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0, 0xff, 0xff };
	uint8_t pseudo[12];
	uint16_t value = (uint16_t)strtoul(port, NULL, 10), check;
	double start = now_ms();
	int error;

	segment[2] = (uint8_t)(value >> 8);
	segment[3] = (uint8_t)value;
	segment[13] = (uint8_t)strtoul(flags, NULL, 16);
	inet_pton(AF_INET, from, pseudo);
	inet_pton(AF_INET, to, pseudo + 4);
	memcpy(pseudo + 8, "\0\6\0\24", 4);
	check = sum(pseudo, 12, 0);
	check = sum(segment, 20, (uint16_t)~ntohs(check));
	memcpy(segment + 16, &check, 2);
	error = send_ip(from, to, IPPROTO_TCP, 0, 0, segment, 20);
	/* The same with half a header, and with a header that says it is longer than the packet. */
	(void)send_ip(from, to, IPPROTO_TCP, 0, 0, segment, 3);
	segment[12] = 0xf0;
	(void)send_ip(from, to, IPPROTO_TCP, 0, 0, segment, 20);
	return report(start, error, NULL, -1);
}

static int pieces(const char *from, const char *to, const char *port)
{
	enum { MORE = 0x2000 };
	uint16_t value = (uint16_t)strtoul(port, NULL, 10);
	uint8_t datagram[64] = { 0xc3, 0x51, (uint8_t)(value >> 8), (uint8_t)value, 0, 64 };
	double start = now_ms();
	int error = send_ip(from, to, IPPROTO_UDP, 0x1111, MORE, datagram, 32);

	/* Never completed; then an overlap that would rewrite the port; then a whole one in two pieces. */
	(void)send_ip(from, to, IPPROTO_UDP, 0x2222, MORE, datagram, 32);
	(void)send_ip(from, to, IPPROTO_UDP, 0x2222, MORE | 1, datagram, 32);
	(void)send_ip(from, to, IPPROTO_UDP, 0x2222, 0, datagram, 16);
	(void)send_ip(from, to, IPPROTO_UDP, 0x3333, MORE, datagram, 32);
	(void)send_ip(from, to, IPPROTO_UDP, 0x3333, 4, datagram + 32, 32);
	return report(start, error, NULL, -1);
}

static size_t question(const char *name, unsigned int type, uint8_t *out)
{
	static const uint8_t head[12] = { 0x12, 0x34, 1, 0, 0, 1 };
	size_t at = sizeof(head);

	memcpy(out, head, sizeof(head));
	while (*name) {
		size_t n = strcspn(name, ".");

		out[at++] = (uint8_t)n;
		memcpy(out + at, name, n);
		at += n;
		name += n + (name[n] == '.');
	}
	out[at++] = 0;
	out[at++] = (uint8_t)(type >> 8);
	out[at++] = (uint8_t)type;
	out[at++] = 0;
	out[at++] = 1;
	return at;
}

static int dns(const char *server, const char *name, const char *type, int over_tcp)
{
	static uint8_t in[1 << 16];
	uint8_t q[2 + 512];
	struct sockaddr_storage to;
	socklen_t len = address(server, "53", &to);
	size_t n = question(name, (unsigned int)strtoul(type, NULL, 10), q + 2);
	int fd = socket(to.ss_family, over_tcp ? SOCK_STREAM : SOCK_DGRAM, 0), error = 0;
	double start = now_ms();
	ssize_t got = -1;

	q[0] = (uint8_t)(n >> 8);
	q[1] = (uint8_t)n;
	if (connect(fd, (void *)&to, len) < 0 ||
	    send(fd, over_tcp ? q : q + 2, over_tcp ? n + 2 : n, MSG_NOSIGNAL) < 0) {
		error = errno;
	} else if (wait_for(fd, POLLIN, 5000) > 0) {
		got = recv(fd, in, sizeof(in), 0);
		if (got < 0)
			error = errno;
	} else {
		error = ETIMEDOUT;
	}
	if (over_tcp && got >= 2)
		return report(start, error, in + 2, got - 2);
	return report(start, error, in, got);
}

static int many(const char *addr, const char *port, const char *count, const char *hex)
{
	enum { MOST = 2000 };
	static struct pollfd p[MOST];
	static uint8_t bytes[4096], in[1 << 16];
	static int sent[MOST];
	unsigned long n = strtoul(count, NULL, 10), open = 0, good = 0, bad = 0;
	unsigned long long total = 0;
	size_t len = from_hex(hex, bytes, sizeof(bytes));
	struct sockaddr_storage to;
	socklen_t to_len = address(addr, port, &to);
	double start = now_ms();

	for (unsigned long i = 0; i < n && i < MOST; i++) {
		p[i].fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
		p[i].events = POLLOUT;
		if (p[i].fd < 0 || (connect(p[i].fd, (void *)&to, to_len) < 0 && errno != EINPROGRESS))
			bad++;
		else
			open++;
	}
	while (open > 0 && poll(p, n, 20000) > 0)
		for (unsigned long i = 0; i < n; i++) {
			ssize_t got;

			if (p[i].fd < 0 || !p[i].revents)
				continue;
			if (!sent[i]) {
				sent[i] = send(p[i].fd, bytes, len, MSG_NOSIGNAL) == (ssize_t)len;
				p[i].events = POLLIN;
				if (sent[i])
					continue;
			}
			got = recv(p[i].fd, in, sizeof(in), 0);
			if (got > 0) {
				total += (unsigned long long)got;
				continue;
			}
			if (got == 0)
				good++;
			else
				bad++;
			close(p[i].fd);
			p[i].fd = -1;
			open--;
		}
	printf("{\"good\": %lu, \"bad\": %lu, \"stuck\": %lu, \"bytes\": %llu, \"ms\": %.2f}\n", good, bad, open, total,
	       now_ms() - start);
	return 0;
}

static int serve(const char *port)
{
	struct sockaddr_storage at;
	socklen_t len = address("::", port, &at);
	int fd = socket(AF_INET6, SOCK_STREAM, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (void *)&at, len) < 0 || listen(fd, 16) < 0)
		return 1;
	for (;;) {
		int c = accept(fd, NULL, NULL);

		if (c >= 0 && send(c, "hello", 5, MSG_NOSIGNAL) < 0)
			return 1;
		close(c);
	}
}

static int spoof(const char *from, const char *to, const char *port, const char *hex)
{
	uint8_t packet[1500] = { 0 };
	struct iphdr *ip = (void *)packet;
	struct udphdr *u = (void *)(ip + 1);
	struct sockaddr_storage dst;
	socklen_t len = address(to, port, &dst);
	size_t n = from_hex(hex, (uint8_t *)(u + 1), 1000);
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	double start = now_ms();

	ip->version = 4;
	ip->ihl = 5;
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	inet_pton(AF_INET, from, &ip->saddr);
	inet_pton(AF_INET, to, &ip->daddr);
	u->source = htons(4444);
	u->dest = htons((uint16_t)strtoul(port, NULL, 10));
	u->len = htons((uint16_t)(sizeof(*u) + n));
	if (fd < 0 || sendto(fd, packet, sizeof(*ip) + sizeof(*u) + n, 0, (void *)&dst, len) < 0)
		return report(start, errno, NULL, -1);
	return report(start, 0, NULL, -1);
}

static int ping(const char *addr)
{
	static uint8_t in[2048];
	uint8_t echo[8] = { 8, 0, 0xf7, 0xff };
	struct sockaddr_storage to;
	socklen_t len = address(addr, "0", &to);
	int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	double start = now_ms();
	ssize_t got = -1;

	if (fd < 0 || connect(fd, (void *)&to, len) < 0 || send(fd, echo, sizeof(echo), 0) < 0)
		return report(start, errno, NULL, -1);
	if (wait_for(fd, POLLIN, WAIT_MS) > 0 && (got = recv(fd, in, sizeof(in), 0)) < 0)
		return report(start, errno, NULL, -1);
	return report(start, 0, in, got);
}

/* ---- admin ---- */

static int netlink_answer(int proto, void *msg, size_t n)
{
	union {
		struct nlmsghdr h;
		uint8_t bytes[4096];
	} in;
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW, proto);
	const struct nlmsgerr *e = (const void *)(&in.h + 1);

	if (fd < 0 || sendto(fd, msg, n, 0, (void *)&to, sizeof(to)) < 0)
		return errno;
	if (wait_for(fd, POLLIN, WAIT_MS) <= 0)
		return ETIMEDOUT;
	if (recv(fd, &in, sizeof(in), 0) < (ssize_t)(sizeof(in.h) + sizeof(*e)) || in.h.nlmsg_type != NLMSG_ERROR)
		return EBADMSG;
	close(fd);
	return -e->error;
}

static int change_link(uint16_t type, const char *name, unsigned int flags, unsigned int change)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
	} m = { { sizeof(m), type, NLM_F_REQUEST | NLM_F_ACK, 1, 0 },
		{ .ifi_index = (int)if_nametoindex(name), .ifi_flags = flags, .ifi_change = change } };

	return netlink_answer(NETLINK_ROUTE, &m, sizeof(m));
}

static int add_address(const char *name)
{
	struct {
		struct nlmsghdr h;
		struct ifaddrmsg i;
		struct rtattr a;
		uint32_t v4;
	} m = { { sizeof(m), RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0 },
		{ .ifa_family = AF_INET, .ifa_prefixlen = 24, .ifa_index = if_nametoindex(name) },
		{ 8, IFA_LOCAL },
		htonl(0x0a000001) };

	return netlink_answer(NETLINK_ROUTE, &m, sizeof(m));
}

/* "flush ruleset": a batch with one NFT_MSG_DELTABLE of no name. */
static int flush_rules(void)
{
	struct step {
		struct nlmsghdr h;
		struct nfgenmsg g;
	} m[3] = {
		{ { sizeof(m[0]), NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, 1, 0 }, { 0, 0, htons(NFNL_SUBSYS_NFTABLES) } },
		{ { sizeof(m[0]), NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE, NLM_F_REQUEST | NLM_F_ACK, 2, 0 },
		  { 0, 0, 0 } },
		{ { sizeof(m[0]), NFNL_MSG_BATCH_END, NLM_F_REQUEST, 3, 0 }, { 0, 0, htons(NFNL_SUBSYS_NFTABLES) } },
	};

	return netlink_answer(NETLINK_NETFILTER, m, sizeof(m));
}

static const char *name_of(int error)
{
	return error ? strerrorname_np(error) : "none";
}

static int admin(void)
{
	printf("{\"flush rules\": \"%s\", ", name_of(flush_rules()));
	printf("\"link down\": \"%s\", ", name_of(change_link(RTM_NEWLINK, "eth0", 0, IFF_UP)));
	printf("\"link delete\": \"%s\", ", name_of(change_link(RTM_DELLINK, "eth0", 0, 0)));
	printf("\"add address\": \"%s\"}\n", name_of(add_address("eth0")));
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (strcmp(what, "tcp") == 0 && argc >= 4)
		return tcp(argv[2], argv[3], argc > 4 ? argv[4] : NULL);
	if (strcmp(what, "udp") == 0 && argc == 5)
		return udp(argv[2], argv[3], argv[4]);
	if (strcmp(what, "drip") == 0 && argc == 6)
		return drip(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(what, "loris") == 0 && argc == 6)
		return loris(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(what, "flood") == 0 && argc == 6)
		return flood(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(what, "raw") == 0 && argc == 6)
		return raw(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(what, "pieces") == 0 && argc == 5)
		return pieces(argv[2], argv[3], argv[4]);
	if (strcmp(what, "fling") == 0 && argc == 4)
		return fling(argv[2], argv[3]);
	if ((strcmp(what, "dns") == 0 || strcmp(what, "dnstcp") == 0) && argc == 5)
		return dns(argv[2], argv[3], argv[4], what[3] == 't');
	if (strcmp(what, "many") == 0 && argc == 6)
		return many(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(what, "listen") == 0 && argc == 3)
		return serve(argv[2]);
	if (strcmp(what, "spoof") == 0 && argc == 6)
		return spoof(argv[2], argv[3], argv[4], argv[5]);
	if (strcmp(what, "ping") == 0 && argc == 3)
		return ping(argv[2]);
	if (strcmp(what, "admin") == 0)
		return admin();
	fprintf(stderr, "netprobe: what?\n");
	return 2;
}
