#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "netpolicy/policy.h"

Test(policy, modes)
{
	enum net_mode m = NET_OFF;

	for (int i = NET_OFF; i <= NET_OPEN; i++)
		cr_expect(net_mode_parse(net_mode_name((enum net_mode)i), &m) == 0 && m == (enum net_mode)i);
	cr_expect(net_mode_parse("Open", &m) == -EINVAL && net_mode_parse("", &m) == -EINVAL);
}

Test(policy, rules_as_text)
{
	static const struct {
		const char *text, *back; /* NULL: invalid */
	} table[] = {
		{ "example.org", "example.org" },
		{ "EXAMPLE.Org.", "example.org" },
		{ "example.org:443", "example.org:443" },
		{ "*.example.org:80", "*.example.org:80" },
		{ "_dmarc.example.org", "_dmarc.example.org" },
		{ "xn--bcher-kva.example", "xn--bcher-kva.example" },
		{ "localhost", "localhost" },
		{ "192.0.2.1", "192.0.2.1" },
		{ "192.0.2.1:22", "192.0.2.1:22" },
		{ "2001:DB8::1", "2001:db8::1" },
		{ "[2001:db8::1]:443", "[2001:db8::1]:443" },
		{ "[2001:db8::1]", "2001:db8::1" },
		{ "::ffff:192.0.2.1", "192.0.2.1" },
		{ "", NULL },
		{ "*", NULL },
		{ "*.", NULL },
		{ "*.*.example.org", NULL },
		{ "a.*.example.org", NULL },
		{ "example..org", NULL },
		{ ".example.org", NULL },
		{ "-a.example.org", NULL },
		{ "a-.example.org", NULL },
		{ "exa mple.org", NULL },
		{ "example.org:", NULL },
		{ "example.org:0", NULL },
		{ "example.org:65536", NULL },
		{ "example.org:+1", NULL },
		{ "example.org/path", NULL },
		{ "https://example.org", NULL },
		{ "10.0.0", NULL },
		{ "1.2.3.4.5", NULL },
		{ "256.1.1.1", NULL },
		{ "[example.org]:443", NULL },
		{ "[::1", NULL },
		{ "[::1]x", NULL },
		{ "user@example.org", NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct err e = ERR_INIT;
		struct policy_rule r;
		char back[POLICY_RULE_MAX] = "";
		int k = policy_rule_parse(table[i].text, &r, &e);

		cr_expect((k == 0) == (table[i].back != NULL), "\"%s\": %d %s", table[i].text, k, e.msg);
		if (k < 0)
			cr_expect(e.kind == ERR_INVALID && e.msg[0], "%s", table[i].text);
		else
			cr_expect(policy_rule_format(&r, back) >= 0 && strcmp(back, table[i].back) == 0, "%s: %s",
				  table[i].text, back);
	}
}

Test(policy, long_names)
{
	struct policy_rule r;
	char text[400];

	memset(text, 'a', sizeof(text));
	for (size_t i = 63; i < sizeof(text); i += 64)
		text[i] = '.';
	text[253] = '\0';
	cr_expect(policy_rule_parse(text, &r, NULL) == 0, "253 characters are a name");
	text[253] = 'a';
	text[254] = '\0';
	cr_expect(policy_rule_parse(text, &r, NULL) == -EINVAL);
	text[254] = 'a';
	text[399] = '\0';
	cr_expect(policy_rule_parse(text, &r, NULL) == -EINVAL);
	memset(text, 'a', 64);
	memcpy(text + 64, ".org", 5);
	cr_expect(policy_rule_parse(text, &r, NULL) == -EINVAL, "a label of 64");
}

Test(policy, international_names)
{
	static const struct {
		const char *text, *name;
	} table[] = {
		{ "bücher.example", "xn--bcher-kva.example" },
		{ "BÜCHER.example", "xn--bcher-kva.example" },
		{ "*.faß.de", "xn--fa-hia.de" }, /* non-transitional: not fass.de */
		{ "例え.テスト:443", "xn--r8jz45g.xn--zckzah" },
		{ "\xff\xfe.example", NULL },
	};
	void *lib = dlopen("libidn2.so.0", RTLD_NOW);

	if (!lib)
		cr_skip_test("no libidn2");
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct policy_rule r;
		int k = policy_rule_parse(table[i].text, &r, NULL);

		cr_expect((k == 0) == (table[i].name != NULL), "%s", table[i].text);
		if (k == 0)
			cr_expect(strcmp(r.name, table[i].name) == 0, "%s", r.name);
	}
	(void)dlclose(lib);
}

static struct policy *restricted(const char *const *rules, size_t n, bool builtin)
{
	struct policy *p;

	cr_assert(policy_new(NET_RESTRICTED, builtin, false, &p) == 0);
	for (size_t i = 0; i < n; i++) {
		struct policy_rule r;

		cr_assert(policy_rule_parse(rules[i], &r, NULL) == 0 && policy_allow(p, &r) == 0, "%s", rules[i]);
	}
	return p;
}

Test(policy, names)
{
	static const char *const rules[] = {
		"z.example:443", "*.below.example",	"a.example",	"b.example:80",
		"b.example:443", "*.port.example:8080", "192.0.2.7:22", "*.deep.a.example"
	};
	static const struct {
		const char *name;
		uint16_t port;
		const char *rule; /* NULL: refused */
	} table[] = {
		{ "a.example", 0, "a.example" },
		{ "a.example", 12345, "a.example" },
		{ "x.a.example", 0, NULL },
		{ "example", 0, NULL },
		{ "aa.example", 0, NULL },
		{ "b.example", 80, "b.example:80" },
		{ "b.example", 443, "b.example:443" },
		{ "b.example", 22, NULL },
		{ "b.example", 0, "b.example:80" },
		{ "below.example", 0, NULL },
		{ "x.below.example", 0, "*.below.example" },
		{ "y.x.below.example", 99, "*.below.example" },
		{ "xbelow.example", 0, NULL },
		{ "x.port.example", 8080, "*.port.example:8080" },
		{ "x.port.example", 80, NULL },
		{ "192.0.2.7", 22, NULL },
		{ "deep.a.example", 0, NULL },
		{ "x.deep.a.example", 0, "*.deep.a.example" },
		{ "", 0, NULL },
	};
	struct policy *p = restricted(rules, ARRAY_SIZE(rules), false);
	char rule[POLICY_RULE_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		bool yes = policy_name(p, table[i].name, table[i].port, rule);

		cr_expect(yes == (table[i].rule != NULL), "%s:%u %s", table[i].name, table[i].port, rule);
		cr_expect(strcmp(rule, table[i].rule ? table[i].rule : "not-in-allowlist") == 0, "%s: %s",
			  table[i].name, rule);
	}
	policy_free(p);
	policy_free(NULL);
}

Test(policy, normalise)
{
	char out[POLICY_NAME_MAX];

	cr_expect(policy_normalise("WWW.Example.COM.", 16, out) == 0 && strcmp(out, "www.example.com") == 0);
	cr_expect(policy_normalise("a.b", 1, out) == 0 && strcmp(out, "a") == 0);
	cr_expect(policy_normalise("a..", 3, out) == -EINVAL && policy_normalise(".", 1, out) == -EINVAL);
	cr_expect(policy_normalise("", 0, out) == -EINVAL && policy_normalise("a\0b", 3, out) == -EINVAL);
	cr_expect(policy_normalise("a%b", 3, out) == -EINVAL && policy_normalise("b\xc3\xbc", 3, out) == -EINVAL);
}

Test(policy, many_rules_and_the_end_of_many)
{
	struct policy *p = restricted(NULL, 0, false);
	char text[64], rule[POLICY_RULE_MAX];
	struct policy_rule r;

	/* In an order that is neither rising nor falling. */
	for (unsigned int i = 0; i < 4096; i++) {
		(void)snprintf(text, sizeof(text), "h%u.example", i * 1237 % 4096);
		cr_assert(policy_rule_parse(text, &r, NULL) == 0 && policy_allow(p, &r) == 0);
	}
	for (unsigned int i = 0; i < 4096; i++) {
		(void)snprintf(text, sizeof(text), "h%u.example", i);
		cr_assert(policy_name(p, text, 0, rule), "%s", text);
	}
	cr_expect(policy_allow(p, &r) == -E2BIG);
	cr_expect(!policy_name(p, "h4096.example", 0, rule));
	policy_free(p);
}

Test(policy, builtin_list)
{
	static const struct {
		const char *name;
		uint16_t port;
		bool yes;
	} table[] = {
		{ "pypi.org", 443, true },
		{ "pypi.org", 80, false },
		{ "registry.npmjs.org", 443, true },
		{ "deb.debian.org", 80, true },
		{ "de.archive.ubuntu.com", 80, true },
		{ "github.com", 443, true },
		{ "github.com", 22, false },
		{ "gist.github.com", 443, false },
		{ "example.org", 443, false },
	};
	struct policy *p = restricted(NULL, 0, true), *without = restricted(NULL, 0, false);
	char rule[POLICY_RULE_MAX];
	struct policy_rule r;

	for (size_t i = 0; policy_builtin[i]; i++)
		cr_expect(policy_builtin[i][0] == '#' || policy_rule_parse(policy_builtin[i], &r, NULL) == 0, "%s",
			  policy_builtin[i]);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		cr_expect(policy_name(p, table[i].name, table[i].port, rule) == table[i].yes, "%s", table[i].name);
		cr_expect(!policy_name(without, table[i].name, table[i].port, rule));
	}
	policy_free(p);
	policy_free(without);
}

static struct in6_addr address(const char *s)
{
	struct policy_rule r;

	cr_assert(policy_rule_parse(s, &r, NULL) == 0, "%s", s);
	return r.address;
}

Test(policy, private_addresses)
{
	static const struct {
		const char *a, *why; /* NULL: public */
	} table[] = {
		{ "0.1.2.3", "unspecified" },
		{ "10.255.255.255", "private" },
		{ "11.0.0.0", NULL },
		{ "9.255.255.255", NULL },
		{ "100.63.255.255", NULL },
		{ "100.64.0.1", "cgnat" },
		{ "100.127.255.255", "cgnat" },
		{ "100.128.0.0", NULL },
		{ "127.0.0.53", "loopback" },
		{ "169.254.169.254", "metadata" },
		{ "169.254.1.1", "link-local" },
		{ "168.63.129.16", "metadata" },
		{ "172.15.255.255", NULL },
		{ "172.16.0.0", "private" },
		{ "172.31.255.255", "private" },
		{ "172.32.0.0", NULL },
		{ "192.0.0.170", "reserved" },
		{ "192.168.255.255", "private" },
		{ "198.17.255.255", NULL },
		{ "198.19.255.255", "benchmarking" },
		{ "198.20.0.0", NULL },
		{ "223.255.255.255", NULL },
		{ "224.0.0.1", "multicast" },
		{ "240.0.0.1", "reserved" },
		{ "255.255.255.255", "broadcast" },
		{ "8.8.8.8", NULL },
		{ "::", "unspecified" },
		{ "::1", "loopback" },
		{ "::127.0.0.1", "reserved" },
		{ "::ffff:127.0.0.1", "loopback" },
		{ "::ffff:0:127.0.0.1", "reserved" },
		{ "64:ff9b::10.0.0.1", "private" },
		{ "64:ff9b::8.8.8.8", NULL },
		{ "64:ff9b:1::1", "reserved" },
		{ "100::1", "reserved" },
		{ "2001::1", "reserved" },
		{ "2001:200::1", NULL },
		{ "2001:db8::1", "documentation" },
		{ "2002:7f00:1::", "loopback" },
		{ "2002:a9fe:a9fe::", "metadata" },
		{ "2002:808:808::1", NULL },
		{ "2606:4700::1111", NULL },
		{ "3fff::1", "documentation" },
		{ "3fff:1000::1", NULL },
		{ "fc00::1", "private" },
		{ "fd00:ec2::254", "metadata" },
		{ "fe80::1", "link-local" },
		{ "fec0::1", "private" },
		{ "ff02::1", "multicast" },
		{ "4000::1", "reserved" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct in6_addr a = address(table[i].a);
		const char *why = NULL;
		bool yes = policy_private(&a, &why);

		cr_expect(yes == (table[i].why != NULL) && strcmp(why, table[i].why ? table[i].why : "") == 0, "%s: %s",
			  table[i].a, why);
	}
}

Test(policy, addresses)
{
	static const char *const rules[] = { "192.0.2.7:22", "8.8.8.8", "10.0.0.1:5432" };
	struct in6_addr eight = address("8.8.8.8"), doc = address("192.0.2.7"), ten = address("10.0.0.1");
	struct policy *p = restricted(rules, ARRAY_SIZE(rules), false), *open, *wide, *off;
	char rule[POLICY_RULE_MAX];

	cr_expect(policy_address(p, &eight, 1, rule) && strcmp(rule, "8.8.8.8") == 0);
	cr_expect(policy_address(p, &doc, 22, rule) && strcmp(rule, "192.0.2.7:22") == 0);
	cr_expect(!policy_address(p, &doc, 23, rule) && strcmp(rule, "not-in-allowlist") == 0);
	cr_expect(policy_address(p, &ten, 5432, rule), "a private address that was named is meant");
	cr_assert(policy_new(NET_OPEN, false, false, &open) == 0 && policy_new(NET_OPEN, false, true, &wide) == 0 &&
		  policy_new(NET_OFF, true, true, &off) == 0);
	cr_expect(policy_address(open, &eight, 1, rule) && strcmp(rule, "open") == 0);
	cr_expect(!policy_address(open, &ten, 1, rule) && strcmp(rule, "private") == 0);
	cr_expect(policy_address(wide, &ten, 1, rule) && policy_name(wide, "any.example", 1, rule));
	cr_expect(!policy_address(off, &eight, 1, rule) && !policy_name(off, "pypi.org", 443, rule) &&
		  strcmp(rule, "network-off") == 0);
	policy_free(p);
	policy_free(open);
	policy_free(wide);
	policy_free(off);
}
