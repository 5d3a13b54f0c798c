/* `clock` and `key`: a running emulator's clock and its API keys, by its own routes (/_emulator/...). */

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"

#define ADVANCE_MAX (UINT64_C(100) * 366 * 86400)

static const char clock_help[] =
	"Usage: orkestr-emulator clock [--advance TIME | --set MOMENT | --reset] [OPTION]...\n"
	"\n"
	"Prints the emulator's clock, after moving it: deadlines, the usage's month, rate limits and the expiry of\n"
	"keys come at once and in order. What is ended by it is gone when this returns.\n"
	"\n"
	"  --advance TIME     forward by so many seconds, or 90m, 12h, 31d\n"
	"  --set MOMENT       forward to 2026-05-01T00:00:00Z\n"
	"  --reset            back to this machine's time; only while no sandbox lives\n"
	"\n" CONTROL_OPTIONS_HELP;

static const char key_help[] =
	"Usage: orkestr-emulator key create [KEY] [WHAT]... [OPTION]...\n"
	"       orkestr-emulator key list [OPTION]...\n"
	"       orkestr-emulator key change ID WHAT... [OPTION]...\n"
	"       orkestr-emulator key revoke ID [OPTION]...\n"
	"\n"
	"create  makes an API key (KEY, or a random one) and prints it; nothing tells it again\n"
	"list    every key that is known, by its id, one JSON object a line\n"
	"\n"
	"What a key has:\n"
	"  --plan PLAN        free, pro or team (default)\n"
	"  --scopes SCOPES    read, write or read,write (default)\n"
	"  --account NAME     keys of one account share their sandboxes; default: an account of its own\n"
	"  --label TEXT       for you\n"
	"  --expires MOMENT   2026-05-01T00:00:00Z, or never\n"
	"  --expires-in TIME  in so many seconds, or 90m, 12h, 31d\n"
	"  --rate N/SECONDS   so many requests in so many seconds, or none\n"
	"  --unrevoke         change: it is let in again\n"
	"\n" CONTROL_OPTIONS_HELP;

/* "90", "90s", "90m", "12h", "31d" as seconds. */
static int parse_time(const char *s, int64_t *ret, struct err *e)
{
	static const char units[] = "smhd";
	static const uint64_t seconds[] = { 1, 60, 3600, 86400 };
	size_t n = strlen(s);
	const char *unit = n > 1 ? strchr(units, s[n - 1]) : NULL;
	uint64_t by = unit ? seconds[unit - units] : 1, v;
	char digits[24];

	if (text_format(digits, sizeof(digits), "%.*s", (int)MIN(unit ? n - 1 : n, (size_t)64), s) < 0 ||
	    text_parse_u64(digits, 0, ADVANCE_MAX / by, &v) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "\"%.24s\" is no time: so many seconds, or 90m, 12h, 31d, at most 100 years", s);
	*ret = (int64_t)(v * by);
	return 0;
}

/* The answer as JSON, or NULL after a message; *status is the command's then. */
static struct json_object *call(const char *command, const struct control_at *at, const char *method, const char *path,
				struct json_object *body, int *status)
{
	struct control_call what = { .method = method, .path = path };
	struct json_object *answer = NULL;
	struct err e = ERR_INIT;

	if (body)
		what.body = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);
	if (control_ask_json(at, &what, &answer, &e) < 0)
		*status = cmd_failed(command, &e);
	return answer;
}

/* ---- clock ---- */

struct clock_options {
	struct control_at at;
	const char *advance, *set;
	bool reset, help;
	struct cmd_rest rest;
};

static int clock_body(const struct clock_options *o, struct json_object **ret, struct err *e)
{
	int64_t seconds;

	*ret = NULL;
	if (cmd_at_most(&o->rest, 0, e) < 0)
		return -EINVAL;
	if ((o->advance != NULL) + (o->set != NULL) + o->reset > 1)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "one of --advance, --set and --reset");
	if (o->advance && parse_time(o->advance, &seconds, e) < 0)
		return -EINVAL;
	if (!o->advance && !o->set && !o->reset)
		return 0;
	*ret = json_object_new_object();
	if (o->advance)
		json_object_object_add(*ret, "advance_seconds", json_object_new_int64(seconds));
	else if (o->set)
		json_object_object_add(*ret, "set", json_object_new_string(o->set));
	else
		json_object_object_add(*ret, "reset", json_object_new_boolean(true));
	return 0;
}

int cmd_clock(int argc, char **argv)
{
	struct json_object *body = NULL, *answer;
	struct clock_options o = { 0 };
	const struct cmd_option options[] = {
		CMD_VALUE("advance", &o.advance), CMD_VALUE("set", &o.set), CMD_FLAG("reset", &o.reset),
		CONTROL_OPTIONS(&o.at),		  CMD_HELP(&o.help),	    CMD_END
	};
	struct err e = ERR_INIT;
	int status = CMD_OK;

	if (cmd_parse(argc, argv, options, &o.rest, &e) < 0)
		return cmd_usage("clock", &e);
	if (o.help) {
		(void)fputs(clock_help, stdout);
		return CMD_OK;
	}
	if (clock_body(&o, &body, &e) < 0)
		return cmd_usage("clock", &e);
	answer = call("clock", &o.at, body ? "POST" : "GET", "/_emulator/clock", body, &status);
	if (answer)
		printf("%s (%s s ahead)\n", control_text(answer, "now", ""),
		       control_text(answer, "offset_seconds", ""));
	json_object_put(answer);
	json_object_put(body);
	return status;
}

/* ---- key ---- */

struct key_options {
	struct control_at at;
	const char *plan, *scopes, *account, *label, *expires, *expires_in, *rate;
	bool unrevoke, help;
	struct cmd_rest rest;
};

static void add(struct json_object *o, const char *name, const char *value)
{
	if (value)
		json_object_object_add(o, name, json_object_new_string(value));
}

static int key_body(const struct key_options *o, struct json_object *b, struct err *e)
{
	int64_t seconds;

	add(b, "plan", o->plan);
	add(b, "scopes", o->scopes);
	add(b, "account", o->account);
	add(b, "label", o->label);
	add(b, "expires_at", o->expires);
	add(b, "rate_limit", o->rate);
	if (o->unrevoke)
		json_object_object_add(b, "revoked", json_object_new_boolean(false));
	if (!o->expires_in)
		return 0;
	if (parse_time(o->expires_in, &seconds, e) < 0)
		return -EINVAL;
	json_object_object_add(b, "expires_in_seconds", json_object_new_int64(seconds));
	return 0;
}

static int key_list(const struct key_options *o)
{
	struct json_object *answer, *keys = NULL;
	int status = CMD_OK;

	answer = call("key", &o->at, "GET", "/_emulator/keys", NULL, &status);
	if (answer)
		(void)json_object_object_get_ex(answer, "keys", &keys);
	for (size_t i = 0; json_object_is_type(keys, json_type_array) && i < json_object_array_length(keys); i++)
		cmd_print_json(json_object_array_get_idx(keys, i));
	json_object_put(answer);
	return status;
}

static int key_create(const struct key_options *o, struct json_object *body)
{
	struct json_object *answer;
	int status = CMD_OK;

	add(body, "key", o->rest.n > 1 ? o->rest.v[1] : NULL);
	answer = call("key", &o->at, "POST", "/_emulator/keys", body, &status);
	if (answer) {
		(void)puts(control_text(answer, "key", ""));
		(void)fprintf(stderr, "%s: plan %s, account %s\n", control_text(answer, "id", ""),
			      control_text(answer, "plan", ""), control_text(answer, "account", ""));
	}
	json_object_put(answer);
	return status;
}

static int key_change(const struct key_options *o, const char *method, struct json_object *body)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	struct json_object *answer;
	int status = CMD_OK;

	if (buf_puts(&path, "/_emulator/keys/") < 0 || control_escape(&path, o->rest.v[1]) < 0)
		return CMD_USAGE;
	answer = call("key", &o->at, method, path.p, body, &status);
	if (answer)
		cmd_print_json(answer);
	json_object_put(answer);
	return status;
}

static int key_run(const struct key_options *o, struct json_object *body, struct err *e)
{
	const char *verb = o->rest.n > 0 ? o->rest.v[0] : "";

	if (strcmp(verb, "list") == 0 && o->rest.n == 1)
		return key_list(o);
	if (strcmp(verb, "create") == 0 && o->rest.n <= 2)
		return key_create(o, body);
	if (strcmp(verb, "change") == 0 && o->rest.n == 2)
		return key_change(o, "PATCH", body);
	if (strcmp(verb, "revoke") == 0 && o->rest.n == 2)
		return key_change(o, "DELETE", NULL);
	(void)err_set(e, ERR_INVALID, EINVAL, NULL,
		      "wanted is: key create [KEY], key list, key change ID, or key revoke ID");
	return cmd_usage("key", e);
}

int cmd_key(int argc, char **argv)
{
	struct json_object *body;
	struct key_options o = { 0 };
	const struct cmd_option options[] = { CMD_VALUE("plan", &o.plan),
					      CMD_VALUE("scopes", &o.scopes),
					      CMD_VALUE("account", &o.account),
					      CMD_VALUE("label", &o.label),
					      CMD_VALUE("expires", &o.expires),
					      CMD_VALUE("expires-in", &o.expires_in),
					      CMD_VALUE("rate", &o.rate),
					      CMD_FLAG("unrevoke", &o.unrevoke),
					      CONTROL_OPTIONS(&o.at),
					      CMD_HELP(&o.help),
					      CMD_END };
	struct err e = ERR_INIT;
	int status;

	if (cmd_parse(argc, argv, options, &o.rest, &e) < 0)
		return cmd_usage("key", &e);
	if (o.help) {
		(void)fputs(key_help, stdout);
		return CMD_OK;
	}
	body = json_object_new_object();
	status = key_body(&o, body, &e) < 0 ? cmd_usage("key", &e) : key_run(&o, body, &e);
	json_object_put(body);
	return status;
}
