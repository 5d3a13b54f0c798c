#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "netpolicy/egress-internal.h"

/* The resolver's front: datagrams and connections to port 53 (RFC 7766), whatever address they meant. */

#define DNS_PENDING_MAX 16 /* questions of one connection under way */

struct dns_conn {
	struct garbage garbage; /* first: egress_discard */
	uint64_t id;
	uint32_t index;
	uint64_t serial;
	struct source s;
	struct deadline deadline;
	struct sockaddr_storage from;
	unsigned int pending;
	bool eof;
	size_t have;
	uint8_t head[2];
	uint8_t *in; /* the message that is coming in, as long as its head says */
	size_t out_len, out_off;
	uint8_t *out;
	UT_hash_handle hh;
};

static void asked(struct egress *eg, struct asker *a, const uint8_t *p, size_t n)
{
	struct in6_addr from;
	uint16_t port;
	struct sandbox *s;
	int r;

	egress_from_sockaddr(&a->from, &from, &port);
	s = egress_sandbox_of(eg, &from);
	r = dns_parse_query(p, n, &a->q);
	if (!s || r == -EPROTO) {
		dns_conn_unasked(eg, a->conn);
		return;
	}
	a->index = s->index;
	a->serial = s->serial;
	if (r < 0)
		resolver_error(eg, a, DNS_FORMERR);
	else
		resolver_ask(eg, s, a);
}

void dns_udp_ready(struct source *s, uint32_t events _unused_)
{
	static uint8_t buf[65536];

	for (int i = 0; i < LOOP_BATCH; i++) {
		struct asker a = { .sock = s->fd };
		ssize_t n = udp_receive(s->fd, buf, sizeof(buf), &a.from, &a.to);

		if (n == -EAGAIN)
			return;
		if (n >= 0)
			asked(s->eg, &a, buf, (size_t)n);
	}
}

/* --- over TCP --- */

static void dns_conn_end(struct dns_conn *c)
{
	struct egress *eg = c->s.eg;
	struct sandbox *s = eg->sandboxes[c->index];

	if (s && s->serial == c->serial)
		s->n_dns_conns--;
	deadline_clear(eg, &c->deadline);
	source_close(&c->s);
	free(c->in);
	free(c->out);
	HASH_DEL(eg->dns.conns, c);
	egress_discard(eg, &c->garbage);
}

static void dns_conn_late(struct egress *eg _unused_, struct deadline *d)
{
	dns_conn_end(CONTAINER(d, struct dns_conn, deadline));
}

static struct dns_conn *dns_conn_find(struct egress *eg, uint64_t id)
{
	struct dns_conn *c = NULL;

	if (id)
		HASH_FIND(hh, eg->dns.conns, &id, sizeof(id), c);
	return c;
}

static void dns_conn_watch(struct dns_conn *c)
{
	uint32_t want = 0;

	if (c->eof && c->pending == 0 && c->out_len == 0) {
		dns_conn_end(c);
		return;
	}
	if (!c->eof && c->pending < DNS_PENDING_MAX && c->out_len < DNS_MAX)
		want |= EPOLLIN;
	if (c->out_len)
		want |= EPOLLOUT;
	if (source_watch(&c->s, want) < 0)
		dns_conn_end(c);
}

static int dns_conn_flush(struct dns_conn *c)
{
	while (c->out_len) {
		ssize_t k = send(c->s.fd, c->out + c->out_off, c->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (k < 0)
			return errno == EAGAIN ? 0 : -errno;
		c->out_off += (size_t)k;
		c->out_len -= (size_t)k;
	}
	free(c->out);
	c->out = NULL;
	c->out_off = 0;
	return 0;
}

static int dns_conn_queue(struct dns_conn *c, const uint8_t *p, size_t n)
{
	uint8_t *out = malloc(c->out_len + 2 + n);

	if (!out)
		return -ENOMEM;
	if (c->out_len)
		memcpy(out, c->out + c->out_off, c->out_len);
	out[c->out_len] = (uint8_t)(n >> 8);
	out[c->out_len + 1] = (uint8_t)n;
	memcpy(out + c->out_len + 2, p, n);
	free(c->out);
	c->out = out;
	c->out_off = 0;
	c->out_len += 2 + n;
	return dns_conn_flush(c);
}

void dns_conn_unasked(struct egress *eg, uint64_t id)
{
	struct dns_conn *c = dns_conn_find(eg, id);

	if (!c)
		return;
	c->pending--;
	dns_conn_watch(c);
}

size_t dns_reply_max(const struct asker *a)
{
	return a->conn ? DNS_MAX : a->q.udp_size;
}

void dns_reply(struct egress *eg, const struct asker *a, const uint8_t *p, ssize_t n)
{
	struct dns_conn *c = dns_conn_find(eg, a->conn);

	if (a->conn == 0 && n > 0)
		(void)udp_send_as(a->sock, p, (size_t)n, &a->to, &a->from);
	if (!c)
		return;
	c->pending--;
	if (n <= 0 || dns_conn_queue(c, p, (size_t)n) < 0)
		dns_conn_end(c);
	else
		dns_conn_watch(c);
}

static void dns_conn_message(struct dns_conn *c, size_t n)
{
	struct asker a = { .conn = c->id, .sock = -1, .from = c->from };
	uint8_t *in = TAKE_PTR(c->in);

	c->have = 0;
	c->pending++;
	deadline_set(c->s.eg, &c->deadline, WAIT_DNS_TCP, dns_conn_late);
	asked(c->s.eg, &a, in, n); /* may end c */
	free(in);
}

/* 1: go on reading; 0: nothing there; else the end. */
static int dns_conn_read(struct dns_conn *c)
{
	size_t want = (size_t)c->head[0] << 8 | c->head[1];
	ssize_t k;

	if (c->have < 2)
		k = recv(c->s.fd, c->head + c->have, 2 - c->have, MSG_DONTWAIT);
	else
		k = recv(c->s.fd, c->in + c->have - 2, want + 2 - c->have, MSG_DONTWAIT);
	if (k < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	c->eof = k == 0;
	c->have += (size_t)k;
	if (k == 0)
		return 0;
	if (c->have == 2) {
		want = (size_t)c->head[0] << 8 | c->head[1];
		if (want < DNS_HEADER)
			return -EBADMSG;
		c->in = malloc(want);
		return c->in ? 1 : -ENOMEM;
	}
	if (c->have > 2 && c->have == want + 2) {
		dns_conn_message(c, want);
		return 0; /* one in a turn: c may be gone now, and others wait */
	}
	return 1;
}

static void dns_conn_ready(struct source *s, uint32_t events)
{
	struct dns_conn *c = CONTAINER(s, struct dns_conn, s);
	int r = 1;

	if (events & EPOLLOUT)
		r = dns_conn_flush(c) < 0 ? -EPIPE : 1;
	if (r > 0 && !(s->events & EPOLLIN) && (events & (EPOLLERR | EPOLLHUP)))
		r = -EPIPE;
	for (int i = 0; i < 4 && r > 0 && (s->events & EPOLLIN); i++)
		r = dns_conn_read(c);
	if (!s->ready)
		return;
	if (r < 0)
		dns_conn_end(c);
	else
		dns_conn_watch(c);
}

static struct dns_conn *dns_conn_new(struct egress *eg)
{
	struct dns_conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->id = ++eg->dns.next_conn;
	HASH_ADD(hh, eg->dns.conns, id, sizeof(c->id), c);
	if (!c->hh.tbl) {
		free(c);
		return NULL;
	}
	return c;
}

static void dns_accepted(struct egress *eg, int fd, const struct sockaddr_storage *from)
{
	struct dns_conn *c = NULL;
	struct in6_addr a;
	uint16_t port;
	struct sandbox *s;

	egress_from_sockaddr(from, &a, &port);
	s = egress_sandbox_of(eg, &a);
	if (s && s->n_dns_conns < DNS_CONN_MAX)
		c = dns_conn_new(eg);
	if (!c) {
		struct linger now = { .l_onoff = 1 };

		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		(void)close(fd);
		return;
	}
	c->index = s->index;
	c->serial = s->serial;
	c->from = *from;
	c->s = (struct source){ .fd = fd, .eg = eg, .ready = dns_conn_ready };
	s->n_dns_conns++;
	deadline_set(eg, &c->deadline, WAIT_DNS_TCP, dns_conn_late);
	dns_conn_watch(c);
}

void dns_tcp_ready(struct source *s, uint32_t events _unused_)
{
	for (int i = 0; i < LOOP_BATCH; i++) {
		struct sockaddr_storage from;
		socklen_t n = sizeof(from);
		int fd = accept4(s->fd, (struct sockaddr *)&from, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			dns_accepted(s->eg, fd, &from);
		else if (errno != EINTR && errno != ECONNABORTED)
			return;
	}
}
