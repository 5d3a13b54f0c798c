#include "netpolicy/ledger.h"

#include <errno.h>
#include <string.h>

/* A ring that grows to LEDGER_ENTRIES. An entry's strings are one allocation of their true length: most
 * are short, and a thousand sandboxes have half a million entries. */

struct ledger {
	struct ledger_entry *v;
	size_t n, cap, first; /* v[(first + i) % cap], i < n */
	uint64_t next_seq;
	struct ledger_counters counters;
};

int ledger_new(struct ledger **ret)
{
	struct ledger *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->next_seq = 1;
	*ret = l;
	return 0;
}

static struct ledger_entry *at(const struct ledger *l, size_t i)
{
	i += l->first;
	return &l->v[i >= l->cap ? i - l->cap : i];
}

static void entry_free(struct ledger_entry *e)
{
	free((void *)(uintptr_t)e->host);
}

void ledger_free(struct ledger *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++)
		entry_free(at(l, i));
	free(l->v);
	free(l);
}

static int make_room(struct ledger *l)
{
	size_t cap = l->cap ? l->cap * 2 : 16;
	struct ledger_entry *v;

	if (l->n < l->cap)
		return 0;
	if (l->n >= LEDGER_ENTRIES) {
		entry_free(at(l, 0));
		l->first = l->first + 1 == l->cap ? 0 : l->first + 1;
		l->n--;
		l->counters.lost++;
		return 0;
	}
	v = calloc(cap, sizeof(*v));
	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++)
		v[i] = *at(l, i);
	free(l->v);
	l->v = v;
	l->first = 0;
	l->cap = cap;
	return 0;
}

static void closed(struct ledger *l, const struct egress_event *ev)
{
	l->counters.bytes_out += ev->bytes_out;
	l->counters.bytes_in += ev->bytes_in;
	for (size_t i = l->n; i-- > 0;) {
		struct ledger_entry *e = at(l, i);

		if (!e->open || e->flow != ev->flow)
			continue;
		e->open = false;
		e->closed_ms = ev->time_ms;
		e->bytes_out = ev->bytes_out;
		e->bytes_in = ev->bytes_in;
		return;
	}
}

static bool sensible(const struct egress_event *ev)
{
	return ev->magic == EGRESS_MAGIC && ev->type == EGRESS_EVENT && ev->verdict <= EGRESS_FAILED &&
	       ev->kind <= EGRESS_CLOSED && memchr(ev->host, '\0', sizeof(ev->host)) &&
	       memchr(ev->rule, '\0', sizeof(ev->rule));
}

int ledger_add(struct ledger *l, const struct egress_event *ev, const char *owner)
{
	size_t host, rule, name = strlen(owner) + 1;
	char *text;

	if (!sensible(ev))
		return -EBADMSG;
	if (ev->kind == EGRESS_CLOSED) {
		closed(l, ev);
		return 0;
	}
	*(ev->verdict == EGRESS_ALLOWED	  ? &l->counters.allowed
	  : ev->verdict == EGRESS_BLOCKED ? &l->counters.blocked
					  : &l->counters.failed) += 1;
	host = strlen(ev->host) + 1;
	rule = strlen(ev->rule) + 1;
	text = malloc(host + rule + name);
	if (!text || make_room(l) < 0) {
		free(text);
		l->counters.lost++;
		return -ENOMEM;
	}
	memcpy(text, ev->host, host);
	memcpy(text + host, ev->rule, rule);
	memcpy(text + host + rule, owner, name);
	l->n++;
	*at(l, l->n - 1) = (struct ledger_entry){
		.seq = l->next_seq++,
		.time_ms = ev->time_ms,
		.verdict = (enum egress_verdict)ev->verdict,
		.kind = (enum egress_kind)ev->kind,
		.flow = ev->flow,
		.address = ev->address,
		.port = ev->port,
		.from_port = ev->from_port,
		.proto = ev->proto,
		.open = ev->flow && ev->verdict == EGRESS_ALLOWED,
		.bytes_out = ev->bytes_out,
		.bytes_in = ev->bytes_in,
		.host = text,
		.rule = text + host,
		.owner = text + host + rule,
	};
	return 0;
}

void ledger_counters(const struct ledger *l, struct ledger_counters *ret)
{
	*ret = l->counters;
}

int ledger_each(const struct ledger *l, uint64_t since, int (*fn)(void *arg, const struct ledger_entry *e), void *arg)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct ledger_entry *e = at(l, i);
		int r = e->seq > since ? fn(arg, e) : 0;

		if (r)
			return r;
	}
	return 0;
}

/* --- learn --- */

static int rule_cmp(const void *pa, const void *pb)
{
	const struct policy_rule *a = pa, *b = pb;
	int c = strcmp(a->name, b->name);

	if (c == 0)
		c = memcmp(&a->address, &b->address, sizeof(a->address));
	return c ? c : (int)a->port - (int)b->port;
}

/* False: nothing an allowlist could help with (a name that is none, a resolver of one's own, ping). */
static bool rule_of(const struct ledger_entry *e, struct policy_rule *ret)
{
	static const struct in6_addr NONE;

	*ret = (struct policy_rule){ 0 };
	if (e->host[0] && policy_normalise(e->host, strlen(e->host), ret->name) < 0)
		return false;
	if (e->kind == EGRESS_DNS)
		return ret->name[0] != '\0';
	if (e->kind != EGRESS_TCP || e->port == 0)
		return false;
	ret->port = e->port;
	if (!ret->name[0])
		ret->address = e->address;
	return ret->name[0] || memcmp(&ret->address, &NONE, sizeof(NONE)) != 0;
}

int ledger_learn(const struct ledger *l, void (*fn)(void *arg, const struct policy_rule *r), void *arg)
{
	struct policy_rule *v = calloc(l->n + 1, sizeof(*v));
	size_t n = 0;
	int told = 0;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < l->n; i++)
		if (rule_of(at(l, i), &v[n]))
			n++;
	qsort(v, n, sizeof(*v), rule_cmp);
	for (size_t i = 0; i < n; i++) {
		bool again = i > 0 && rule_cmp(&v[i - 1], &v[i]) == 0;
		/* "HOST" sorts just before its "HOST:PORT"s, which say more. */
		bool only_looked_up = v[i].name[0] && v[i].port == 0;
		size_t k = i;

		while (only_looked_up && k < n && v[k].port == 0 && strcmp(v[k].name, v[i].name) == 0)
			k++;
		if (again || (only_looked_up && k < n && strcmp(v[k].name, v[i].name) == 0))
			continue;
		fn(arg, &v[i]);
		told++;
	}
	free(v);
	return told;
}
