/* What the egress process tells the daemon: events, whole and made up. */

#include "netpolicy/ledger.h"
#include "tests/fuzz/fuzz.h"

static int see(void *arg, const struct ledger_entry *e)
{
	uint64_t *last = arg;

	fuzz_check(e->seq > *last && strlen(e->host) < POLICY_NAME_MAX && strlen(e->rule) < POLICY_RULE_MAX);
	*last = e->seq;
	return 0;
}

static void learn(void *arg, const struct policy_rule *r)
{
	char text[POLICY_RULE_MAX];

	fuzz_check(policy_rule_format(r, text) >= 0);
	++*(int *)arg;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct fuzz_input in = { p, n };
	struct ledger_counters c;
	struct ledger *l;
	uint64_t last = 0;
	int told = 0;

	fuzz_check(ledger_new(&l) == 0);
	for (int i = 0; in.n > 0 && i < 2000; i++) {
		struct egress_event ev = { .magic = EGRESS_MAGIC, .type = EGRESS_EVENT };
		unsigned int how = fuzz_byte(&in);
		char text[32];

		if (how & 0x80) { /* any bytes at all */
			fuzz_take(&in, &ev, sizeof(ev));
		} else {
			ev.verdict = how & 3;
			ev.kind = (how >> 2) & 7;
			ev.flow = fuzz_byte(&in) & 7;
			ev.port = (uint16_t)fuzz_byte(&in);
			fuzz_take(&in, text, how & 0x40 ? 16 : 4);
			memcpy(ev.host, text, how & 0x40 ? 16 : 4);
			memcpy(ev.rule, text, 4);
		}
		(void)ledger_add(l, &ev, "exe_1");
	}
	ledger_counters(l, &c);
	fuzz_check(ledger_each(l, 0, see, &last) == 0);
	fuzz_check(ledger_learn(l, learn, &told) == told);
	ledger_free(l);
	return 0;
}
