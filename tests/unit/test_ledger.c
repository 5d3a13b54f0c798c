#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "netpolicy/ledger.h"

static struct ledger *l;

static void set_up(void)
{
	cr_assert(ledger_new(&l) == 0);
}

static void tear_down(void)
{
	ledger_free(l);
	ledger_free(NULL);
}

TestSuite(ledger, .init = set_up, .fini = tear_down);

static struct egress_event make(enum egress_kind kind, enum egress_verdict verdict, const char *host, uint16_t port,
				int64_t t)
{
	struct egress_event ev = { .magic = EGRESS_MAGIC, .type = EGRESS_EVENT, .kind = kind, .verdict = verdict };

	ev.port = port;
	ev.time_ms = t;
	ev.proto = IPPROTO_TCP;
	ev.address.s6_addr[15] = (uint8_t)t;
	(void)snprintf(ev.host, sizeof(ev.host), "%s", host);
	(void)snprintf(ev.rule, sizeof(ev.rule), "not-in-allowlist");
	return ev;
}

static void add(enum egress_kind kind, enum egress_verdict verdict, const char *host, uint16_t port, int64_t t)
{
	struct egress_event ev = make(kind, verdict, host, port, t);

	cr_assert(ledger_add(l, &ev, "") == 0);
}

struct seen {
	size_t n;
	struct ledger_entry e[LEDGER_ENTRIES];
	size_t stop;
};

static int see(void *arg, const struct ledger_entry *e)
{
	struct seen *s = arg;

	s->e[s->n++] = *e;
	return s->stop && s->n == s->stop ? -ECANCELED : 0;
}

Test(ledger, a_flow_s_end_joins_its_start)
{
	static struct seen s;
	struct egress_event ev = make(EGRESS_TCP, EGRESS_ALLOWED, "a.test", 443, 10);
	struct ledger_counters c;

	ev.flow = 7;
	cr_assert(ledger_add(l, &ev, "") == 0);
	cr_expect(ledger_each(l, 0, see, &s) == 0 && s.n == 1 && s.e[0].open && s.e[0].bytes_in == 0);
	ev.kind = EGRESS_CLOSED;
	ev.time_ms = 20;
	ev.bytes_in = 100;
	ev.bytes_out = 5;
	cr_assert(ledger_add(l, &ev, "") == 0);
	s.n = 0;
	cr_expect(ledger_each(l, 0, see, &s) == 0 && s.n == 1 && !s.e[0].open && s.e[0].bytes_in == 100 &&
		  s.e[0].closed_ms == 20 && s.e[0].kind == EGRESS_TCP);
	ledger_counters(l, &c);
	cr_expect(c.allowed == 1 && c.blocked == 0 && c.bytes_in == 100 && c.bytes_out == 5);
}

Test(ledger, the_oldest_give_way)
{
	static struct seen s;
	struct ledger_counters c;

	for (int i = 1; i <= LEDGER_ENTRIES + 100; i++)
		add(EGRESS_TCP, EGRESS_BLOCKED, "a.test", (uint16_t)i, i);
	cr_expect(ledger_each(l, 0, see, &s) == 0 && s.n == LEDGER_ENTRIES);
	for (size_t i = 0; i < s.n; i++)
		cr_expect(s.e[i].seq == i + 101 && s.e[i].port == i + 101 && strcmp(s.e[i].host, "a.test") == 0);
	ledger_counters(l, &c);
	cr_expect(c.blocked == LEDGER_ENTRIES + 100 && c.lost == 100);
	s.n = 0;
	cr_expect(ledger_each(l, 600, see, &s) == 0 && s.n == 12 && s.e[0].seq == 601);
	s.n = 0;
	s.stop = 3;
	cr_expect(ledger_each(l, 0, see, &s) == -ECANCELED && s.n == 3);
}

Test(ledger, nonsense_is_refused)
{
	struct egress_event ev = make(EGRESS_TCP, EGRESS_ALLOWED, "a", 1, 1), bad;
	struct ledger_counters c;

	bad = ev, bad.magic++;
	cr_expect(ledger_add(l, &bad, "") == -EBADMSG);
	bad = ev, bad.verdict = 3;
	cr_expect(ledger_add(l, &bad, "") == -EBADMSG);
	bad = ev, bad.kind = EGRESS_CLOSED + 1;
	cr_expect(ledger_add(l, &bad, "") == -EBADMSG);
	bad = ev, memset(bad.host, 'a', sizeof(bad.host));
	cr_expect(ledger_add(l, &bad, "") == -EBADMSG);
	bad = ev, memset(bad.rule, 'a', sizeof(bad.rule));
	cr_expect(ledger_add(l, &bad, "") == -EBADMSG);
	bad = ev, bad.kind = EGRESS_CLOSED, bad.flow = 99; /* an end without a start */
	cr_expect(ledger_add(l, &bad, "") == 0);
	ledger_counters(l, &c);
	cr_expect(c.allowed == 0 && ledger_each(l, 0, see, NULL) == 0);
}

static void join(void *arg, const struct policy_rule *r)
{
	char text[POLICY_RULE_MAX];

	cr_assert(policy_rule_format(r, text) > 0 && buf_printf(arg, "%s ", text) == 0);
}

Test(ledger, learn)
{
	_cleanup_buf_ struct buf text = BUF_INIT(512);
	struct egress_event bare = make(EGRESS_TCP, EGRESS_BLOCKED, "", 22, 1);

	bare.address = (struct in6_addr){ .s6_addr = { [10] = 0xff, [11] = 0xff, 192, 0, 2, 1 } };
	add(EGRESS_DNS, EGRESS_ALLOWED, "pypi.org", 53, 1);
	add(EGRESS_TCP, EGRESS_ALLOWED, "pypi.org", 443, 1);
	add(EGRESS_TCP, EGRESS_ALLOWED, "pypi.org", 443, 2);
	add(EGRESS_TCP, EGRESS_BLOCKED, "pypi.org", 80, 2);
	add(EGRESS_DNS, EGRESS_BLOCKED, "asked.example", 53, 1);
	add(EGRESS_DNS, EGRESS_BLOCKED, "asked.example", 53, 2);
	add(EGRESS_DNS, EGRESS_BLOCKED, "not a name", 53, 2);
	add(EGRESS_OTHER, EGRESS_BLOCKED, "", 0, 2);
	cr_assert(ledger_add(l, &bare, "") == 0);
	cr_expect(ledger_learn(l, join, &text) == 4, "%s", text.p);
	cr_expect(strcmp(text.p, "192.0.2.1:22 asked.example pypi.org:80 pypi.org:443 ") == 0, "%s", text.p);
}
