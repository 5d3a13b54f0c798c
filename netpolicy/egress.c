#include "netpolicy/egress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"
#include "netpolicy/egress-internal.h"

/* Theory of operation. One epoll loop over: the gateway's transparent sockets (what sandboxes send), the
 * control socket (what the daemon says), the dialer's socket (blank host sockets coming in), NFLOG (what
 * nftables refused), its queue (what nftables asks about), and each connection, flow and question under way. Work in
 * a turn is bounded for each source, so nobody starves another; level-triggered, so what was left comes again.
 *
 * The daemon may be away: its socket then gives EAGAIN or EOF; events wait in a bounded queue, the newest are
 * dropped when it is full, and policy goes on as it was. */

#define RESTATE_MS 1000

static const int64_t WAIT_US[WAIT_KINDS] = {
	[WAIT_UPSTREAM] = 1000000,	     [WAIT_SNIFF] = 5000000, [WAIT_DNS_TCP] = 10000000, [WAIT_UDP] = 60000000,
	[WAIT_HOLD] = EGRESS_HOLD_MS * 1000,
};

int source_watch(struct source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };
	int op = events == 0 ? EPOLL_CTL_DEL : s->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	if (events == s->events)
		return 0;
	/* With nothing asked for, epoll would still report a hang-up, again and again: leave the set. */
	if (epoll_ctl(s->eg->ep, op, s->fd, &ev) < 0)
		return -errno;
	s->events = events;
	return 0;
}

void source_close(struct source *s)
{
	closep(&s->fd);
	s->events = 0;
	s->ready = NULL;
}

void egress_discard(struct egress *eg, struct garbage *g)
{
	g->next = eg->garbage;
	eg->garbage = g;
}

void deadline_clear(struct egress *eg, struct deadline *d)
{
	if (d->at)
		TAILQ_REMOVE(&eg->waits[d->kind], d, link);
	d->at = 0;
}

void deadline_set(struct egress *eg, struct deadline *d, enum wait_kind kind,
		  void (*fire)(struct egress *eg, struct deadline *d))
{
	deadline_clear(eg, d);
	d->at = clock_mono_us() + WAIT_US[kind];
	d->kind = kind;
	d->fire = fire;
	TAILQ_INSERT_TAIL(&eg->waits[kind], d, link);
}

/* Fires what is due; returns how many ms epoll may sleep, -1: for ever. */
static int deadlines_run(struct egress *eg)
{
	int64_t now = clock_mono_us(), next = INT64_MAX;

	for (size_t k = 0; k < WAIT_KINDS; k++) {
		struct deadline *d;

		while ((d = TAILQ_FIRST(&eg->waits[k])) && d->at <= now) {
			deadline_clear(eg, d);
			d->fire(eg, d);
		}
		if (d)
			next = MIN(next, d->at);
	}
	return next == INT64_MAX ? -1 : (int)((next - now) / 1000 + 1);
}

/* --- addresses --- */

void egress_from_sockaddr(const struct sockaddr_storage *ss, struct in6_addr *ret_address, uint16_t *ret_port)
{
	const struct sockaddr_in6 *v6 = (const void *)ss;
	const struct sockaddr_in *v4 = (const void *)ss;

	memset(ret_address, 0, sizeof(*ret_address));
	*ret_port = 0;
	if (ss->ss_family == AF_INET6) {
		*ret_address = v6->sin6_addr;
		*ret_port = ntohs(v6->sin6_port);
	} else if (ss->ss_family == AF_INET) {
		ret_address->s6_addr[10] = ret_address->s6_addr[11] = 0xff;
		memcpy(&ret_address->s6_addr[12], &v4->sin_addr, 4);
		*ret_port = ntohs(v4->sin_port);
	}
}

socklen_t egress_to_sockaddr(const struct in6_addr *a, uint16_t port, struct sockaddr_storage *ret)
{
	struct sockaddr_in6 *v6 = (void *)ret;
	struct sockaddr_in *v4 = (void *)ret;

	memset(ret, 0, sizeof(*ret));
	if (IN6_IS_ADDR_V4MAPPED(a)) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		memcpy(&v4->sin_addr, &a->s6_addr[12], 4);
		return sizeof(*v4);
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	v6->sin6_addr = *a;
	return sizeof(*v6);
}

/* --- events --- */

struct egress_event event_new(const struct sandbox *s, enum egress_verdict verdict, enum egress_kind kind)
{
	return (struct egress_event){
		.magic = EGRESS_MAGIC,
		.type = EGRESS_EVENT,
		.index = s->index,
		.verdict = verdict,
		.kind = kind,
		.time_ms = clock_real_ms(),
	};
}

struct egress_event event_blocked(const struct sandbox *s, const struct gateway_refused *r)
{
	struct egress_event ev = event_new(s, EGRESS_BLOCKED,
					   r->proto == IPPROTO_TCP   ? EGRESS_TCP
					   : r->proto == IPPROTO_UDP ? EGRESS_UDP
								     : EGRESS_OTHER);

	ev.address = r->to;
	ev.port = r->port;
	ev.from_port = r->from_port;
	ev.proto = r->proto;
	return ev;
}

static bool events_flush(struct egress *eg)
{
	struct queued_event *q;

	while ((q = STAILQ_FIRST(&eg->events))) {
		int r = eg->control.ready ? fd_send_msg(eg->control.fd, &q->ev, sizeof(q->ev), NULL, 0) : -EPIPE;

		if (r == -EAGAIN || r == -ENOBUFS)
			return false;
		STAILQ_REMOVE_HEAD(&eg->events, link);
		eg->n_events--;
		free(q);
	}
	return true;
}

/* A flood is worth its first lines only: token buckets keep the daemon's time for the others. Connections have
 * their own, and so have refused ones, so that questions and datagrams, which cost a sandbox nothing, can't hide them. */
static bool event_affordable(struct sandbox *s, const struct egress_event *ev)
{
	bool flow = ev->verdict == EGRESS_ALLOWED && ev->kind != EGRESS_DNS;
	bool refused = ev->verdict == EGRESS_BLOCKED && ev->proto == IPPROTO_TCP && ev->kind != EGRESS_DNS;
	struct bucket *b = &s->buckets[flow ? BUCKET_FLOWS : refused ? BUCKET_REFUSED : BUCKET_REST];
	int64_t burst = flow ? EVENT_BURST * 5 : EVENT_BURST, now = clock_mono_us();
	int64_t won = (now - b->at) * (burst / 4) / 1000000;

	if (won > 0) {
		b->tokens = MIN(burst, b->tokens + won);
		b->at = now;
	}
	if (b->tokens <= 0)
		return false;
	b->tokens--;
	return true;
}

bool event_queue(struct egress *eg, const struct egress_event *ev)
{
	struct queued_event *q;

	if (!eg->control.ready || eg->n_events >= EVENT_QUEUE_MAX || !(q = malloc(sizeof(*q))))
		return false;
	q->ev = *ev;
	STAILQ_INSERT_TAIL(&eg->events, q, link);
	eg->n_events++;
	return true;
}

/* Between turns, behind the bytes that somebody waits for: the daemon wakes up by this. */
static void events_go(struct egress *eg)
{
	if (eg->n_events > 0 && eg->control.ready && !(eg->control.events & EPOLLOUT) && !events_flush(eg))
		(void)source_watch(&eg->control, EPOLLIN | EPOLLOUT);
}

bool event_send(struct egress *eg, struct sandbox *s, const struct egress_event *ev)
{
	/* The end of a flow is always told: its start was. */
	return (ev->kind == EGRESS_CLOSED || event_affordable(s, ev)) && event_queue(eg, ev);
}

/* --- sandboxes --- */

static size_t known_slot(const struct in6_addr *a)
{
	return (a->s6_addr[15] ^ a->s6_addr[14] ^ a->s6_addr[13] ^ a->s6_addr[7]) % KNOWN_BUCKETS;
}

static void known_drop(struct sandbox *s, struct known *k)
{
	TAILQ_REMOVE(&s->ages, k, age);
	LIST_REMOVE(k, bucket);
	s->n_known--;
	free(k);
}

static void known_clear(struct sandbox *s)
{
	while (!TAILQ_EMPTY(&s->ages))
		known_drop(s, TAILQ_FIRST(&s->ages));
}

void known_add(struct sandbox *s, const char *name, const struct in6_addr *a, uint32_t ttl, bool local)
{
	int64_t expires = clock_mono_us() + (int64_t)MAX(ttl, 3600u) * 1000000;
	struct known_bucket *b = &s->known[known_slot(a)];
	struct known *k;

	LIST_FOREACH(k, b, bucket)
	if (memcmp(&k->address, a, sizeof(*a)) == 0 && strcmp(k->name, name) == 0)
		break;
	if (k) {
		TAILQ_REMOVE(&s->ages, k, age);
	} else {
		if (s->n_known >= KNOWN_MAX)
			known_drop(s, TAILQ_FIRST(&s->ages));
		k = malloc(sizeof(*k) + strlen(name) + 1);
		if (!k)
			return; /* the connection will be refused: never more than was meant */
		memcpy(k->name, name, strlen(name) + 1);
		k->address = *a;
		LIST_INSERT_HEAD(b, k, bucket);
		s->n_known++;
	}
	k->expires = expires;
	k->local = local;
	TAILQ_INSERT_TAIL(&s->ages, k, age);
}

const struct known *known_next(const struct sandbox *s, const struct in6_addr *a, const struct known *from)
{
	int64_t now = clock_mono_us();
	const struct known *k = from ? LIST_NEXT(from, bucket) : LIST_FIRST(&s->known[known_slot(a)]);

	while (k && (memcmp(&k->address, a, sizeof(*a)) != 0 || k->expires <= now))
		k = LIST_NEXT(k, bucket);
	return k;
}

struct sandbox *egress_sandbox_of(struct egress *eg, const struct in6_addr *a)
{
	int i = gateway_index_of(a);

	return i >= 0 && i < (int)GATEWAY_MAX ? eg->sandboxes[i] : NULL;
}

static void sandbox_cut(struct sandbox *s)
{
	while (!LIST_EMPTY(&s->conns))
		conn_abort(LIST_FIRST(&s->conns));
	while (!LIST_EMPTY(&s->flows))
		flow_end(LIST_FIRST(&s->flows));
}

static void sandbox_remove(struct egress *eg, uint32_t index)
{
	struct sandbox *s = eg->sandboxes[index];

	if (!s)
		return;
	sandbox_cut(s);
	eg->sandboxes[index] = NULL;
	known_clear(s);
	policy_free(s->policy);
	free(s);
}

/* A second ADD of the same index is a change of policy: connections that stand are left standing. */
static int sandbox_add(struct egress *eg, const struct egress_msg *m)
{
	struct sandbox *s = eg->sandboxes[m->index];
	struct policy *p;

	if (m->mode > NET_OPEN ||
	    policy_new((enum net_mode)m->mode, m->flags & EGRESS_BUILTIN_LIST, m->flags & EGRESS_ALLOW_PRIVATE, &p) < 0)
		return -EINVAL;
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (!s) {
			policy_free(p);
			return -ENOMEM;
		}
		TAILQ_INIT(&s->ages);
		s->serial = ++eg->next_serial;
		eg->sandboxes[m->index] = s;
	}
	/* What it was told holds no longer than the policy has it so: each connection is decided by that. */
	if (!eg->restating)
		known_clear(s);
	s->named = true;
	policy_free(s->policy);
	s->policy = p;
	s->index = m->index;
	s->allow_private = m->flags & EGRESS_ALLOW_PRIVATE;
	return 0;
}

/* --- control --- */

static void restate_begin(struct egress *eg)
{
	for (uint32_t i = 0; i < GATEWAY_MAX; i++)
		if (eg->sandboxes[i])
			eg->sandboxes[i]->named = false;
	map_clear(&eg->map);
	zone_clear(&eg->map);
	eg->restating = true;
}

static void restate_end(struct egress *eg)
{
	for (uint32_t i = 0; eg->restating && i < GATEWAY_MAX; i++)
		if (eg->sandboxes[i] && !eg->sandboxes[i]->named)
			sandbox_remove(eg, i);
	eg->restating = false;
}

static int control_apply(struct egress *eg, const struct egress_msg *m)
{
	struct policy_rule rule;
	int r;

	if (m->type <= EGRESS_REMOVE && m->index >= GATEWAY_MAX)
		return -EINVAL;
	switch (m->type) {
	case EGRESS_ADD:
		return sandbox_add(eg, m);
	case EGRESS_ALLOW:
		r = policy_rule_parse(m->text, &rule, NULL);
		if (r < 0 || !eg->sandboxes[m->index])
			return r < 0 ? r : -ENOENT;
		return policy_allow(eg->sandboxes[m->index]->policy, &rule);
	case EGRESS_REMOVE:
		sandbox_remove(eg, m->index);
		name_fault_forget(eg, m->index);
		return 0;
	case EGRESS_MAP:
		if (m->value)
			return map_add(&eg->map, m->text);
		map_clear(&eg->map);
		return 0;
	case EGRESS_ZONE:
		if (m->text[0])
			return zone_add(&eg->map, m->text);
		zone_clear(&eg->map);
		return 0;
	case EGRESS_FAULT:
		if (m->text[0])
			return name_fault_add(eg, m);
		name_fault_clear(eg);
		return 0;
	case EGRESS_RESTATE:
		if (m->value)
			restate_begin(eg);
		else
			restate_end(eg);
		return 0;
	case EGRESS_NOTED:
		hold_noted(eg, m->token);
		return 0;
	case EGRESS_SYNC:
		if (eg->n_syncs < ARRAY_SIZE(eg->syncs)) /* as many as are read in a turn */
			eg->syncs[eg->n_syncs++] = (struct sync){ m->index, m->token };
		return 0;
	default:
		return -EBADMSG;
	}
}

static void control_ready(struct source *s, uint32_t events)
{
	struct egress *eg = s->eg;
	struct egress_msg m;

	if ((events & EPOLLOUT) && events_flush(eg))
		(void)source_watch(s, EPOLLIN);
	for (int i = 0; i < LOOP_BATCH || eg->restating; i++) {
		struct pollfd p = { .fd = s->fd, .events = POLLIN };
		ssize_t n;
		int r;

		/* A daemon that dies half way does not hold up the others: what is there stays. */
		if (eg->restating && poll(&p, 1, RESTATE_MS) <= 0)
			eg->restating = false;
		n = fd_recv_msg(s->fd, &m, sizeof(m), NULL, 0, NULL);
		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0) {
			eg->restating = false;
			source_close(s); /* the daemon is gone; what it said holds */
			(void)events_flush(eg);
			hold_release_all(eg);
			return;
		}
		if (n != sizeof(m) || m.magic != EGRESS_MAGIC || !memchr(m.text, '\0', sizeof(m.text))) {
			log_error("egress: a control message makes no sense");
			continue;
		}
		r = control_apply(eg, &m);
		if (r < 0)
			log_error("egress: control message %u for sandbox %u: errno %d", m.type, m.index, -r);
	}
}

/* --- what nftables refused --- */

static void refused(void *arg, const struct gateway_refused *r)
{
	struct egress *eg = arg;
	struct sandbox *s = egress_sandbox_of(eg, &r->from);
	struct egress_event ev;

	if (!s)
		return;
	ev = event_blocked(s, r);
	if (r->name[0])
		ev.kind = EGRESS_DNS;
	(void)snprintf(ev.rule, sizeof(ev.rule), "%s", r->rule);
	if (r->name[0])
		(void)snprintf(ev.host, sizeof(ev.host), "%s", r->name);
	else if (known_next(s, &r->to, NULL))
		(void)snprintf(ev.host, sizeof(ev.host), "%s", known_next(s, &r->to, NULL)->name);
	event_send(eg, s, &ev);
}

static void nflog_ready(struct source *s, uint32_t events _unused_)
{
	int r = gateway_read_refused(s->fd, refused, s->eg);

	/* ENOBUFS is the kernel saying that it dropped some: nothing to do but go on. */
	if (r < 0 && r != -EAGAIN && r != -ENOBUFS && r != -EINTR && r != -EBADMSG) {
		log_error("egress: the log of refusals can't be read: errno %d", -r);
		source_close(s);
	}
}

/* --- the process --- */

static int watch_new(struct egress *eg, struct source *s, int fd, void (*ready)(struct source *s, uint32_t events))
{
	*s = (struct source){ .fd = fd, .eg = eg };
	if (fd < 0)
		return 0;
	if (fd_set_nonblock(fd, true) < 0)
		return -EBADF;
	s->ready = ready;
	return source_watch(s, EPOLLIN);
}

/* Replies have to know which address was asked; the gateway may have set these already. */
static void want_destinations(int fd)
{
	int one = 1;

	if (fd < 0)
		return;
	(void)setsockopt(fd, SOL_IP, IP_RECVORIGDSTADDR, &one, sizeof(one));
	(void)setsockopt(fd, SOL_IPV6, IPV6_RECVORIGDSTADDR, &one, sizeof(one));
}

static int watch_all(struct egress *eg, const struct egress_config *c)
{
	const struct gateway_sockets *g = c->sockets;
	int r = 0;

	for (int i = 0; i < 2 && r >= 0; i++) {
		want_destinations(g->udp[i]);
		want_destinations(g->dns_udp[i]);
		r = watch_new(eg, &eg->tcp[i], g->tcp[i], tcp_accept_ready);
		if (r >= 0)
			r = watch_new(eg, &eg->udp[i], g->udp[i], udp_ready);
		if (r >= 0)
			r = watch_new(eg, &eg->dns_tcp[i], g->dns_tcp[i], dns_tcp_ready);
		if (r >= 0)
			r = watch_new(eg, &eg->dns_udp[i], g->dns_udp[i], dns_udp_ready);
	}
	if (r >= 0)
		r = watch_new(eg, &eg->nflog, g->nflog, nflog_ready);
	if (r >= 0)
		r = watch_new(eg, &eg->queue, g->queue, asked_ready);
	if (r >= 0)
		r = watch_new(eg, &eg->dialer, c->dialer, blank_ready);
	return r < 0 ? r : watch_new(eg, &eg->control, c->control, control_ready);
}

/* What is left is what transparent sockets and ICMP errors need, and only over the gateway's namespace. */
static int drop_privileges(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];
	uint32_t keep = 1u << CAP_NET_ADMIN | 1u << CAP_NET_RAW | 1u << CAP_NET_BIND_SERVICE;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || syscall(SYS_capget, &h, d) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		d[i].effective &= i == 0 ? keep : 0;
		d[i].permitted &= i == 0 ? keep : 0;
		d[i].inheritable = 0;
	}
	return syscall(SYS_capset, &h, d) < 0 ? -errno : 0;
}

static int raw_socket(int family, int proto)
{
	return socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, proto);
}

static int fd_cmp(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Whatever else the parent had open is not for a process that reads what sandboxes write. */
static int close_others(const struct egress_config *c)
{
	const struct gateway_sockets *g = c->sockets;
	int keep[] = { STDERR_FILENO, c->control, c->dialer,	 g->nflog,	g->queue,      g->tcp[0],    g->tcp[1],
		       g->udp[0],     g->udp[1],  g->dns_tcp[0], g->dns_tcp[1], g->dns_udp[0], g->dns_udp[1] };
	size_t n = ARRAY_SIZE(keep);

	qsort(keep, n, sizeof(keep[0]), fd_cmp);
	for (size_t i = 0; i < n; i++) {
		unsigned int from = (unsigned int)keep[i] + 1, to = i + 1 < n ? (unsigned int)keep[i + 1] : ~0u;

		if (keep[i] < STDERR_FILENO || from >= to)
			continue;
		if (sys_close_range(from, to == ~0u ? to : to - 1, 0) < 0)
			return -errno;
	}
	return 0;
}

static int egress_init(struct egress *eg, const struct egress_config *c)
{
	struct rlimit files;
	int r;

	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
	(void)signal(SIGPIPE, SIG_IGN);
	r = close_others(c);
	if (r < 0)
		return r;
	STAILQ_INIT(&eg->events);
	TAILQ_INIT(&eg->held);
	for (size_t i = 0; i < WAIT_KINDS; i++)
		TAILQ_INIT(&eg->waits[i]);
	for (size_t i = 0; i < BLANK_KINDS; i++)
		TAILQ_INIT(&eg->pool[i].queue);
	eg->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	/* For "port unreachable"; without them a refused datagram is only silent. */
	eg->icmp[0] = raw_socket(AF_INET, IPPROTO_ICMP);
	eg->icmp[1] = raw_socket(AF_INET6, IPPROTO_ICMPV6);
	eg->ep = epoll_create1(EPOLL_CLOEXEC);
	if (eg->ep < 0)
		return -errno;
	r = resolver_init(eg, c);
	if (r >= 0)
		r = watch_all(eg, c);
	if (r >= 0)
		r = drop_privileges();
	if (r >= 0)
		r = egress_filter();
	if (r >= 0)
		blank_fill(eg);
	return r;
}

/* What the daemon said before a sandbox sent anything is also done before. */
static void turn(struct egress *eg, const struct epoll_event *ev, int n)
{
	for (int i = 0; i < n; i++)
		if (ev[i].data.ptr == &eg->control && eg->control.ready)
			eg->control.ready(&eg->control, ev[i].events);
	for (int i = 0; i < n; i++) {
		struct source *s = ev[i].data.ptr;

		if (s->ready && s != &eg->control)
			s->ready(s, ev[i].events);
	}
}

static void sweep(struct egress *eg)
{
	while (eg->garbage) {
		struct garbage *g = eg->garbage;

		eg->garbage = g->next;
		free(g);
	}
}

_noreturn_ void egress_main(const struct egress_config *c)
{
	struct egress *eg = calloc(1, sizeof(*eg));
	struct epoll_event ev[LOOP_BATCH];
	int r = eg ? egress_init(eg, c) : -ENOMEM;

	if (r < 0) {
		log_error("egress: can't start: errno %d", -r);
		_exit(1);
	}
	/* Without the dialer nothing can be connected any more: an end that is seen beats one that is not. */
	while (eg->dialer.ready) {
		int wait = deadlines_run(eg), n;

		events_go(eg);
		n = epoll_wait(eg->ep, ev, LOOP_BATCH, eg->garbage ? 0 : wait);
		turn(eg, ev, n);
		if (eg->n_syncs)
			egress_sync(eg);
		sweep(eg);
	}
	log_error("egress: the dialer is gone");
	_exit(1);
}
