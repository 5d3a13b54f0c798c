#include <arpa/inet.h>
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#include "netpolicy/egress-internal.h"

/* UDP, in open mode. A flow is (sandbox's address and port, destination): a blank host socket connected to the
 * destination, and a transparent socket in the gateway that is bound to the destination and connected to the
 * sandbox. The kernel hands later datagrams of the flow to the latter, so the listener sees the first only.
 *
 * Restricted mode has no UDP but the resolver's, so that QUIC clients fall back to TCP. A refusal is answered
 * with the ICMP error a router would send, so that nobody waits. */

#define FLOWS_MAX 4096
#define FLOW_BATCH 16

struct flow_key {
	struct in6_addr from, to;
	uint16_t from_port, to_port;
};

struct flow {
	struct garbage garbage; /* first: egress_discard */
	LIST_ENTRY(flow) link;
	struct sandbox *box;
	struct flow_key key;
	struct target target;
	struct source client, server;
	struct deadline deadline;
	struct blank_wait blank;
	uint64_t id, bytes_out, bytes_in;
	bool ended, started;
	char host[POLICY_NAME_MAX];
	char rule[POLICY_RULE_MAX];
	UT_hash_handle hh;
	size_t n_first; /* the datagram that began it, until there is a socket */
	uint8_t *first;
};

static uint8_t datagram[65536];

/* --- refusals --- */

static uint16_t checksum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint32_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += (uint32_t)b[i] << (i % 2 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void unreachable4(struct egress *eg, const struct flow_key *k)
{
	struct {
		struct icmphdr icmp;
		struct iphdr ip;
		struct udphdr udp;
	} m = { .icmp = { .type = ICMP_DEST_UNREACH, .code = ICMP_PORT_UNREACH } };
	struct sockaddr_storage to;
	socklen_t len = egress_to_sockaddr(&k->from, 0, &to);

	m.ip = (struct iphdr){ .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP };
	m.ip.tot_len = htons(sizeof(m.ip) + sizeof(m.udp));
	memcpy(&m.ip.saddr, &k->from.s6_addr[12], 4);
	memcpy(&m.ip.daddr, &k->to.s6_addr[12], 4);
	m.ip.check = checksum(&m.ip, sizeof(m.ip));
	m.udp = (struct udphdr){ .source = htons(k->from_port),
				 .dest = htons(k->to_port),
				 .len = htons(sizeof(m.udp)) };
	m.icmp.checksum = checksum(&m, sizeof(m));
	(void)sendto(eg->icmp[0], &m, sizeof(m), MSG_DONTWAIT, (struct sockaddr *)&to, len);
}

static void unreachable6(struct egress *eg, const struct flow_key *k)
{
	struct {
		struct icmp6_hdr icmp;
		struct ip6_hdr ip;
		struct udphdr udp;
	} m = { .icmp = { .icmp6_type = ICMP6_DST_UNREACH, .icmp6_code = ICMP6_DST_UNREACH_NOPORT } };
	struct sockaddr_storage to;
	socklen_t len = egress_to_sockaddr(&k->from, 0, &to);

	m.ip.ip6_flow = htonl(6u << 28);
	m.ip.ip6_plen = htons(sizeof(m.udp));
	m.ip.ip6_nxt = IPPROTO_UDP;
	m.ip.ip6_hlim = 64;
	m.ip.ip6_src = k->from;
	m.ip.ip6_dst = k->to;
	m.udp = (struct udphdr){ .source = htons(k->from_port),
				 .dest = htons(k->to_port),
				 .len = htons(sizeof(m.udp)) };
	/* The kernel fills the checksum in for ICMPv6. */
	(void)sendto(eg->icmp[1], &m, sizeof(m), MSG_DONTWAIT, (struct sockaddr *)&to, len);
}

static void unreachable(struct egress *eg, const struct flow_key *k)
{
	if (IN6_IS_ADDR_V4MAPPED(&k->from))
		unreachable4(eg, k);
	else
		unreachable6(eg, k);
}

struct held_datagram {
	struct hold hold;
	struct flow_key key;
};

static void datagram_released(struct egress *eg, struct hold *h)
{
	struct held_datagram *d = CONTAINER(h, struct held_datagram, hold);

	unreachable(eg, &d->key);
	free(d);
}

static void refuse(struct egress *eg, struct sandbox *s, const struct flow_key *k, const char *host, const char *rule)
{
	struct held_datagram *d = calloc(1, sizeof(*d));
	struct egress_event ev = event_new(s, EGRESS_BLOCKED, EGRESS_UDP);

	ev.address = k->to;
	ev.port = k->to_port;
	ev.from_port = k->from_port;
	ev.proto = IPPROTO_UDP;
	(void)snprintf(ev.host, sizeof(ev.host), "%s", host);
	(void)snprintf(ev.rule, sizeof(ev.rule), "%s", rule);
	if (d)
		d->key = *k;
	if (d && event_hold(eg, s, &ev, &d->hold, datagram_released))
		return;
	free(d);
	unreachable(eg, k);
}

/* --- flows --- */

static void flow_event(const struct flow *f, enum egress_verdict verdict, enum egress_kind kind)
{
	struct egress_event ev = event_new(f->box, verdict, kind);

	ev.flow = f->id;
	ev.address = f->key.to;
	ev.port = f->key.to_port;
	ev.from_port = f->key.from_port;
	ev.proto = IPPROTO_UDP;
	ev.bytes_out = f->bytes_out;
	ev.bytes_in = f->bytes_in;
	memcpy(ev.host, f->host, sizeof(ev.host));
	memcpy(ev.rule, f->rule, sizeof(ev.rule));
	event_send(f->client.eg, f->box, &ev);
}

void flow_end(struct flow *f)
{
	struct egress *eg = f->client.eg;

	if (f->ended)
		return;
	f->ended = true;
	if (f->started)
		flow_event(f, EGRESS_ALLOWED, EGRESS_CLOSED);
	deadline_clear(eg, &f->deadline);
	blank_cancel(eg, &f->blank);
	source_close(&f->client);
	source_close(&f->server);
	free(f->first);
	f->first = NULL;
	HASH_DEL(eg->flows, f);
	eg->n_flows--;
	LIST_REMOVE(f, link);
	f->box->n_flows--;
	egress_discard(eg, &f->garbage);
}

static void flow_idle(struct egress *eg _unused_, struct deadline *d)
{
	flow_end(CONTAINER(d, struct flow, deadline));
}

/* The destination answered that nobody listens there: say so to the sandbox, as its own kernel would. */
static void flow_error(struct flow *f, int errnum)
{
	if (errnum == ECONNREFUSED || errnum == EHOSTUNREACH || errnum == ENETUNREACH)
		unreachable(f->client.eg, &f->key);
}

static void flow_move(struct flow *f, int from, int to, uint64_t *count, bool from_server)
{
	for (int i = 0; i < FLOW_BATCH; i++) {
		ssize_t n = recv(from, datagram, sizeof(datagram), MSG_DONTWAIT);

		if (n < 0) {
			if (from_server && errno != EAGAIN && errno != EINTR)
				flow_error(f, errno);
			return;
		}
		*count += (uint64_t)n;
		/* What does not go at once is lost, as datagrams may be. */
		if (send(to, datagram, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && !from_server)
			flow_error(f, errno);
		deadline_set(f->client.eg, &f->deadline, WAIT_UDP, flow_idle);
	}
}

static void flow_client_ready(struct source *s, uint32_t events _unused_)
{
	struct flow *f = CONTAINER(s, struct flow, client);

	flow_move(f, s->fd, f->server.fd, &f->bytes_out, false);
}

static void flow_server_ready(struct source *s, uint32_t events _unused_)
{
	struct flow *f = CONTAINER(s, struct flow, server);

	flow_move(f, s->fd, f->client.fd, &f->bytes_in, true);
}

/* A socket in the gateway that speaks as the destination of k. */
static int transparent_socket(const struct flow_key *k)
{
	struct sockaddr_storage local;
	socklen_t n = egress_to_sockaddr(&k->to, k->to_port, &local);
	int family = local.ss_family, one = 1;
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, family == AF_INET ? SOL_IP : SOL_IPV6, family == AF_INET ? IP_TRANSPARENT : IPV6_TRANSPARENT,
		       &one, sizeof(one)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
	    bind(fd, (struct sockaddr *)&local, n) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

/* Connected to the sandbox, it is where tproxy hands the flow's later datagrams. */
static int flow_socket(const struct flow_key *k)
{
	struct sockaddr_storage peer;
	socklen_t n = egress_to_sockaddr(&k->from, k->from_port, &peer);
	int fd = transparent_socket(k);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&peer, n) < 0) {
		int r = -errno;

		(void)close(fd);
		return r;
	}
	return fd;
}

static void flow_fail(struct flow *f, int errnum)
{
	(void)snprintf(f->rule, sizeof(f->rule), "%s", strerrorname_np(errnum) ? strerrorname_np(errnum) : "failed");
	flow_event(f, EGRESS_FAILED, EGRESS_UDP);
	unreachable(f->client.eg, &f->key);
	flow_end(f);
}

static void flow_got_socket(struct egress *eg _unused_, struct blank_wait *w, int fd)
{
	struct flow *f = CONTAINER(w, struct flow, blank);
	struct sockaddr_storage to;
	socklen_t n = egress_to_sockaddr(&f->target.address, f->target.port, &to);
	int client;

	f->server.fd = fd;
	if (fd < 0 || connect(fd, (struct sockaddr *)&to, n) < 0) {
		flow_fail(f, fd < 0 ? ENETUNREACH : errno);
		return;
	}
	client = flow_socket(&f->key);
	if (client < 0) {
		flow_fail(f, -client);
		return;
	}
	f->client.fd = client;
	f->client.ready = flow_client_ready;
	f->server.ready = flow_server_ready;
	if (source_watch(&f->client, EPOLLIN) < 0 || source_watch(&f->server, EPOLLIN) < 0) {
		flow_fail(f, ENOMEM);
		return;
	}
	f->started = true;
	flow_event(f, EGRESS_ALLOWED, EGRESS_UDP);
	f->bytes_out += f->n_first;
	(void)send(f->server.fd, f->first, f->n_first, MSG_DONTWAIT | MSG_NOSIGNAL);
	free(f->first);
	f->first = NULL;
}

static struct flow *flow_new(struct egress *eg, struct sandbox *s, const struct flow_key *k, size_t n)
{
	struct flow *f;

	/* The oldest idle one makes room for a new one of the same sandbox. */
	if (s->n_flows >= FLOW_MAX) {
		struct flow *old = NULL, *i;

		LIST_FOREACH(i, &s->flows, link)
		if (!old || i->deadline.at < old->deadline.at)
			old = i;
		if (old)
			flow_end(old);
	}
	if (eg->n_flows >= FLOWS_MAX || !(f = calloc(1, sizeof(*f))))
		return NULL;
	f->key = *k;
	f->first = malloc(n + 1);
	if (f->first)
		HASH_ADD(hh, eg->flows, key, sizeof(f->key), f);
	if (!f->first || !f->hh.tbl) {
		free(f->first);
		free(f);
		return NULL;
	}
	memcpy(f->first, datagram, n);
	f->n_first = n;
	f->box = s;
	f->id = ++eg->next_flow;
	f->client = (struct source){ .fd = -1, .eg = eg };
	f->server = (struct source){ .fd = -1, .eg = eg };
	eg->n_flows++;
	LIST_INSERT_HEAD(&s->flows, f, link);
	s->n_flows++;
	deadline_set(eg, &f->deadline, WAIT_UDP, flow_idle);
	return f;
}

static bool udp_decide(struct egress *eg, struct sandbox *s, const struct flow_key *k, struct flow *ret)
{
	const char *mapped = map_name_of(&eg->map, &k->to);
	const struct known *known = known_next(s, &k->to, NULL);

	ret->target = (struct target){ .address = k->to, .port = k->to_port };
	(void)snprintf(ret->host, sizeof(ret->host), "%s", mapped ? mapped : known ? known->name : "");
	if (policy_mode(s->policy) != NET_OPEN) {
		(void)snprintf(ret->rule, sizeof(ret->rule), "%s",
			       policy_mode(s->policy) == NET_OFF ? "network-off" : "udp-not-allowed");
		return false;
	}
	(void)snprintf(ret->rule, sizeof(ret->rule), "%s", mapped ? "not-mapped" : "open");
	if (mapped) {
		if (!map_target(&eg->map, mapped, k->to_port, &ret->target))
			return false;
		(void)snprintf(ret->rule, sizeof(ret->rule), "%s", "open");
		return true;
	}
	return (known && known->local) || policy_address(s->policy, &k->to, k->to_port, ret->rule);
}

static void udp_first(struct egress *eg, const struct flow_key *k, size_t n)
{
	struct sandbox *s = egress_sandbox_of(eg, &k->from);
	struct flow decided, *f;

	if (!s)
		return;
	HASH_FIND(hh, eg->flows, k, sizeof(*k), f);
	if (f) {
		if (f->server.fd >= 0 && !f->first) {
			f->bytes_out += n;
			(void)send(f->server.fd, datagram, n, MSG_DONTWAIT | MSG_NOSIGNAL);
			deadline_set(eg, &f->deadline, WAIT_UDP, flow_idle);
		}
		return;
	}
	if (!udp_decide(eg, s, k, &decided)) {
		refuse(eg, s, k, decided.host, decided.rule);
		return;
	}
	f = flow_new(eg, s, k, n);
	if (!f) {
		refuse(eg, s, k, decided.host, "too-many-flows");
		return;
	}
	f->target = decided.target;
	memcpy(f->host, decided.host, sizeof(f->host));
	memcpy(f->rule, decided.rule, sizeof(f->rule));
	blank_get(eg, &f->blank, IN6_IS_ADDR_V4MAPPED(&f->target.address) ? BLANK_UDP4 : BLANK_UDP6, flow_got_socket);
}

void udp_ready(struct source *s, uint32_t events _unused_)
{
	for (int i = 0; i < LOOP_BATCH; i++) {
		struct sockaddr_storage from, to;
		struct flow_key k;
		ssize_t n = udp_receive(s->fd, datagram, sizeof(datagram), &from, &to);

		if (n == -EAGAIN)
			return;
		if (n < 0)
			continue;
		memset(&k, 0, sizeof(k));
		egress_from_sockaddr(&from, &k.from, &k.from_port);
		egress_from_sockaddr(&to, &k.to, &k.to_port);
		udp_first(s->eg, &k, (size_t)n);
	}
}

/* --- datagrams with their destinations --- */

static bool read_destination(struct msghdr *msg, struct sockaddr_storage *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVORIGDSTADDR &&
		    c->cmsg_len >= CMSG_LEN(sizeof(struct sockaddr_in))) {
			memcpy(ret, CMSG_DATA(c), sizeof(struct sockaddr_in));
			return true;
		}
		if (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVORIGDSTADDR &&
		    c->cmsg_len >= CMSG_LEN(sizeof(struct sockaddr_in6))) {
			memcpy(ret, CMSG_DATA(c), sizeof(struct sockaddr_in6));
			return true;
		}
	}
	return false;
}

ssize_t udp_receive(int sock, void *p, size_t cap, struct sockaddr_storage *ret_from, struct sockaddr_storage *ret_to)
{
	union {
		struct cmsghdr align;
		char space[256];
	} control;
	struct iovec iov = { .iov_base = p, .iov_len = cap };
	struct msghdr msg = {
		.msg_name = ret_from,
		.msg_namelen = sizeof(*ret_from),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(sock, &msg, MSG_DONTWAIT);

	if (n < 0)
		return -errno;
	return (msg.msg_flags & MSG_TRUNC) || !read_destination(&msg, ret_to) ? -EBADMSG : n;
}

static bool same_port(int sock, const struct sockaddr_storage *from)
{
	struct sockaddr_storage own;
	socklen_t n = sizeof(own);
	struct in6_addr a;
	uint16_t have, want;

	if (getsockname(sock, (struct sockaddr *)&own, &n) < 0)
		return false;
	egress_from_sockaddr(&own, &a, &have);
	egress_from_sockaddr(from, &a, &want);
	return have == want;
}

/* The socket that answers from this address, for a gateway that listens at another port than the one that is asked.
 * Kept, since it is nearly always the same; and never connected: tproxy would hand it the client's next question. */
static int answering_socket(const struct sockaddr_storage *from)
{
	static struct {
		struct sockaddr_storage from;
		int fd;
	} kept[2] = { { .fd = -1 }, { .fd = -1 } };
	size_t i = from->ss_family == AF_INET6;
	struct flow_key k, have;

	memset(&k, 0, sizeof(k));
	memset(&have, 0, sizeof(have));
	egress_from_sockaddr(from, &k.to, &k.to_port);
	egress_from_sockaddr(&kept[i].from, &have.to, &have.to_port);
	if (kept[i].fd >= 0 && memcmp(&k, &have, sizeof(k)) == 0)
		return kept[i].fd;
	closep(&kept[i].fd);
	kept[i].fd = transparent_socket(&k);
	kept[i].from = *from;
	return kept[i].fd;
}

ssize_t udp_send_as(int sock, const void *p, size_t n, const struct sockaddr_storage *from,
		    const struct sockaddr_storage *to)
{
	union {
		struct cmsghdr c;
		char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
	} control = { 0 };
	bool v4 = from->ss_family == AF_INET;
	struct iovec iov = { .iov_base = (void *)(uintptr_t)p, .iov_len = n };
	struct msghdr msg = {
		.msg_name = (void *)(uintptr_t)to,
		.msg_namelen = v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6),
		.msg_iov = &iov,
		.msg_iovlen = 1,
	};

	if (same_port(sock, from)) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(v4 ? sizeof(struct in_pktinfo) : sizeof(struct in6_pktinfo));
		control.c.cmsg_level = v4 ? SOL_IP : SOL_IPV6;
		control.c.cmsg_type = v4 ? IP_PKTINFO : IPV6_PKTINFO;
		control.c.cmsg_len = CMSG_LEN(v4 ? sizeof(struct in_pktinfo) : sizeof(struct in6_pktinfo));
		if (v4)
			((struct in_pktinfo *)(void *)CMSG_DATA(&control.c))->ipi_spec_dst =
				((const struct sockaddr_in *)(const void *)from)->sin_addr;
		else
			((struct in6_pktinfo *)(void *)CMSG_DATA(&control.c))->ipi6_addr =
				((const struct sockaddr_in6 *)(const void *)from)->sin6_addr;
	} else {
		sock = answering_socket(from);
		if (sock < 0)
			return sock;
	}
	return sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : (ssize_t)n;
}
