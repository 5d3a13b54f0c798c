#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "emulator/base/text.h"
#include "netpolicy/egress-internal.h"

/* Asking the host's nameservers. Each try has a fresh blank socket (so a random port), a random id, and is
 * connected to the server: an answer has to match all three and the question. Those who ask the same thing
 * meanwhile wait for the same answer. A server that is silent for a second, refuses or fails is followed by the
 * next, three tries in all; a truncated answer is asked for again over TCP.
 *
 * The cache holds what was understood of an answer (struct dns_answer), as it came; what a sandbox may see of it
 * is decided each time (resolver_answer). Least recently used goes first. */

#define LOOKUPS_MAX 1024
#define TRIES 3
#define CACHE_MAX 2048
#define CACHE_TTL_MAX 3600
#define CACHE_NO_TTL_MAX 300 /* for how long a "no" is believed */

struct key {
	uint16_t type;
	char name[POLICY_NAME_MAX];
};

struct waiter {
	struct waiter *next;
	struct asker asker;
};

struct lookup {
	struct garbage garbage; /* first: egress_discard */
	UT_hash_handle hh;
	struct key key;
	struct waiter *waiters;
	struct source s;
	struct blank_wait blank;
	struct deadline deadline;
	unsigned int tries;
	uint16_t id;
	bool tcp;
	const struct sockaddr_storage *server;
	uint8_t query[2 + DNS_HEADER + POLICY_NAME_MAX + 32]; /* with TCP's length before it */
	size_t query_len, sent;
	uint8_t *in;
	size_t have;
};

struct cached {
	UT_hash_handle hh;
	struct key key;
	int64_t expires;
	struct dns_answer answer;
};

static struct key key_of(const char *name, uint16_t type)
{
	struct key k;

	memset(&k, 0, sizeof(k));
	k.type = type;
	memcpy(k.name, name, strlen(name) + 1);
	return k;
}

/* --- cache --- */

static void cache_drop(struct egress *eg, struct cached *c)
{
	HASH_DEL(eg->dns.cache, c);
	free(c);
}

const struct dns_answer *cache_find(struct egress *eg, const char *name, uint16_t type, uint32_t *ret_ttl)
{
	struct key k = key_of(name, type);
	struct cached *c;
	int64_t left;

	HASH_FIND(hh, eg->dns.cache, &k, sizeof(k), c);
	if (!c)
		return NULL;
	left = c->expires - clock_mono_us();
	if (left <= 0) {
		cache_drop(eg, c);
		return NULL;
	}
	/* To the end of uthash's order: the first is then the one that was not used for longest. */
	HASH_DEL(eg->dns.cache, c);
	HASH_ADD(hh, eg->dns.cache, key, sizeof(k), c);
	if (!c->hh.tbl) {
		free(c);
		return NULL;
	}
	*ret_ttl = (uint32_t)((left + 999999) / 1000000);
	return &c->answer;
}

static void cache_add(struct egress *eg, const char *name, uint16_t type, const struct dns_answer *ans)
{
	struct key k = key_of(name, type);
	uint32_t ttl = MIN(ans->ttl, ans->n_addr ? (uint32_t)CACHE_TTL_MAX : (uint32_t)CACHE_NO_TTL_MAX);
	struct cached *c;

	HASH_FIND(hh, eg->dns.cache, &k, sizeof(k), c);
	if (c)
		cache_drop(eg, c);
	if (ttl == 0)
		return;
	if (HASH_COUNT(eg->dns.cache) >= CACHE_MAX)
		cache_drop(eg, eg->dns.cache);
	c = calloc(1, sizeof(*c));
	if (!c)
		return;
	c->key = k;
	c->answer = *ans;
	c->expires = clock_mono_us() + (int64_t)ttl * 1000000;
	HASH_ADD(hh, eg->dns.cache, key, sizeof(k), c);
	if (!c->hh.tbl)
		free(c);
}

/* --- a lookup's life --- */

static void lookup_stop(struct egress *eg, struct lookup *l)
{
	deadline_clear(eg, &l->deadline);
	blank_cancel(eg, &l->blank);
	source_close(&l->s);
	free(l->in);
	l->in = NULL;
	l->have = 0;
}

static struct waiter *next_waiter(struct egress *eg, struct lookup *l, struct sandbox **ret_s)
{
	struct waiter *w = l->waiters;
	struct sandbox *s;

	if (!w)
		return NULL;
	l->waiters = w->next;
	s = eg->sandboxes[w->asker.index];
	*ret_s = s && s->serial == w->asker.serial ? s : NULL;
	if (*ret_s)
		s->n_lookups--;
	return w;
}

static void passed(struct egress *eg, const struct asker *a, const uint8_t *p, size_t n)
{
	static uint8_t buf[DNS_MAX];

	dns_reply(eg, a, buf, dns_build_passed(buf, dns_reply_max(a), &a->q, p, n));
}

static struct lookup *lookup_new(struct egress *eg, const struct key *k)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->key = *k;
	l->s = (struct source){ .fd = -1, .eg = eg };
	HASH_ADD(hh, eg->dns.lookups, key, sizeof(l->key), l);
	if (!l->hh.tbl) {
		free(l);
		return NULL;
	}
	eg->dns.n_lookups++;
	return l;
}

/* Tells everybody who waits, either an understood answer or the message itself. */
static void lookup_done(struct egress *eg, struct lookup *l, const struct dns_answer *ans, const uint8_t *p, size_t n)
{
	struct sandbox *s;
	struct waiter *w;

	deadline_clear(eg, &l->deadline);
	HASH_DEL(eg->dns.lookups, l);
	eg->dns.n_lookups--;
	while ((w = next_waiter(eg, l, &s))) {
		if (!s)
			dns_conn_unasked(eg, w->asker.conn);
		else if (ans)
			resolver_answer(eg, s, &w->asker, ans);
		else
			passed(eg, &w->asker, p, n);
		free(w);
	}
	lookup_stop(eg, l);
	egress_discard(eg, &l->garbage);
}

static void lookup_try(struct egress *eg, struct lookup *l);
static void lookup_connect(struct egress *eg, struct lookup *l, bool tcp);

/* A message from the server. False: not the answer to this question; wait on. */
static bool lookup_message(struct egress *eg, struct lookup *l, const uint8_t *p, size_t n)
{
	bool understood = l->key.type == DNS_A || l->key.type == DNS_AAAA || l->key.type == DNS_CNAME;
	enum dns_rcode rcode = DNS_SERVFAIL;
	struct dns_answer ans;
	size_t len = 0;
	int r;

	if (understood)
		r = dns_parse_answer(p, n, l->id, l->key.name, l->key.type, &ans);
	else
		r = dns_check_answer(p, n, l->id, l->key.name, l->key.type, &len, &rcode);
	if (r == -EMSGSIZE && !l->tcp) {
		lookup_connect(eg, l, true);
		return true;
	}
	if (r < 0)
		return false;
	if (understood)
		rcode = ans.rcode;
	if (rcode != DNS_NOERROR && rcode != DNS_NXDOMAIN) {
		lookup_try(eg, l);
		return true;
	}
	if (understood)
		cache_add(eg, l->key.name, l->key.type, &ans);
	lookup_done(eg, l, understood ? &ans : NULL, p, len);
	return true;
}

static void udp_answer_ready(struct source *s, uint32_t events _unused_)
{
	static uint8_t buf[DNS_MAX];
	struct lookup *l = CONTAINER(s, struct lookup, s);

	/* A few at a time: whoever sends garbage does not keep the loop. */
	for (int i = 0; i < 8; i++) {
		ssize_t n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) {
			lookup_try(s->eg, l); /* nobody listens there */
			return;
		}
		if (lookup_message(s->eg, l, buf, (size_t)n))
			return;
	}
}

/* 0: more to come, else the connection's end. */
static int tcp_answer_read(struct lookup *l)
{
	size_t want;
	ssize_t k;

	if (!l->in) {
		l->in = malloc(2 + DNS_MAX);
		l->have = 0;
	}
	if (!l->in)
		return -ENOMEM;
	want = l->have < 2 ? 2 : 2 + ((size_t)l->in[0] << 8 | l->in[1]);
	k = recv(l->s.fd, l->in + l->have, want - l->have, MSG_DONTWAIT);
	if (k < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (k == 0)
		return -EPIPE;
	l->have += (size_t)k;
	return l->have >= 2 && l->have == 2 + ((size_t)l->in[0] << 8 | l->in[1]);
}

static void tcp_answer_ready(struct source *s, uint32_t events _unused_)
{
	struct lookup *l = CONTAINER(s, struct lookup, s);
	int r = 0;

	if (l->sent < l->query_len) {
		ssize_t k = send(s->fd, l->query + l->sent, l->query_len - l->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (k > 0)
			l->sent += (size_t)k;
		else if (k < 0 && errno != EAGAIN)
			r = -errno;
		if (l->sent == l->query_len && source_watch(s, EPOLLIN) < 0)
			r = -ENOMEM;
	} else {
		r = tcp_answer_read(l);
	}
	if (r > 0) {
		uint8_t *in = TAKE_PTR(l->in);
		size_t n = l->have - 2;

		l->have = 0;
		if (!lookup_message(s->eg, l, in + 2, n))
			lookup_try(s->eg, l);
		free(in);
	} else if (r < 0) {
		lookup_try(s->eg, l);
	}
}

static void lookup_late(struct egress *eg, struct deadline *d)
{
	lookup_try(eg, CONTAINER(d, struct lookup, deadline));
}

static void lookup_got_socket(struct egress *eg, struct blank_wait *w, int fd)
{
	struct lookup *l = CONTAINER(w, struct lookup, blank);
	socklen_t len = l->server->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	int r;

	if (fd < 0)
		return; /* the deadline tries the next one */
	l->s = (struct source){ .fd = fd, .eg = eg, .ready = l->tcp ? tcp_answer_ready : udp_answer_ready };
	r = connect(fd, (const struct sockaddr *)l->server, len) < 0 && errno != EINPROGRESS ? -errno : 0;
	if (r == 0 && !l->tcp && send(fd, l->query + 2, l->query_len - 2, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		r = -errno;
	if (r == 0)
		r = source_watch(&l->s, l->tcp ? EPOLLOUT : EPOLLIN);
	if (r < 0)
		source_close(&l->s);
}

static void lookup_connect(struct egress *eg, struct lookup *l, bool tcp)
{
	bool v4 = l->server->ss_family == AF_INET;

	lookup_stop(eg, l);
	l->tcp = tcp;
	l->sent = 0;
	deadline_set(eg, &l->deadline, WAIT_UPSTREAM, lookup_late);
	if (tcp)
		blank_get(eg, &l->blank, v4 ? BLANK_TCP4 : BLANK_TCP6, lookup_got_socket);
	else
		blank_get(eg, &l->blank, v4 ? BLANK_UDP4 : BLANK_UDP6, lookup_got_socket);
}

static void lookup_try(struct egress *eg, struct lookup *l)
{
	static const struct dns_answer FAILED = { .rcode = DNS_SERVFAIL };
	ssize_t n = -EINVAL;

	if (l->tries < TRIES) {
		text_random(&l->id, sizeof(l->id));
		n = dns_build_query(l->query + 2, sizeof(l->query) - 2, l->id, l->key.name, l->key.type);
	}
	if (n < 0) {
		lookup_done(eg, l, &FAILED, NULL, 0);
		return;
	}
	l->query[0] = (uint8_t)(n >> 8);
	l->query[1] = (uint8_t)n;
	l->query_len = (size_t)n + 2;
	l->server = &eg->dns.servers[l->tries++ % eg->dns.n_servers];
	lookup_connect(eg, l, false);
}

int upstream_ask(struct egress *eg, struct sandbox *s, const struct asker *a)
{
	struct key k = key_of(a->q.name, a->q.type);
	struct lookup *l;
	struct waiter *w;
	bool first;

	if (eg->dns.n_servers == 0)
		return -ENOENT;
	if (s->n_lookups >= LOOKUP_MAX)
		return -EBUSY;
	HASH_FIND(hh, eg->dns.lookups, &k, sizeof(k), l);
	first = !l;
	if (first && eg->dns.n_lookups >= LOOKUPS_MAX)
		return -EBUSY;
	w = malloc(sizeof(*w));
	if (first && w)
		l = lookup_new(eg, &k);
	if (!w || !l) {
		free(w);
		return -EBUSY;
	}
	*w = (struct waiter){ .next = l->waiters, .asker = *a };
	l->waiters = w;
	s->n_lookups++;
	if (first)
		lookup_try(eg, l);
	return 0;
}

/* --- the servers --- */

static int server_parse(const char *text, struct sockaddr_storage *ret)
{
	char host[64];
	const char *hash = strchr(text, '#');
	size_t n = hash ? (size_t)(hash - text) : strlen(text);
	struct sockaddr_in6 *v6 = (void *)ret;
	struct sockaddr_in *v4 = (void *)ret;
	uint64_t port = 53;

	if (n >= sizeof(host) || (hash && text_parse_u64(hash + 1, 1, 65535, &port) < 0))
		return -EINVAL;
	memcpy(host, text, n);
	host[n] = '\0';
	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return 0;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
		return -EINVAL;
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	return 0;
}

/* A server with a zone ("fe80::1%eth0") is left out: the zone's number is the host's, unknown in here. */
int resolver_init(struct egress *eg, const struct egress_config *c)
{
	for (size_t i = 0; i < ARRAY_SIZE(c->nameservers); i++) {
		const char *s = c->nameservers[i];

		if (!memchr(s, '\0', sizeof(c->nameservers[i])))
			return -EINVAL;
		if (s[0] && server_parse(s, &eg->dns.servers[eg->dns.n_servers]) == 0)
			eg->dns.n_servers++;
	}
	return 0;
}
