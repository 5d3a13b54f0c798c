/* Rules of the network policy, --map and --zone: what is taken can be said again and means the same. */

#include "netpolicy/egress-internal.h"
#include "netpolicy/policy.h"
#include "tests/fuzz/fuzz.h"

#define OTHER "other.example.invalid"

/* Whether the rule is about OTHER, port 1. */
static bool meant(const struct policy_rule *r)
{
	size_t n = strlen(r->name), whole = sizeof(OTHER) - 1;

	if (n == 0 || (r->port != 0 && r->port != 1))
		return false;
	if (!r->below)
		return strcmp(r->name, OTHER) == 0;
	return n < whole && OTHER[whole - n - 1] == '.' && strcmp(&OTHER[whole - n], r->name) == 0;
}

static void rule(const char *s)
{
	char text[POLICY_RULE_MAX], again[POLICY_RULE_MAX], why[POLICY_RULE_MAX];
	struct policy_rule r, back;
	struct policy *p;
	struct err e = ERR_INIT;

	if (policy_rule_parse(s, &r, &e) < 0) {
		fuzz_check(e.kind == ERR_INVALID && e.msg[0]);
		return;
	}
	fuzz_check(memchr(r.name, '\0', sizeof(r.name)));
	fuzz_check(policy_rule_format(&r, text) >= 0);
	fuzz_check(policy_rule_parse(text, &back, NULL) == 0 && policy_rule_format(&back, again) >= 0);
	fuzz_check(strcmp(text, again) == 0);
	fuzz_check(policy_new(NET_RESTRICTED, false, false, &p) == 0 && policy_allow(p, &r) == 0);
	if (r.name[0] && !r.below)
		fuzz_check(policy_name(p, r.name, r.port, why));
	else if (!r.name[0])
		fuzz_check(policy_address(p, &r.address, r.port, why));
	fuzz_check(policy_name(p, OTHER, 1, why) == meant(&r));
	policy_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	char name[POLICY_NAME_MAX], again[POLICY_NAME_MAX], *s;
	struct map m = { 0 };

	if (n > 4096)
		return 0;
	s = fuzz_string(p, n);
	if (policy_normalise(s, n, name) == 0)
		fuzz_check(policy_normalise(name, strlen(name), again) == 0 && strcmp(name, again) == 0);
	rule(s);
	(void)map_add(&m, s);
	fuzz_check(egress_map_check(s) <= 0);
	map_clear(&m);
	(void)zone_add(&m, s);
	zone_clear(&m);
	for (size_t i = 0; i < m.n_synthetic; i++) {
		HASH_DEL(m.synthetic, m.by_number[i]);
		free(m.by_number[i]);
	}
	free(m.by_number);
	free(s);
	return 0;
}
