/* `network`: what sandboxes with a network may reach. */

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"
#include "netpolicy/policy.h"

static const char help_text[] =
	"Usage: orkestr-emulator network allowlist\n"
	"       orkestr-emulator network check HOST[:PORT] [--allow RULE]...\n"
	"       orkestr-emulator network ledger SANDBOX [--json] [OPTION]...\n"
	"       orkestr-emulator network learn SANDBOX... [OPTION]...\n"
	"\n"
	"allowlist  print the built-in list that network \"restricted\" starts from, one rule a line\n"
	"check      say whether \"restricted\" would reach HOST, and by which rule; exit status 0 yes, 1 no\n"
	"ledger     print what a running sandbox tried, one attempt a line (--json: as the API says it)\n"
	"learn      print the least allowlist that would let through all that the sandboxes tried, one rule a\n"
	"           line; `serve --allow @FILE` reads it\n"
	"\n"
	"A rule is HOST[:PORT], *.HOST[:PORT] (names below HOST, not HOST itself) or an IP address. Add your\n"
	"own with `serve --allow RULE`. ledger and learn ask a running emulator, with the key of the sandboxes'\n"
	"account:\n"
	"\n" CONTROL_OPTIONS_HELP;

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
		print_text(control_text(o, columns[i], "-"));
		(void)putchar(i + 1 < ARRAY_SIZE(columns) ? '\t' : '\n');
	}
}

struct question {
	struct control_at at;
	bool as_json;
	struct cmd_rest sandboxes;
};

/* What the emulator has to say about one of them. */
static int ask(const struct question *q, const char *sandbox, const char *what, struct json_object **ret, struct err *e)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	int r = buf_puts(&path, "/_emulator/sandboxes/");

	if (r >= 0)
		r = control_escape(&path, sandbox);
	if (r >= 0)
		r = buf_puts(&path, what);
	if (r < 0)
		return err_errno(e, -r, "the question");
	return control_ask_json(&q->at, &(struct control_call){ .method = "GET", .path = path.p }, ret, e);
}

static int show_ledger(const struct question *q, struct err *e)
{
	struct json_object *o = NULL, *entries = NULL;
	int r = ask(q, q->sandboxes.v[0], "/network", &o, e);

	if (r < 0)
		return r;
	if (q->as_json)
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

static int learn(const struct question *q, struct err *e)
{
	struct json_object **answers = calloc((size_t)q->sandboxes.n, sizeof(void *));
	int n = 0, r = answers ? 0 : err_errno(e, ENOMEM, "learn");

	for (; r >= 0 && n < q->sandboxes.n; n += r >= 0)
		r = ask(q, q->sandboxes.v[n], "/network/learn", &answers[n], e);
	if (r >= 0)
		r = print_rules(answers, (size_t)n, e);
	for (int i = 0; i < n; i++)
		json_object_put(answers[i]);
	free(answers);
	return r;
}

/* argv[0] is the verb. */
static int ask_emulator(int argc, char **argv)
{
	bool ledger = strcmp(argv[0], "ledger") == 0;
	struct question q = { 0 };
	const struct cmd_option options[] = { CMD_FLAG("json", &q.as_json), CONTROL_OPTIONS(&q.at), CMD_END };
	struct err e = ERR_INIT;

	if (cmd_parse(argc, argv, ledger ? options : options + 1, &q.sandboxes, &e) < 0)
		return cmd_usage("network", &e);
	if (q.sandboxes.n < 1 || (ledger && q.sandboxes.n > 1)) {
		(void)err_set(&e, ERR_INVALID, EINVAL, NULL,
			      ledger ? "ledger takes one sandbox's id" : "learn takes sandboxes' ids");
		return cmd_usage("network", &e);
	}
	return (ledger ? show_ledger(&q, &e) : learn(&q, &e)) < 0 ? cmd_failed("network", &e) : CMD_OK;
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
