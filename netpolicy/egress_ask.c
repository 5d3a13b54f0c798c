#include <errno.h>
#include <string.h>

#include "netpolicy/egress-internal.h"

/* What waits for an answer: packets that the kernel asks about (gateway.h), and refusals that are held back until
 * the daemon has taken them in.
 *
 * A connection's first packet is judged here, so that what can be refused by its address fails in connect(2); what
 * passes is judged again, and perhaps by more, when the relay accepts it. A held refusal costs a round trip to the
 * daemon (some 0.1 ms), and gives it the moment to look whose socket it was: the program still waits for us. */

/* --- holding --- */

#define HELD_MAX 2048

static void hold_end(struct egress *eg, struct hold *h)
{
	deadline_clear(eg, &h->deadline);
	TAILQ_REMOVE(&eg->held, h, link);
	eg->n_held--;
	h->token = 0;
}

void hold_cancel(struct egress *eg, struct hold *h)
{
	if (h->token)
		hold_end(eg, h);
}

static void hold_release(struct egress *eg, struct hold *h)
{
	hold_end(eg, h);
	h->release(eg, h);
}

static void hold_late(struct egress *eg, struct deadline *d)
{
	hold_release(eg, CONTAINER(d, struct hold, deadline));
}

bool event_hold(struct egress *eg, struct sandbox *s, struct egress_event *ev, struct hold *h,
		void (*release)(struct egress *eg, struct hold *h))
{
	if (eg->n_held < HELD_MAX)
		ev->token = ++eg->next_token;
	if (!event_send(eg, s, ev) || !ev->token)
		return false;
	h->token = ev->token;
	h->release = release;
	TAILQ_INSERT_TAIL(&eg->held, h, link);
	eg->n_held++;
	deadline_set(eg, &h->deadline, WAIT_HOLD, hold_late);
	return true;
}

void hold_noted(struct egress *eg, uint64_t token)
{
	struct hold *h;

	/* The daemon answers in order, so it is the first one. */
	TAILQ_FOREACH(h, &eg->held, link)
	if (h->token == token)
		break;
	if (h)
		hold_release(eg, h);
}

void hold_release_all(struct egress *eg)
{
	while (!TAILQ_EMPTY(&eg->held))
		hold_release(eg, TAILQ_FIRST(&eg->held));
}

/* --- judging a connection by its address --- */

static void judge_restricted(struct sandbox *box, const struct in6_addr *a, uint16_t port, struct judgement *j)
{
	const struct known *k = NULL;

	if (policy_address(box->policy, a, port, j->rule)) {
		j->allowed = true;
		return;
	}
	(void)snprintf(j->rule, sizeof(j->rule), "%s", "not-in-allowlist");
	while (!j->allowed && (k = known_next(box, a, k))) {
		(void)snprintf(j->host, sizeof(j->host), "%s", k->name);
		j->allowed = policy_name(box->policy, k->name, port, j->rule);
	}
	j->by_name = j->allowed && (port == 443 || port == 80);
}

static void judge_open(struct sandbox *box, const struct in6_addr *a, uint16_t port, bool mapped, struct judgement *j)
{
	const struct known *k = NULL;
	bool local = mapped;

	while ((k = known_next(box, a, k))) {
		(void)snprintf(j->host, sizeof(j->host), "%s", k->name);
		local |= k->local;
	}
	j->allowed = policy_address(box->policy, a, port, j->rule) || local;
	if (local)
		(void)snprintf(j->rule, sizeof(j->rule), "%s", "open");
}

void tcp_judge(struct egress *eg, struct sandbox *box, const struct in6_addr *a, uint16_t port, struct judgement *ret)
{
	const char *mapped = map_name_of(&eg->map, a);

	*ret = (struct judgement){ .to = { .address = *a, .port = port } };
	if (mapped) {
		(void)snprintf(ret->host, sizeof(ret->host), "%s", mapped);
		if (!map_target(&eg->map, mapped, port, &ret->to)) {
			(void)snprintf(ret->rule, sizeof(ret->rule), "%s", "not-mapped");
			return;
		}
	}
	switch (policy_mode(box->policy)) {
	case NET_RESTRICTED:
		judge_restricted(box, a, port, ret);
		return;
	case NET_OPEN:
		judge_open(box, a, port, mapped != NULL, ret);
		return;
	case NET_OFF:
	default:
		(void)snprintf(ret->rule, sizeof(ret->rule), "%s", "network-off");
		return;
	}
}

/* --- what the kernel asks --- */

struct asked {
	struct hold hold;
	uint32_t id;
};

static void asked_release(struct egress *eg, struct hold *h)
{
	struct asked *q = CONTAINER(h, struct asked, hold);

	(void)gateway_answer(eg->queue.fd, q->id, GATEWAY_REFUSE);
	free(q);
}

static void judge_packet(struct egress *eg, struct sandbox *s, const struct gateway_refused *r, struct judgement *j)
{
	bool off = policy_mode(s->policy) == NET_OFF;

	if (r->proto == IPPROTO_TCP) {
		tcp_judge(eg, s, &r->to, r->port, j);
		if (j->allowed && s->n_conns >= CONN_MAX) {
			j->allowed = false;
			(void)snprintf(j->rule, sizeof(j->rule), "%s", "too-many-connections");
		}
		return;
	}
	*j = (struct judgement){ .allowed = false };
	if (known_next(s, &r->to, NULL))
		(void)snprintf(j->host, sizeof(j->host), "%s", known_next(s, &r->to, NULL)->name);
	(void)snprintf(j->rule, sizeof(j->rule), "%s",
		       off			 ? "network-off"
		       : r->proto == IPPROTO_UDP ? "udp-not-allowed"
						 : "protocol");
}

static void on_asked(void *arg, uint32_t id, const struct gateway_refused *r)
{
	struct egress *eg = arg;
	struct sandbox *s = egress_sandbox_of(eg, &r->from);
	struct judgement j;
	struct egress_event ev;
	struct asked *q;

	/* Nobody's: what the rules would say to it is a refusal in any case. */
	if (!s || r->proto == 0) {
		(void)gateway_answer(eg->queue.fd, id, GATEWAY_REFUSE);
		return;
	}
	judge_packet(eg, s, r, &j);
	if (j.allowed) {
		(void)gateway_answer(eg->queue.fd, id, GATEWAY_PASS);
		return;
	}
	ev = event_blocked(s, r);
	memcpy(ev.host, j.host, sizeof(ev.host));
	memcpy(ev.rule, j.rule, sizeof(ev.rule));
	q = calloc(1, sizeof(*q));
	if (q)
		q->id = id;
	if (q && event_hold(eg, s, &ev, &q->hold, asked_release))
		return;
	free(q);
	(void)gateway_answer(eg->queue.fd, id, GATEWAY_REFUSE);
}

void asked_ready(struct source *s, uint32_t events _unused_)
{
	int r = gateway_read_asked(s->fd, on_asked, s->eg);

	if (r < 0 && r != -EAGAIN && r != -EINTR)
		source_close(s); /* then the rules alone decide */
}

/* --- having heard all --- */

void egress_sync(struct egress *eg)
{
	struct source *all[] = { &eg->queue,  &eg->nflog,      &eg->tcp[0],	&eg->tcp[1],	 &eg->udp[0],
				 &eg->udp[1], &eg->dns_tcp[0], &eg->dns_tcp[1], &eg->dns_udp[0], &eg->dns_udp[1] };
	struct egress_event done = { .magic = EGRESS_MAGIC, .type = EGRESS_SYNCED };

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i]->ready)
			all[i]->ready(all[i], EPOLLIN);
	for (size_t i = 0; i < eg->n_syncs; i++) {
		done.index = eg->syncs[i].index;
		done.token = eg->syncs[i].token;
		(void)event_queue(eg, &done);
	}
	eg->n_syncs = 0;
}
