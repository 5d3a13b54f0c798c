/* `network`: what sandboxes with a network may reach. */

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/cmd/ask.h"
#include "emulator/cmd/cmd.h"
#include "netpolicy/policy.h"

static const char help_text[] =
	"Usage: orkestr-emulator network allowlist\n"
	"       orkestr-emulator network check HOST[:PORT] [--allow RULE]...\n"
	"       orkestr-emulator network ledger SANDBOX [--json]\n"
	"       orkestr-emulator network learn SANDBOX...\n"
	"\n"
	"allowlist  print the built-in list that network \"restricted\" starts from, one rule a line\n"
	"check      say whether \"restricted\" would reach HOST, and by which rule; exit status 0 yes, 1 no\n"
	"ledger     print what a running sandbox tried, one attempt a line (--json: as the API says it)\n"
	"learn      print the least allowlist that would let through all that the sandboxes tried, one rule a\n"
	"           line; `serve --allow @FILE` reads it\n"
	"\n"
	"A rule is HOST[:PORT], *.HOST[:PORT] (names below HOST, not HOST itself) or an IP address. Add your\n"
	"own with `serve --allow RULE`. ledger and learn ask the emulator at ORKESTR_BASE_URL (default\n"
	"http://127.0.0.1:4520) with the key in ORKESTR_API_KEY.\n"
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

/* ---- what a running emulator knows ---- */

static int sandbox_path(const char *id, const char *what, char *ret, size_t cap, struct err *e)
{
	if (strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != strlen(id) || !*id)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "\"%.40s\" is no sandbox's id", id);
	return text_format(ret, cap, "/_emulator/sandboxes/%s/network%s", id, what) < 0
		       ? err_set(e, ERR_INVALID, EINVAL, NULL, "the id is too long")
		       : 0;
}

static const char *text_of(struct json_object *o, const char *name)
{
	struct json_object *v = NULL;

	(void)json_object_object_get_ex(o, name, &v);
	return v ? json_object_get_string(v) : "-";
}

/* From the network, so only what can be printed is. */
static void print_text(const char *s)
{
	for (; *s; s++)
		(void)putchar(*s > ' ' && *s <= '~' ? *s : '?');
}

static void print_entry(struct json_object *o)
{
	static const char *const columns[] = { "time", "exec", "verdict", "kind",      "host",
					       "ip",   "port", "rule",	  "bytes_out", "bytes_in" };

	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		print_text(text_of(o, columns[i]));
		(void)putchar(i + 1 < ARRAY_SIZE(columns) ? '\t' : '\n');
	}
}

static int show_ledger(int argc, char **argv, struct err *e)
{
	bool as_json = argc == 3 && strcmp(argv[2], "--json") == 0;
	struct json_object *o = NULL, *entries = NULL;
	char path[128];
	int r;

	if (argc < 2 || (argc > 2 && !as_json))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "ledger takes one sandbox's id");
	r = sandbox_path(argv[1], "", path, sizeof(path), e);
	if (r >= 0)
		r = ask_json(&(struct ask_target){ 0 }, path, &o, e);
	if (r < 0)
		return r;
	if (as_json)
		(void)puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	else if (json_object_object_get_ex(o, "entries", &entries) && json_object_is_type(entries, json_type_array))
		for (size_t i = 0; i < json_object_array_length(entries); i++)
			print_entry(json_object_array_get_idx(entries, i));
	json_object_put(o);
	return 0;
}

static int text_cmp(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The rules of all of them, each once. */
static int print_rules(struct json_object *const *answers, size_t n, struct err *e)
{
	_cleanup_free_ const char **v = NULL;
	size_t k = 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *rules;
		const char **bigger;

		if (!json_object_object_get_ex(answers[i], "rules", &rules) ||
		    !json_object_is_type(rules, json_type_array))
			continue;
		bigger = reallocarray(v, k + json_object_array_length(rules) + 1, sizeof(*v));
		if (!bigger)
			return err_errno(e, ENOMEM, "learn");
		v = bigger;
		for (size_t j = 0; j < json_object_array_length(rules); j++) {
			struct json_object *rule = json_object_array_get_idx(rules, j);

			if (json_object_is_type(rule, json_type_string))
				v[k++] = json_object_get_string(rule);
		}
	}
	if (k > 0)
		qsort(v, k, sizeof(*v), text_cmp);
	for (size_t i = 0; i < k; i++) {
		if (i > 0 && strcmp(v[i], v[i - 1]) == 0)
			continue;
		print_text(v[i]);
		(void)putchar('\n');
	}
	return 0;
}

static int learn(int argc, char **argv, struct err *e)
{
	struct json_object **answers = calloc((size_t)argc, sizeof(void *));
	char path[128];
	size_t n = 0;
	int r = answers ? 0 : err_errno(e, ENOMEM, "learn");

	if (r >= 0 && argc < 2)
		r = err_set(e, ERR_INVALID, EINVAL, NULL, "learn takes sandboxes' ids");
	for (int i = 1; i < argc && r >= 0; i++) {
		r = sandbox_path(argv[i], "/learn", path, sizeof(path), e);
		if (r >= 0)
			r = ask_json(&(struct ask_target){ 0 }, path, &answers[n], e);
		n += r >= 0;
	}
	if (r >= 0)
		r = print_rules(answers, n, e);
	for (size_t i = 0; i < n; i++)
		json_object_put(answers[i]);
	free(answers);
	return r;
}

static int ask_emulator(int argc, char **argv)
{
	struct err e = ERR_INIT;
	int r = strcmp(argv[0], "learn") == 0 ? learn(argc, argv, &e) : show_ledger(argc, argv, &e);

	if (r >= 0)
		return CMD_OK;
	return e.kind == ERR_INVALID ? cmd_usage("network", &e) : cmd_failed("network", &e);
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
	if (argc >= 2 && (strcmp(argv[1], "ledger") == 0 || strcmp(argv[1], "learn") == 0))
		return ask_emulator(argc - 1, argv + 1);
	if (argc < 2 || strcmp(argv[1], "check") != 0) {
		err_set(&e, ERR_INVALID, EINVAL, NULL,
			argc < 2 ? "allowlist, check, ledger or learn?" : "there is no network %.32s",
			argc < 2 ? "" : argv[1]);
		return cmd_usage("network", &e);
	}
	r = parse_check(argc - 1, argv + 1, &c, &e);
	if (r >= 0)
		r = check_name(&c, &e);
	policy_free(c.policy);
	return r < 0 ? cmd_usage("network", &e) : r;
}
