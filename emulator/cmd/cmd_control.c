/* The commands that drive a running emulator: events, fault, reset, seed. */

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"

#define ANSWER_MAX (96u << 20)

#define WHERE                                                                                                          \
	"  --url URL          where it listens (default: ORKESTR_EMULATOR_URL, or what the state dir says)\n"          \
	"  --state-dir DIR    the state dir of the emulator that is meant (default: as for serve)\n"                   \
	"  --key KEY          any API key of it (default: ORKESTR_API_KEY, or the state dir's own)\n"                  \
	"  -h, --help         this text\n"

static const char events_help[] =
	"Usage: orkestr-emulator events [OPTION]...\n"
	"\n"
	"Prints what a running emulator has seen, one JSON object a line: requests and what became of sandboxes,\n"
	"commands, connections and faults.\n"
	"\n"
	"  --follow           go on with what comes, until stopped\n"
	"  --type TYPE        request, sandbox, exec, network, fault, ... or with what happened: sandbox.failed;\n"
	"                     several with commas\n"
	"  --sandbox ID, --account ID\n"
	"  --route ROUTE      requests alone: [METHOD ]PATTERN, as in \"POST /v1/sandboxes/*/exec\"\n"
	"  --status N         requests alone: 404, or 4xx\n"
	"  --since SEQ        only what came after it\n" WHERE;

static const char fault_help[] =
	"Usage: orkestr-emulator fault add NAME=VALUE... | list | clear [ID] [OPTION]...\n"
	"\n"
	"Makes calls go wrong on purpose. A rule's names, each optional but one of the last:\n"
	"\n"
	"  which calls   route=[METHOD ]PATTERN  key=...  account=acc_...  sandbox=sbx_...  header=NAME[: VALUE]\n"
	"  how often     nth=N  times=N  probability=P  seed=N\n"
	"  what          status=400..599  code=WORD  detail=TEXT  retry_after=SECONDS\n"
	"                latency=MS | uniform(A,B) | normal(MEAN,DEVIATION) | exponential(MEAN)\n"
	"                reset=before|body|after  cut=N  last_chunk=missing  exec=kill|oom  exec_after=MS\n"
	"                disk=full  resume=fail  dns=servfail host=NAME\n"
	"\n" WHERE "\n"
	"Example:\n"
	"  orkestr-emulator fault add 'route=POST /v1/sandboxes' code=rate_limited retry_after=2 times=3\n";

static const char reset_help[] =
	"Usage: orkestr-emulator reset [--account ID | --of-key KEY] [OPTION]...\n"
	"\n"
	"Ends and forgets every sandbox of an account, or of all, with its usage, idempotency keys, fault rules and\n"
	"journal; and keys that were made at run time. Templates stay.\n"
	"\n" WHERE;

static const char seed_help[] =
	"Usage: orkestr-emulator seed FILE [--seed N] [OPTION]...\n"
	"\n"
	"Makes the accounts, sandboxes, files and runs the commands that a JSON file asks for (see the README), and\n"
	"prints what was made. With --seed N the sandboxes' ids and creation times follow from N.\n"
	"\n" WHERE;

struct control_options {
	const char *url, *state_dir, *key;
	const char *type, *sandbox, *account, *route, *status, *since, *of_key, *seed;
	bool follow, help;
	char **rest;
	int n_rest;
};

enum {
	OPT_URL = 256,
	OPT_STATE_DIR,
	OPT_KEY,
	OPT_TYPE,
	OPT_SANDBOX,
	OPT_ACCOUNT,
	OPT_ROUTE,
	OPT_STATUS,
	OPT_SINCE,
	OPT_FOLLOW,
	OPT_OF_KEY,
	OPT_SEED
};

#define COMMON_OPTIONS                                                                                                 \
	{ "url", required_argument, NULL, OPT_URL }, { "state-dir", required_argument, NULL, OPT_STATE_DIR },          \
		{ "key", required_argument, NULL, OPT_KEY }, { "help", no_argument, NULL, 'h' },                       \
	{                                                                                                              \
		NULL, 0, NULL, 0                                                                                       \
	}

static const struct option events_options[] = {
	{ "follow", no_argument, NULL, OPT_FOLLOW },	     { "type", required_argument, NULL, OPT_TYPE },
	{ "sandbox", required_argument, NULL, OPT_SANDBOX }, { "account", required_argument, NULL, OPT_ACCOUNT },
	{ "route", required_argument, NULL, OPT_ROUTE },     { "status", required_argument, NULL, OPT_STATUS },
	{ "since", required_argument, NULL, OPT_SINCE },     COMMON_OPTIONS
};
static const struct option fault_options[] = { COMMON_OPTIONS };
static const struct option reset_options[] = { { "account", required_argument, NULL, OPT_ACCOUNT },
					       { "of-key", required_argument, NULL, OPT_OF_KEY },
					       COMMON_OPTIONS };
static const struct option seed_options[] = { { "seed", required_argument, NULL, OPT_SEED }, COMMON_OPTIONS };

static void take(struct control_options *o, int c)
{
	const struct {
		int c;
		const char **to;
	} all[] = {
		{ OPT_URL, &o->url },	    { OPT_STATE_DIR, &o->state_dir }, { OPT_KEY, &o->key },
		{ OPT_TYPE, &o->type },	    { OPT_SANDBOX, &o->sandbox },     { OPT_ACCOUNT, &o->account },
		{ OPT_ROUTE, &o->route },   { OPT_STATUS, &o->status },	      { OPT_SINCE, &o->since },
		{ OPT_OF_KEY, &o->of_key }, { OPT_SEED, &o->seed },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].c == c)
			*all[i].to = optarg;
	o->follow |= c == OPT_FOLLOW;
	o->help |= c == 'h';
}

static int parse(int argc, char **argv, const struct option *longs, struct control_options *o, struct err *e)
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

static int unexpected(const struct control_options *o, int max, struct err *e)
{
	if (o->n_rest <= max)
		return 0;
	return err_set(e, ERR_INVALID, EINVAL, NULL, "'%.64s' is not expected here", o->rest[max]);
}

/* The answer on standard output, or what is wrong on standard error. */
static int call(const char *command, const struct control_options *o, const struct control_call *what,
		int (*print)(const char *text))
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANSWER_MAX);
	struct json_object *v = NULL, *answer;
	struct err e = ERR_INIT;
	unsigned int status = 0;
	struct control c;

	if (control_find(o->state_dir, o->url, o->key, &c, &e) < 0 || control_call(&c, what, &b, &status, &e) < 0)
		return cmd_failed(command, &e);
	if (status < 400) {
		if (b.len > 0)
			return print(b.p);
		return CMD_OK;
	}
	answer = b.len > 0 ? json_tokener_parse(b.p) : NULL;
	if (json_object_is_type(answer, json_type_object))
		(void)json_object_object_get_ex(answer, "detail", &v);
	(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "%u: %s", status, v ? json_object_get_string(v) : "no detail");
	json_object_put(answer);
	return cmd_failed(command, &e);
}

static int print_whole(const char *text)
{
	return puts(text) < 0 ? CMD_FAILED : CMD_OK;
}

/* The elements of the answer's only array, one a line. */
static int print_elements(const char *text)
{
	struct json_object *o = json_tokener_parse(text);

	json_object_object_foreach(o, name, v)
	{
		(void)name;
		for (size_t i = 0; json_object_is_type(v, json_type_array) && i < json_object_array_length(v); i++)
			(void)puts(json_object_to_json_string_ext(json_object_array_get_idx(v, i),
								  JSON_C_TO_STRING_PLAIN |
									  JSON_C_TO_STRING_NOSLASHESCAPE));
	}
	json_object_put(o);
	return CMD_OK;
}

/* ---- events ---- */

static int add_query(struct buf *b, const char *name, const char *value)
{
	int r = value ? buf_printf(b, "%c%s=", strchr(b->p, '?') ? '&' : '?', name) : 0;

	return value && r >= 0 ? control_escape(b, value) : r;
}

static void print_event(void *arg, const char *event, const char *data)
{
	(void)arg;
	/* {"missed":N}: the only one that is not an event of the journal */
	(void)event;
	(void)puts(data);
	(void)fflush(stdout);
}

static int events_path(const struct control_options *o, struct buf *b)
{
	int r = buf_puts(b, "/_emulator/events");

	if (r >= 0)
		r = add_query(b, "type", o->type);
	if (r >= 0)
		r = add_query(b, "sandbox", o->sandbox);
	if (r >= 0)
		r = add_query(b, "account", o->account);
	if (r >= 0)
		r = add_query(b, "route", o->route);
	if (r >= 0)
		r = add_query(b, "status", o->status);
	if (r >= 0)
		r = add_query(b, "since", o->since);
	return r < 0 || o->follow ? r : add_query(b, "limit", "8192");
}

int cmd_events(int argc, char **argv)
{
	_cleanup_buf_ struct buf path = BUF_INIT(8192);
	struct control_options o = { 0 };
	struct err e = ERR_INIT;
	struct control c;

	if (parse(argc, argv, events_options, &o, &e) < 0 || unexpected(&o, 0, &e) < 0)
		return cmd_usage("events", &e);
	if (o.help) {
		(void)fputs(events_help, stdout);
		return CMD_OK;
	}
	if (events_path(&o, &path) < 0)
		return CMD_USAGE;
	if (!o.follow)
		return call("events", &o, &(struct control_call){ .method = "GET", .path = path.p }, print_elements);
	if (control_find(o.state_dir, o.url, o.key, &c, &e) < 0 ||
	    control_follow(&c, path.p, print_event, NULL, &e) < 0)
		return cmd_failed("events", &e);
	return CMD_OK;
}

/* ---- fault ---- */

static int fault_add(const struct control_options *o)
{
	_cleanup_buf_ struct buf rule = BUF_INIT(4096);
	struct json_object *body = json_object_new_object();
	int r = 0, status;

	for (int i = 1; i < o->n_rest && r >= 0; i++)
		r = buf_printf(&rule, "%s%s", i > 1 ? "; " : "", o->rest[i]);
	json_object_object_add(body, "rule", json_object_new_string(rule.p ? rule.p : ""));
	status = r < 0 ? CMD_USAGE
		       : call("fault", o,
			      &(struct control_call){ .method = "POST",
						      .path = "/_emulator/faults",
						      .body = json_object_to_json_string(body) },
			      print_whole);
	json_object_put(body);
	return status;
}

static int fault_clear(const struct control_options *o)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	int r = buf_puts(&path, "/_emulator/faults");

	if (r >= 0 && o->n_rest > 1)
		r = buf_puts(&path, "/");
	if (r >= 0 && o->n_rest > 1)
		r = control_escape(&path, o->rest[1]);
	return r < 0 ? CMD_USAGE
		     : call("fault", o, &(struct control_call){ .method = "DELETE", .path = path.p }, print_whole);
}

int cmd_fault(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct err e = ERR_INIT;

	if (parse(argc, argv, fault_options, &o, &e) < 0)
		return cmd_usage("fault", &e);
	if (o.help) {
		(void)fputs(fault_help, stdout);
		return CMD_OK;
	}
	if (o.n_rest > 1 && strcmp(o.rest[0], "add") == 0)
		return fault_add(&o);
	if (o.n_rest == 1 && strcmp(o.rest[0], "list") == 0)
		return call("fault", &o, &(struct control_call){ .method = "GET", .path = "/_emulator/faults" },
			    print_elements);
	if ((o.n_rest == 1 || o.n_rest == 2) && strcmp(o.rest[0], "clear") == 0)
		return fault_clear(&o);
	(void)err_set(&e, ERR_INVALID, EINVAL, NULL,
		      "wanted is: fault add NAME=VALUE..., fault list, or fault clear [ID]");
	return cmd_usage("fault", &e);
}

/* ---- reset, seed ---- */

int cmd_reset(int argc, char **argv)
{
	struct control_options o = { 0 };
	struct json_object *body;
	struct err e = ERR_INIT;
	int status;

	if (parse(argc, argv, reset_options, &o, &e) < 0 || unexpected(&o, 0, &e) < 0)
		return cmd_usage("reset", &e);
	if (o.help) {
		(void)fputs(reset_help, stdout);
		return CMD_OK;
	}
	body = json_object_new_object();
	if (o.account)
		json_object_object_add(body, "account", json_object_new_string(o.account));
	if (o.of_key)
		json_object_object_add(body, "key", json_object_new_string(o.of_key));
	status = call("reset", &o,
		      &(struct control_call){
			      .method = "POST", .path = "/_emulator/reset", .body = json_object_to_json_string(body) },
		      print_whole);
	json_object_put(body);
	return status;
}

int cmd_seed(int argc, char **argv)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	struct control_options o = { 0 };
	struct err e = ERR_INIT;

	if (parse(argc, argv, seed_options, &o, &e) < 0 || unexpected(&o, 1, &e) < 0)
		return cmd_usage("seed", &e);
	if (o.help) {
		(void)fputs(seed_help, stdout);
		return CMD_OK;
	}
	if (o.n_rest == 1 && access(o.rest[0], R_OK) < 0) {
		(void)err_errno(&e, errno, "%s", o.rest[0]);
		return cmd_failed("seed", &e);
	}
	if (o.n_rest != 1) {
		(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "which file?");
		return cmd_usage("seed", &e);
	}
	if (buf_puts(&path, "/_emulator/seed") < 0 || add_query(&path, "seed", o.seed) < 0)
		return CMD_USAGE;
	return call("seed", &o, &(struct control_call){ .method = "POST", .path = path.p, .body_file = o.rest[0] },
		    print_whole);
}
