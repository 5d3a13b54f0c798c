/* `clock` and `key`: a running emulator's clock and its API keys, by its own routes (/_emulator/...). */

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"

#define ANSWER_MAX (4u << 20)
#define ADVANCE_MAX (UINT64_C(100) * 366 * 86400)

#define WHERE                                                                                                          \
	"Which emulator:\n"                                                                                            \
	"  --url URL          where it listens (default: ORKESTR_EMULATOR_URL, or the one that runs on the state "     \
	"dir)\n"                                                                                                       \
	"  --state-dir DIR    that state dir (default: as for serve)\n"                                                \
	"  --key KEY          any API key of it (default: ORKESTR_API_KEY, or the state dir's own)\n"                  \
	"  -h, --help         this text\n"

static const char clock_help[] =
	"Usage: orkestr-emulator clock [--advance TIME | --set MOMENT | --reset] [OPTION]...\n"
	"\n"
	"Prints the emulator's clock, after moving it: deadlines, the usage's month, rate limits and the expiry of\n"
	"keys come at once and in order. What is ended by it is gone when this returns.\n"
	"\n"
	"  --advance TIME     forward by so many seconds, or 90m, 12h, 31d\n"
	"  --set MOMENT       forward to 2026-05-01T00:00:00Z\n"
	"  --reset            back to this machine's time; only while no sandbox lives\n"
	"\n" WHERE;

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
	"\n" WHERE;

struct options {
	const char *url, *state_dir, *key;
	const char *advance, *set;
	const char *plan, *scopes, *account, *label, *expires, *expires_in, *rate;
	bool reset, unrevoke, help;
	char **rest;
	int n_rest;
};

enum {
	OPT_URL = 256,
	OPT_STATE_DIR,
	OPT_KEY,
	OPT_ADVANCE,
	OPT_SET,
	OPT_RESET,
	OPT_PLAN,
	OPT_SCOPES,
	OPT_ACCOUNT,
	OPT_LABEL,
	OPT_EXPIRES,
	OPT_EXPIRES_IN,
	OPT_RATE,
	OPT_UNREVOKE,
};

#define COMMON_OPTIONS                                                                                                 \
	{ "url", required_argument, NULL, OPT_URL }, { "state-dir", required_argument, NULL, OPT_STATE_DIR },          \
		{ "key", required_argument, NULL, OPT_KEY }, { "help", no_argument, NULL, 'h' },                       \
	{                                                                                                              \
		NULL, 0, NULL, 0                                                                                       \
	}

static const struct option clock_options[] = { { "advance", required_argument, NULL, OPT_ADVANCE },
					       { "set", required_argument, NULL, OPT_SET },
					       { "reset", no_argument, NULL, OPT_RESET },
					       COMMON_OPTIONS };
static const struct option key_options[] = { { "plan", required_argument, NULL, OPT_PLAN },
					     { "scopes", required_argument, NULL, OPT_SCOPES },
					     { "account", required_argument, NULL, OPT_ACCOUNT },
					     { "label", required_argument, NULL, OPT_LABEL },
					     { "expires", required_argument, NULL, OPT_EXPIRES },
					     { "expires-in", required_argument, NULL, OPT_EXPIRES_IN },
					     { "rate", required_argument, NULL, OPT_RATE },
					     { "unrevoke", no_argument, NULL, OPT_UNREVOKE },
					     COMMON_OPTIONS };

static void take(struct options *o, int c)
{
	const struct {
		int c;
		const char **to;
	} all[] = {
		{ OPT_URL, &o->url },
		{ OPT_STATE_DIR, &o->state_dir },
		{ OPT_KEY, &o->key },
		{ OPT_ADVANCE, &o->advance },
		{ OPT_SET, &o->set },
		{ OPT_PLAN, &o->plan },
		{ OPT_SCOPES, &o->scopes },
		{ OPT_ACCOUNT, &o->account },
		{ OPT_LABEL, &o->label },
		{ OPT_EXPIRES, &o->expires },
		{ OPT_EXPIRES_IN, &o->expires_in },
		{ OPT_RATE, &o->rate },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].c == c)
			*all[i].to = optarg;
	o->reset |= c == OPT_RESET;
	o->unrevoke |= c == OPT_UNREVOKE;
	o->help |= c == 'h';
}

static int parse(int argc, char **argv, const struct option *longs, struct options *o, struct err *e)
{
	int c;

	optind = 0;
	while ((c = cmd_getopt(argc, argv, ":h", longs, e)) != -1) {
		if (c == CMD_OPT_BAD)
			return -EINVAL;
		take(o, c);
	}
	o->rest = argv + optind;
	o->n_rest = argc - optind;
	return 0;
}

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
static struct json_object *call(const char *command, const struct options *o, const char *method, const char *path,
				struct json_object *body, int *status)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANSWER_MAX);
	struct control_call what = { .method = method, .path = path };
	struct json_object *answer, *detail = NULL;
	struct err e = ERR_INIT;
	unsigned int code = 0;
	struct control c;

	if (body)
		what.body = json_object_to_json_string_ext(body, JSON_C_TO_STRING_PLAIN);
	if (control_find(o->state_dir, o->url, o->key, &c, &e) < 0 || control_call(&c, &what, &b, &code, &e) < 0) {
		*status = cmd_failed(command, &e);
		return NULL;
	}
	answer = b.len > 0 ? json_tokener_parse(b.p) : NULL;
	if (code < 400 && answer)
		return answer;
	if (json_object_is_type(answer, json_type_object))
		(void)json_object_object_get_ex(answer, "detail", &detail);
	(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "%u: %s", code,
		      detail ? json_object_get_string(detail) : "an answer without a detail");
	json_object_put(answer);
	*status = cmd_failed(command, &e);
	return NULL;
}

static const char *text_of(struct json_object *o, const char *name)
{
	struct json_object *v = NULL;

	(void)json_object_object_get_ex(o, name, &v);
	return v ? json_object_get_string(v) : "";
}

/* ---- clock ---- */

static int clock_body(const struct options *o, struct json_object **ret, struct err *e)
{
	int64_t seconds;

	*ret = NULL;
	if (o->n_rest > 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "'%.64s' is not expected here", o->rest[0]);
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
	struct options o = { 0 };
	struct err e = ERR_INIT;
	int status = CMD_OK;

	if (parse(argc, argv, clock_options, &o, &e) < 0)
		return cmd_usage("clock", &e);
	if (o.help) {
		(void)fputs(clock_help, stdout);
		return CMD_OK;
	}
	if (clock_body(&o, &body, &e) < 0)
		return cmd_usage("clock", &e);
	answer = call("clock", &o, body ? "POST" : "GET", "/_emulator/clock", body, &status);
	if (answer)
		printf("%s (%s s ahead)\n", text_of(answer, "now"), text_of(answer, "offset_seconds"));
	json_object_put(answer);
	json_object_put(body);
	return status;
}

/* ---- key ---- */

static void add(struct json_object *o, const char *name, const char *value)
{
	if (value)
		json_object_object_add(o, name, json_object_new_string(value));
}

static int key_body(const struct options *o, struct json_object *b, struct err *e)
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

static void print_line(struct json_object *o)
{
	(void)puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

static int key_list(const struct options *o)
{
	struct json_object *answer, *keys = NULL;
	int status = CMD_OK;

	answer = call("key", o, "GET", "/_emulator/keys", NULL, &status);
	if (answer)
		(void)json_object_object_get_ex(answer, "keys", &keys);
	for (size_t i = 0; json_object_is_type(keys, json_type_array) && i < json_object_array_length(keys); i++)
		print_line(json_object_array_get_idx(keys, i));
	json_object_put(answer);
	return status;
}

static int key_create(const struct options *o, struct json_object *body)
{
	struct json_object *answer;
	int status = CMD_OK;

	add(body, "key", o->n_rest > 1 ? o->rest[1] : NULL);
	answer = call("key", o, "POST", "/_emulator/keys", body, &status);
	if (answer) {
		(void)puts(text_of(answer, "key"));
		(void)fprintf(stderr, "%s: plan %s, account %s\n", text_of(answer, "id"), text_of(answer, "plan"),
			      text_of(answer, "account"));
	}
	json_object_put(answer);
	return status;
}

static int key_change(const struct options *o, const char *method, struct json_object *body)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	struct json_object *answer;
	int status = CMD_OK;

	if (buf_puts(&path, "/_emulator/keys/") < 0 || control_escape(&path, o->rest[1]) < 0)
		return CMD_USAGE;
	answer = call("key", o, method, path.p, body, &status);
	if (answer)
		print_line(answer);
	json_object_put(answer);
	return status;
}

static int key_run(const struct options *o, struct json_object *body, struct err *e)
{
	const char *verb = o->n_rest > 0 ? o->rest[0] : "";

	if (strcmp(verb, "list") == 0 && o->n_rest == 1)
		return key_list(o);
	if (strcmp(verb, "create") == 0 && o->n_rest <= 2)
		return key_create(o, body);
	if (strcmp(verb, "change") == 0 && o->n_rest == 2)
		return key_change(o, "PATCH", body);
	if (strcmp(verb, "revoke") == 0 && o->n_rest == 2)
		return key_change(o, "DELETE", NULL);
	(void)err_set(e, ERR_INVALID, EINVAL, NULL,
		      "wanted is: key create [KEY], key list, key change ID, or key revoke ID");
	return cmd_usage("key", e);
}

int cmd_key(int argc, char **argv)
{
	struct json_object *body;
	struct options o = { 0 };
	struct err e = ERR_INIT;
	int status;

	if (parse(argc, argv, key_options, &o, &e) < 0)
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
