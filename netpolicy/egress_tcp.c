#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "netpolicy/egress-internal.h"
#include "netpolicy/sniff.h"

/* The relay. A connection is accepted with the destination the sandbox meant as its local address; decided
 * (in restricted mode on 443 and 80 only after the client has said a name); given a blank host socket;
 * connected; and then bytes go both ways, each way through one buffer or pipe that has to be empty before
 * more is read: that is the backpressure, and it bounds memory.
 *
 * A *lane* starts with plain reads and writes, which keep nothing while idle. One that carries much is given a
 * pipe for splice(2), if there are any left: pipes are scarce (fds, and the kernel's limit of pipe pages a user). */

#define LANE_READ 65536
#define LANE_ROUNDS 4		/* reads of one lane in a turn of the loop */
#define LANE_SPLICE_FROM 262144 /* bytes after which a lane is worth a pipe */
/* A user may have 64 MiB of pipes in all (pipe(7), pipe-user-pages-soft): large ones while there are few. */
#define PIPES_LARGE 32
#define PIPES_MAX 160
#define PIPE_LARGE (1 << 20)
#define PIPE_SIZE 262144

enum conn_state { CONN_SNIFF, CONN_SOCKET, CONN_CONNECT, CONN_OPEN, CONN_HELD, CONN_DEAD };

struct lane {
	struct source *from, *to;
	char *buf; /* what `to` did not take yet */
	size_t off, len, in_pipe;
	int pipe[2];
	bool eof, shut;
	uint64_t total;
};

struct conn {
	struct garbage garbage; /* first: egress_discard */
	LIST_ENTRY(conn) link;
	struct sandbox *box;
	enum conn_state state;
	struct source client, server;
	struct lane up, down;
	struct deadline deadline;
	struct blank_wait blank;
	struct hold hold;
	struct in6_addr address; /* as the sandbox sees it */
	uint16_t port, from_port;
	struct target to; /* as we connect */
	bool started;	  /* an ALLOWED event was sent */
	uint64_t flow;
	char host[POLICY_NAME_MAX];
	char rule[POLICY_RULE_MAX];
};

static void reset_on_close(int fd)
{
	struct linger now = { .l_onoff = 1 };

	if (fd >= 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

static struct egress_event conn_event(const struct conn *c, enum egress_verdict verdict, enum egress_kind kind)
{
	struct egress_event ev = event_new(c->box, verdict, kind);

	ev.flow = c->flow;
	ev.address = c->address;
	ev.port = c->port;
	ev.from_port = c->from_port;
	ev.proto = IPPROTO_TCP;
	memcpy(ev.host, c->host, sizeof(ev.host));
	memcpy(ev.rule, c->rule, sizeof(ev.rule));
	return ev;
}

static void lane_free(struct egress *eg, struct lane *l)
{
	free(l->buf);
	l->buf = NULL;
	if (l->pipe[0] >= 0)
		eg->n_pipes--;
	closep(&l->pipe[0]);
	closep(&l->pipe[1]);
}

static void conn_end(struct conn *c)
{
	struct egress *eg = c->client.eg;
	struct egress_event ev;

	if (c->state == CONN_DEAD)
		return;
	c->state = CONN_DEAD;
	if (c->started) {
		ev = conn_event(c, EGRESS_ALLOWED, EGRESS_CLOSED);
		ev.bytes_out = c->up.total;
		ev.bytes_in = c->down.total;
		event_send(eg, c->box, &ev);
	}
	deadline_clear(eg, &c->deadline);
	blank_cancel(eg, &c->blank);
	hold_cancel(eg, &c->hold);
	source_close(&c->client);
	source_close(&c->server);
	lane_free(eg, &c->up);
	lane_free(eg, &c->down);
	LIST_REMOVE(c, link);
	c->box->n_conns--;
	egress_discard(eg, &c->garbage);
}

void conn_abort(struct conn *c)
{
	reset_on_close(c->client.fd);
	reset_on_close(c->server.fd);
	conn_end(c);
}

static void conn_released(struct egress *eg _unused_, struct hold *h)
{
	conn_abort(CONTAINER(h, struct conn, hold));
}

static void held_ready(struct source *s _unused_, uint32_t events _unused_)
{
}

static void conn_refuse(struct conn *c, enum egress_verdict verdict)
{
	struct egress_event ev = conn_event(c, verdict, EGRESS_TCP);
	struct egress *eg = c->client.eg;

	if (verdict == EGRESS_BLOCKED && event_hold(eg, c->box, &ev, &c->hold, conn_released)) {
		c->state = CONN_HELD;
		c->client.ready = held_ready;
		deadline_clear(eg, &c->deadline);
		(void)source_watch(&c->client, 0);
		return;
	}
	if (verdict != EGRESS_BLOCKED)
		(void)event_send(eg, c->box, &ev);
	conn_abort(c);
}

static void conn_block(struct conn *c, const char *rule)
{
	(void)snprintf(c->rule, sizeof(c->rule), "%s", rule);
	conn_refuse(c, EGRESS_BLOCKED);
}

/* --- moving bytes --- */

static void lane_upgrade(struct egress *eg, struct lane *l)
{
	if (l->pipe[0] >= 0 || l->total < LANE_SPLICE_FROM || l->len || eg->n_pipes >= PIPES_MAX)
		return;
	if (pipe2(l->pipe, O_NONBLOCK | O_CLOEXEC) < 0) {
		l->pipe[0] = l->pipe[1] = -1;
		return;
	}
	if (eg->n_pipes >= PIPES_LARGE || fcntl(l->pipe[1], F_SETPIPE_SZ, PIPE_LARGE) < 0)
		(void)fcntl(l->pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
	eg->n_pipes++;
}

/* 1: all that was held is out; 0: the other side is full. */
static int lane_drain(struct lane *l)
{
	ssize_t k;

	while (l->len) {
		k = send(l->to->fd, l->buf + l->off, l->len, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (k < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		l->off += (size_t)k;
		l->len -= (size_t)k;
	}
	free(l->buf);
	l->buf = NULL;
	while (l->in_pipe) {
		k = splice(l->pipe[0], NULL, l->to->fd, NULL, l->in_pipe, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (k <= 0)
			return k < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -EPIPE;
		l->in_pipe -= (size_t)k;
	}
	return 1;
}

static ssize_t lane_read(struct lane *l)
{
	static char scratch[LANE_READ];
	ssize_t n, k;

	if (l->pipe[0] >= 0) {
		n = splice(l->from->fd, NULL, l->pipe[1], NULL, PIPE_LARGE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n > 0)
			l->in_pipe = (size_t)n;
		return n < 0 ? -errno : n;
	}
	n = recv(l->from->fd, scratch, sizeof(scratch), MSG_DONTWAIT);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	k = send(l->to->fd, scratch, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (k < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	k = MAX(k, 0);
	if (k < n) {
		l->buf = malloc((size_t)(n - k));
		if (!l->buf)
			return -ENOMEM;
		memcpy(l->buf, scratch + k, (size_t)(n - k));
		l->off = 0;
		l->len = (size_t)(n - k);
	}
	return n;
}

/* 0, or a negative errno that ends the connection. */
static int lane_pump(struct egress *eg, struct lane *l)
{
	for (int i = 0; i < LANE_ROUNDS; i++) {
		ssize_t n;
		int r = lane_drain(l);

		if (r <= 0)
			return r;
		if (l->eof) {
			if (!l->shut && shutdown(l->to->fd, SHUT_WR) < 0 && errno != ENOTCONN)
				return -errno;
			l->shut = true;
			return 0;
		}
		lane_upgrade(eg, l);
		n = lane_read(l);
		if (n == -EAGAIN || n == -EINTR)
			return 0;
		if (n < 0)
			return (int)n;
		if (n == 0)
			l->eof = true;
		l->total += (uint64_t)n;
	}
	return 0;
}

static bool lane_held(const struct lane *l)
{
	return l->len || l->in_pipe;
}

static void conn_pump(struct conn *c)
{
	struct egress *eg = c->client.eg;
	uint32_t client, server;
	int r = lane_pump(eg, &c->up);

	if (r >= 0)
		r = lane_pump(eg, &c->down);
	if (r < 0) {
		conn_abort(c);
		return;
	}
	if (c->up.shut && c->down.shut) {
		conn_end(c);
		return;
	}
	client = (!c->up.eof && !lane_held(&c->up) ? EPOLLIN : 0) | (lane_held(&c->down) ? EPOLLOUT : 0);
	server = (!c->down.eof && !lane_held(&c->down) ? EPOLLIN : 0) | (lane_held(&c->up) ? EPOLLOUT : 0);
	/* An end of file that was read in the last round is passed on in the next. */
	client |= c->down.eof && !c->down.shut ? EPOLLOUT : 0;
	server |= c->up.eof && !c->up.shut ? EPOLLOUT : 0;
	if (source_watch(&c->client, client) < 0 || source_watch(&c->server, server) < 0)
		conn_abort(c);
}

static void client_ready(struct source *s, uint32_t events _unused_)
{
	conn_pump(CONTAINER(s, struct conn, client));
}

static void server_ready(struct source *s, uint32_t events _unused_)
{
	conn_pump(CONTAINER(s, struct conn, server));
}

/* --- connecting --- */

static void conn_failed(struct conn *c, int errnum)
{
	(void)snprintf(c->rule, sizeof(c->rule), "%s", strerrorname_np(errnum) ? strerrorname_np(errnum) : "failed");
	conn_refuse(c, EGRESS_FAILED);
}

static void conn_open(struct conn *c)
{
	struct egress_event ev;

	c->state = CONN_OPEN;
	c->started = true;
	c->client.ready = client_ready;
	c->server.ready = server_ready;
	ev = conn_event(c, EGRESS_ALLOWED, EGRESS_TCP);
	event_send(c->client.eg, c->box, &ev);
	conn_pump(c);
}

static void connect_ready(struct source *s, uint32_t events _unused_)
{
	struct conn *c = CONTAINER(s, struct conn, server);
	int errnum = 0;
	socklen_t n = sizeof(errnum);

	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &errnum, &n) < 0)
		errnum = errno;
	if (errnum)
		conn_failed(c, errnum);
	else
		conn_open(c);
}

/* A client that goes away meanwhile is seen when the connection stands, or has failed (about 31 s). */
static void got_socket(struct egress *eg _unused_, struct blank_wait *w, int fd)
{
	struct conn *c = CONTAINER(w, struct conn, blank);
	struct sockaddr_storage ss;
	socklen_t len = egress_to_sockaddr(&c->to.address, c->to.port, &ss);
	int one = 1, tries = 4;

	c->server.fd = fd;
	c->state = CONN_CONNECT;
	if (fd < 0) {
		conn_failed(c, ENETUNREACH);
		return;
	}
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_SYNCNT, &tries, sizeof(tries));
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	c->server.ready = connect_ready;
	if (connect(fd, (struct sockaddr *)&ss, len) == 0)
		conn_open(c);
	else if (errno != EINPROGRESS)
		conn_failed(c, errno);
	else if (source_watch(&c->server, EPOLLOUT) < 0)
		conn_failed(c, ENOMEM);
}

static void conn_connect(struct conn *c)
{
	deadline_clear(c->client.eg, &c->deadline);
	(void)source_watch(&c->client, 0);
	c->state = CONN_SOCKET;
	blank_get(c->client.eg, &c->blank, IN6_IS_ADDR_V4MAPPED(&c->to.address) ? BLANK_TCP4 : BLANK_TCP6, got_socket);
}

/* --- deciding --- */

static bool told(const struct conn *c, const char *name)
{
	const struct known *k = NULL;

	while ((k = known_next(c->box, &c->address, k)))
		if (strcmp(k->name, name) == 0)
			return true;
	return false;
}

static void decide_by_name(struct conn *c, enum sniff s, const char *name)
{
	char rule[POLICY_RULE_MAX];

	if (s == SNIFF_NAME)
		(void)snprintf(c->host, sizeof(c->host), "%s", name);
	if (s == SNIFF_BAD)
		conn_block(c, c->port == 443 ? "not-tls" : "not-http");
	else if (s != SNIFF_NAME)
		conn_block(c, c->port == 443 ? "no-sni" : "no-host");
	else if (!policy_name(c->box->policy, name, c->port, rule))
		conn_block(c, rule);
	else if (!told(c, name))
		conn_block(c, "name-address-mismatch");
	else {
		memcpy(c->rule, rule, sizeof(c->rule));
		conn_connect(c);
	}
}

static void sniff_ready(struct source *s, uint32_t events _unused_)
{
	struct conn *c = CONTAINER(s, struct conn, client);
	struct lane *l = &c->up;
	char name[POLICY_NAME_MAX];
	enum sniff verdict;
	ssize_t n = recv(s->fd, l->buf + l->len, SNIFF_MAX - l->len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0 || (n == 0 && l->len == 0)) {
		conn_abort(c); /* it only knocked */
		return;
	}
	l->len += (size_t)n;
	verdict = c->port == 443 ? sniff_tls(l->buf, l->len, name) : sniff_http(l->buf, l->len, name);
	if (verdict != SNIFF_MORE) {
		l->total = l->len;
		decide_by_name(c, verdict, name);
	} else if (n == 0 || l->len == SNIFF_MAX) {
		conn_block(c, c->port == 443 ? "not-tls" : "not-http");
	}
}

static void sniff_late(struct egress *eg _unused_, struct deadline *d)
{
	conn_block(CONTAINER(d, struct conn, deadline), "said-no-name");
}

static void conn_sniff(struct conn *c)
{
	c->up.buf = malloc(SNIFF_MAX);
	if (!c->up.buf) {
		conn_abort(c);
		return;
	}
	c->state = CONN_SNIFF;
	c->client.ready = sniff_ready;
	deadline_set(c->client.eg, &c->deadline, WAIT_SNIFF, sniff_late);
	if (source_watch(&c->client, EPOLLIN) < 0)
		conn_abort(c);
	else
		sniff_ready(&c->client, EPOLLIN);
}

static void conn_decide(struct conn *c)
{
	struct judgement j;

	tcp_judge(c->client.eg, c->box, &c->address, c->port, &j);
	c->to = j.to;
	memcpy(c->host, j.host, sizeof(c->host));
	memcpy(c->rule, j.rule, sizeof(c->rule));
	if (!j.allowed)
		conn_refuse(c, EGRESS_BLOCKED);
	else if (j.by_name)
		conn_sniff(c);
	else
		conn_connect(c);
}

static struct conn *conn_new(struct egress *eg, struct sandbox *box, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->box = box;
	c->client = (struct source){ .fd = fd, .eg = eg };
	c->server = (struct source){ .fd = -1, .eg = eg };
	c->up = (struct lane){ .from = &c->client, .to = &c->server, .pipe = { -1, -1 } };
	c->down = (struct lane){ .from = &c->server, .to = &c->client, .pipe = { -1, -1 } };
	c->flow = ++eg->next_flow;
	LIST_INSERT_HEAD(&box->conns, c, link);
	box->n_conns++;
	return c;
}

static void accepted(struct egress *eg, int fd, const struct sockaddr_storage *peer)
{
	struct sockaddr_storage local;
	socklen_t n = sizeof(local);
	struct in6_addr from;
	uint16_t from_port;
	struct sandbox *box;
	struct conn *c;
	bool full;
	int one = 1;

	egress_from_sockaddr(peer, &from, &from_port);
	box = egress_sandbox_of(eg, &from);
	c = box && getsockname(fd, (struct sockaddr *)&local, &n) == 0 ? conn_new(eg, box, fd) : NULL;
	if (!c) {
		reset_on_close(fd);
		(void)close(fd);
		return;
	}
	full = box->n_conns > CONN_MAX;
	egress_from_sockaddr(&local, &c->address, &c->port);
	c->from_port = from_port;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	/* A veth pair has no queue to share: what paces itself, as bbr does, would only wait for timers. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	if (full)
		conn_block(c, "too-many-connections");
	else
		conn_decide(c);
}

/* Out of descriptors, a waiting connection would wake us for ever: take it with the spare one, and refuse it. */
static void accept_and_reset(struct egress *eg, int listener)
{
	int fd;

	closep(&eg->spare);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	reset_on_close(fd);
	closep(&fd);
	eg->spare = fcntl(eg->ep, F_DUPFD_CLOEXEC, 0);
}

void tcp_accept_ready(struct source *s, uint32_t events _unused_)
{
	for (int i = 0; i < LOOP_BATCH; i++) {
		struct sockaddr_storage peer;
		socklen_t n = sizeof(peer);
		int fd = accept4(s->fd, (struct sockaddr *)&peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0)
			accepted(s->eg, fd, &peer);
		else if (errno == EMFILE || errno == ENFILE)
			accept_and_reset(s->eg, s->fd);
		else if (errno == EAGAIN)
			return;
	}
}
