/* `network`: what sandboxes with a network may reach. */

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "emulator/cmd/cmd.h"
#include "netpolicy/policy.h"

static const char help_text[] =
	"Usage: orkestr-emulator network allowlist\n"
	"       orkestr-emulator network check HOST[:PORT] [--allow RULE]...\n"
	"\n"
	"allowlist  print the built-in list that network \"restricted\" starts from, one rule a line\n"
	"check      say whether \"restricted\" would reach HOST, and by which rule; exit status 0 yes, 1 no\n"
	"\n"
	"A rule is HOST[:PORT], *.HOST[:PORT] (names below HOST, not HOST itself) or an IP address. Add your\n"
	"own with `serve --allow RULE`.\n"
	"\n"
	"  -h, --help  this text\n";

static int print_allowlist(void)
{
	for (size_t i = 0; policy_builtin[i]; i++)
		(void)puts(policy_builtin[i]);
	return CMD_OK;
}

struct check {
	const char *what;
	struct policy *policy;
};

static int check_name(const struct check *c, struct err *e)
{
	struct policy_rule asked;
	char rule[POLICY_RULE_MAX];
	bool yes;
	int r = policy_rule_parse(c->what, &asked, e);

	if (r < 0)
		return r;
	if (asked.below)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "a host is asked for, not a pattern");
	yes = asked.name[0] ? policy_name(c->policy, asked.name, asked.port, rule)
			    : policy_address(c->policy, &asked.address, asked.port, rule);
	printf("%s: %s (%s)\n", c->what, yes ? "reached" : "refused", rule);
	return yes ? CMD_OK : CMD_FAILED;
}

static int parse_check(int argc, char **argv, struct check *ret, struct err *e)
{
	static const struct option longs[] = { { "allow", required_argument, NULL, 'a' }, { NULL, 0, NULL, 0 } };
	struct policy_rule rule;
	int c, r = policy_new(NET_RESTRICTED, true, false, &ret->policy);

	if (r < 0)
		return err_errno(e, -r, "the allowlist");
	optind = 0;
	while ((c = cmd_getopt(argc, argv, ":", longs, e)) != -1) {
		if (c == CMD_OPT_BAD)
			return -EINVAL;
		r = policy_rule_parse(optarg, &rule, e);
		if (r >= 0)
			r = policy_allow(ret->policy, &rule);
		if (r < 0)
			return r;
	}
	if (optind != argc - 1)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "check takes one HOST[:PORT]");
	ret->what = argv[optind];
	return 0;
}

int cmd_network(int argc, char **argv)
{
	struct check c = { 0 };
	struct err e = ERR_INIT;
	int r;

	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			(void)fputs(help_text, stdout);
			return CMD_OK;
		}
	if (argc == 2 && strcmp(argv[1], "allowlist") == 0)
		return print_allowlist();
	if (argc < 2 || strcmp(argv[1], "check") != 0) {
		err_set(&e, ERR_INVALID, EINVAL, NULL, argc < 2 ? "allowlist or check?" : "there is no network %.32s",
			argc < 2 ? "" : argv[1]);
		return cmd_usage("network", &e);
	}
	r = parse_check(argc - 1, argv + 1, &c, &e);
	if (r >= 0)
		r = check_name(&c, &e);
	policy_free(c.policy);
	return r < 0 ? cmd_usage("network", &e) : r;
}
