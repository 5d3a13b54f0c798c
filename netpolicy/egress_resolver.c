#include <errno.h>
#include <string.h>

#include "netpolicy/egress-internal.h"

/* What a question is answered with. In restricted mode only addresses (and CNAMEs) of allowed names leave this
 * file, rebuilt from what was understood; nothing a sandbox writes in a query but an allowed name goes out, so
 * names can't be used to carry data. */

static struct egress_event asker_event(const struct sandbox *s, const struct asker *a, enum egress_verdict verdict,
				       const char *rule)
{
	struct egress_event ev = event_new(s, verdict, EGRESS_DNS);
	uint16_t port = 0;
	struct in6_addr from;

	egress_from_sockaddr(&a->from, &from, &port);
	ev.from_port = port;
	ev.port = 53;
	ev.proto = a->conn ? IPPROTO_TCP : IPPROTO_UDP;
	memcpy(ev.host, a->q.name, sizeof(ev.host));
	(void)snprintf(ev.rule, sizeof(ev.rule), "%s", rule);
	return ev;
}

static void report(struct egress *eg, struct sandbox *s, const struct asker *a, enum egress_verdict verdict,
		   const char *rule, const struct in6_addr *address)
{
	struct egress_event ev = asker_event(s, a, verdict, rule);

	if (address)
		ev.address = *address;
	(void)event_send(eg, s, &ev);
}

void resolver_error(struct egress *eg, const struct asker *a, enum dns_rcode rcode)
{
	struct dns_answer none = { .rcode = rcode };
	uint8_t buf[512 + DNS_HEADER];

	dns_reply(eg, a, buf, dns_build_answer(buf, sizeof(buf), &a->q, &none));
}

struct held_question {
	struct hold hold;
	struct asker asker;
	enum dns_rcode rcode;
};

static void question_released(struct egress *eg, struct hold *h)
{
	struct held_question *q = CONTAINER(h, struct held_question, hold);

	resolver_error(eg, &q->asker, q->rcode);
	free(q);
}

static void refuse(struct egress *eg, struct sandbox *s, const struct asker *a, const char *rule, enum dns_rcode rcode)
{
	struct egress_event ev = asker_event(s, a, EGRESS_BLOCKED, rule);
	struct held_question *q = calloc(1, sizeof(*q));

	if (q) {
		q->asker = *a;
		q->rcode = rcode;
	}
	if (q && event_hold(eg, s, &ev, &q->hold, question_released))
		return;
	free(q);
	resolver_error(eg, a, rcode);
}

static void send_answer(struct egress *eg, const struct asker *a, const struct dns_answer *ans)
{
	static uint8_t buf[DNS_MAX];

	dns_reply(eg, a, buf, dns_build_answer(buf, dns_reply_max(a), &a->q, ans));
}

/* An answer from outside, for this sandbox: private addresses are taken out, the rest is remembered. */
void resolver_answer(struct egress *eg, struct sandbox *s, const struct asker *a, const struct dns_answer *ans)
{
	struct dns_answer out = *ans;

	out.n_addr = 0;
	for (size_t i = 0; i < ans->n_addr; i++) {
		if (!s->allow_private && policy_private(&ans->addr[i], NULL)) {
			report(eg, s, a, EGRESS_BLOCKED, "rebinding", &ans->addr[i]);
			continue;
		}
		out.addr[out.n_addr++] = ans->addr[i];
		known_add(s, a->q.name, &ans->addr[i], ans->ttl, false);
	}
	if (out.n_addr > 0 || ans->n_addr == 0)
		report(eg, s, a, out.rcode == DNS_SERVFAIL ? EGRESS_FAILED : EGRESS_ALLOWED, a->rule,
		       out.n_addr ? &out.addr[0] : NULL);
	send_answer(eg, a, &out);
}

static void answer_local(struct egress *eg, struct sandbox *s, const struct asker *a, const struct dns_answer *ans)
{
	for (size_t i = 0; i < ans->n_addr; i++)
		known_add(s, a->q.name, &ans->addr[i], ans->ttl, true);
	report(eg, s, a, EGRESS_ALLOWED, a->rule, ans->n_addr ? &ans->addr[0] : NULL);
	send_answer(eg, a, ans);
}

/* RFC 6761, 6.3: never asked outside, whatever the mode. */
static bool answer_localhost(struct egress *eg, const struct asker *a)
{
	struct dns_answer ans = { .ttl = 300 };
	const char *name = a->q.name;
	size_t n = strlen(name);

	if (strcmp(name, "localhost") != 0 && (n < 11 || strcmp(name + n - 10, ".localhost") != 0))
		return false;
	if (a->q.type == DNS_A) {
		ans.addr[ans.n_addr++] =
			(struct in6_addr){ .s6_addr = { [10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1 } };
	} else if (a->q.type == DNS_AAAA) {
		ans.addr[ans.n_addr++] = in6addr_loopback;
	}
	send_answer(eg, a, &ans);
	return true;
}

/* "_http._tcp.deb.debian.org": apt and others look for services of a name first. That is no breach of policy,
 * there is just nothing to find. */
static bool service_of_allowed(const struct sandbox *s, const struct dns_query *q)
{
	const char *name = q->name;
	char rule[POLICY_RULE_MAX];

	if (q->type != DNS_SRV)
		return false;
	while (*name == '_' && strchr(name, '.'))
		name = strchr(name, '.') + 1;
	return name != q->name && policy_name(s->policy, name, 0, rule);
}

static bool refuse_restricted(struct egress *eg, struct sandbox *s, struct asker *a)
{
	char name[POLICY_NAME_MAX];

	if (service_of_allowed(s, &a->q)) {
		resolver_error(eg, a, DNS_NXDOMAIN);
		return true;
	}
	if (policy_normalise(a->q.name, strlen(a->q.name), name) < 0 || !policy_name(s->policy, name, 0, a->rule)) {
		refuse(eg, s, a, "not-in-allowlist", DNS_NXDOMAIN);
		return true;
	}
	switch (a->q.type) {
	case DNS_A:
	case DNS_AAAA:
	case DNS_CNAME:
	case DNS_HTTPS:
	case DNS_SVCB:
		return false;
	default:
		refuse(eg, s, a, "type-not-allowed", DNS_REFUSED);
		return true;
	}
}

static bool answer_from_here(struct egress *eg, struct sandbox *s, const struct asker *a)
{
	struct dns_answer ans = { .ttl = 5 };
	struct in6_addr synthetic;

	if (map_synthetic(&eg->map, a->q.name, &synthetic)) {
		if (a->q.type == DNS_A)
			ans.addr[ans.n_addr++] = synthetic;
	} else if (!zone_find(&eg->map, a->q.name, a->q.type, &ans)) {
		/* HTTPS and SVCB would tell of other ports and encrypted names; without them clients use A. */
		if (policy_mode(s->policy) != NET_RESTRICTED || (a->q.type != DNS_HTTPS && a->q.type != DNS_SVCB))
			return false;
	}
	answer_local(eg, s, a, &ans);
	return true;
}

void resolver_ask(struct egress *eg, struct sandbox *s, const struct asker *asker)
{
	struct asker a = *asker;
	const struct dns_answer *cached;
	struct dns_answer ans;
	uint32_t ttl;
	int r;

	if (a.q.opcode != 0) {
		resolver_error(eg, &a, DNS_NOTIMP);
		return;
	}
	if (a.q.class != DNS_CLASS_IN || (a.q.type >= DNS_META_FIRST && a.q.type <= DNS_ANY) || a.q.type == DNS_OPT ||
	    a.q.type == 0) {
		refuse(eg, s, &a, "type-not-allowed", DNS_REFUSED);
		return;
	}
	if (answer_localhost(eg, &a))
		return;
	if (policy_mode(s->policy) == NET_OFF) {
		refuse(eg, s, &a, "network-off", DNS_REFUSED);
		return;
	}
	if (policy_mode(s->policy) == NET_RESTRICTED && refuse_restricted(eg, s, &a))
		return;
	if (policy_mode(s->policy) == NET_OPEN)
		(void)snprintf(a.rule, sizeof(a.rule), "%s", "open");
	if (eg->n_faults > 0 && name_fault_fires(eg, s, a.q.name, a.rule)) {
		report(eg, s, &a, EGRESS_FAILED, a.rule, NULL);
		resolver_error(eg, &a, DNS_SERVFAIL);
		return;
	}
	if (answer_from_here(eg, s, &a))
		return;
	cached = cache_find(eg, a.q.name, a.q.type, &ttl);
	if (cached) {
		ans = *cached;
		ans.ttl = ttl;
		resolver_answer(eg, s, &a, &ans);
		return;
	}
	r = upstream_ask(eg, s, &a);
	if (r < 0) {
		report(eg, s, &a, EGRESS_FAILED, r == -EBUSY ? "too-many-questions" : "no-nameserver", NULL);
		resolver_error(eg, &a, DNS_SERVFAIL);
	}
}
