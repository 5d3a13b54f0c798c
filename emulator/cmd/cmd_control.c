/* The commands that drive a running emulator: events, fault, reset, seed. */

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/cmd/cmd.h"
#include "emulator/cmd/control_client.h"

#define ANSWER_MAX (96u << 20)

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
	"  --since SEQ        only what came after it\n" CONTROL_OPTIONS_HELP;

static const char fault_help[] =
	"Usage: orkestr-emulator fault add NAME=VALUE... [OPTION]...\n"
	"       orkestr-emulator fault list [OPTION]...\n"
	"       orkestr-emulator fault clear [ID] [OPTION]...\n"
	"\n"
	"Makes calls go wrong on purpose. A rule's names, each optional but one of the last:\n"
	"\n"
	"  which calls   route=[METHOD ]PATTERN  key=...  account=acc_...  sandbox=sbx_...  header=NAME[: VALUE]\n"
	"  how often     nth=N  times=N  probability=P  seed=N\n"
	"  what          status=400..599  code=WORD  detail=TEXT  retry_after=SECONDS\n"
	"                latency=MS | uniform(A,B) | normal(MEAN,DEVIATION) | exponential(MEAN)\n"
	"                reset=before|body|after  cut=N  last_chunk=missing  exec=kill|oom  exec_after=MS\n"
	"                disk=full  resume=fail  dns=servfail host=NAME\n"
	"\n" CONTROL_OPTIONS_HELP "\n"
	"Example:\n"
	"  orkestr-emulator fault add 'route=POST /v1/sandboxes' code=rate_limited retry_after=2 times=3\n";

static const char reset_help[] =
	"Usage: orkestr-emulator reset [--account ID | --of-key KEY] [OPTION]...\n"
	"\n"
	"Ends and forgets every sandbox of an account, or of all, with its usage, idempotency keys, fault rules and\n"
	"journal; and keys that were made at run time. Templates stay.\n"
	"\n" CONTROL_OPTIONS_HELP;

static const char seed_help[] =
	"Usage: orkestr-emulator seed FILE [--seed N] [OPTION]...\n"
	"\n"
	"Makes the accounts, sandboxes, files and runs the commands that a JSON file asks for (see the README), and\n"
	"prints what was made. With --seed N the sandboxes' ids and creation times follow from N.\n"
	"\n" CONTROL_OPTIONS_HELP;

/* What every one of them takes. */
struct common {
	struct control_at at;
	bool help;
	struct cmd_rest rest;
};
#define COMMON_OPTIONS(c) CONTROL_OPTIONS(&(c)->at), CMD_HELP(&(c)->help), CMD_END

/* The answer on standard output, or what is wrong on standard error. */
static int call(const char *command, const struct control_at *at, const struct control_call *what,
		int (*print)(const char *text))
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANSWER_MAX);
	struct err e = ERR_INIT;

	if (control_ask(at, what, &b, &e) < 0)
		return cmd_failed(command, &e);
	return b.len > 0 ? print(b.p) : CMD_OK;
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
			cmd_print_json(json_object_array_get_idx(v, i));
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

int cmd_events(int argc, char **argv)
{
	const char *type = NULL, *sandbox = NULL, *account = NULL, *route = NULL, *status = NULL, *since = NULL;
	bool follow = false;
	struct common o = { 0 };
	const struct cmd_option options[] = { CMD_FLAG("follow", &follow),    CMD_VALUE("type", &type),
					      CMD_VALUE("sandbox", &sandbox), CMD_VALUE("account", &account),
					      CMD_VALUE("route", &route),     CMD_VALUE("status", &status),
					      CMD_VALUE("since", &since),     COMMON_OPTIONS(&o) };
	_cleanup_buf_ struct buf path = BUF_INIT(8192);
	struct err e = ERR_INIT;
	struct control c;

	if (cmd_parse(argc, argv, options, &o.rest, &e) < 0 || cmd_at_most(&o.rest, 0, &e) < 0)
		return cmd_usage("events", &e);
	if (o.help) {
		(void)fputs(events_help, stdout);
		return CMD_OK;
	}
	if (buf_puts(&path, "/_emulator/events") < 0 || add_query(&path, "type", type) < 0 ||
	    add_query(&path, "sandbox", sandbox) < 0 || add_query(&path, "account", account) < 0 ||
	    add_query(&path, "route", route) < 0 || add_query(&path, "status", status) < 0 ||
	    add_query(&path, "since", since) < 0 || add_query(&path, "limit", follow ? NULL : "8192") < 0)
		return CMD_USAGE;
	if (!follow)
		return call("events", &o.at, &(struct control_call){ .method = "GET", .path = path.p }, print_elements);
	if (control_find(&o.at, &c, &e) < 0 || control_follow(&c, path.p, print_event, NULL, &e) < 0)
		return cmd_failed("events", &e);
	return CMD_OK;
}

/* ---- fault ---- */

static int fault_add(const struct common *o)
{
	_cleanup_buf_ struct buf rule = BUF_INIT(4096);
	struct json_object *body = json_object_new_object();
	int r = 0, status;

	for (int i = 1; i < o->rest.n && r >= 0; i++)
		r = buf_printf(&rule, "%s%s", i > 1 ? "; " : "", o->rest.v[i]);
	json_object_object_add(body, "rule", json_object_new_string(rule.p ? rule.p : ""));
	status = r < 0 ? CMD_USAGE
		       : call("fault", &o->at,
			      &(struct control_call){ .method = "POST",
						      .path = "/_emulator/faults",
						      .body = json_object_to_json_string(body) },
			      print_whole);
	json_object_put(body);
	return status;
}

static int fault_clear(const struct common *o)
{
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	int r = buf_puts(&path, "/_emulator/faults");

	if (r >= 0 && o->rest.n > 1)
		r = buf_puts(&path, "/");
	if (r >= 0 && o->rest.n > 1)
		r = control_escape(&path, o->rest.v[1]);
	return r < 0 ? CMD_USAGE
		     : call("fault", &o->at, &(struct control_call){ .method = "DELETE", .path = path.p }, print_whole);
}

int cmd_fault(int argc, char **argv)
{
	struct common o = { 0 };
	const struct cmd_option options[] = { COMMON_OPTIONS(&o) };
	struct err e = ERR_INIT;

	if (cmd_parse(argc, argv, options, &o.rest, &e) < 0)
		return cmd_usage("fault", &e);
	if (o.help) {
		(void)fputs(fault_help, stdout);
		return CMD_OK;
	}
	if (o.rest.n > 1 && strcmp(o.rest.v[0], "add") == 0)
		return fault_add(&o);
	if (o.rest.n == 1 && strcmp(o.rest.v[0], "list") == 0)
		return call("fault", &o.at, &(struct control_call){ .method = "GET", .path = "/_emulator/faults" },
			    print_elements);
	if ((o.rest.n == 1 || o.rest.n == 2) && strcmp(o.rest.v[0], "clear") == 0)
		return fault_clear(&o);
	(void)err_set(&e, ERR_INVALID, EINVAL, NULL,
		      "wanted is: fault add NAME=VALUE..., fault list, or fault clear [ID]");
	return cmd_usage("fault", &e);
}

/* ---- reset, seed ---- */

int cmd_reset(int argc, char **argv)
{
	const char *account = NULL, *of_key = NULL;
	struct common o = { 0 };
	const struct cmd_option options[] = { CMD_VALUE("account", &account), CMD_VALUE("of-key", &of_key),
					      COMMON_OPTIONS(&o) };
	struct json_object *body;
	struct err e = ERR_INIT;
	int status;

	if (cmd_parse(argc, argv, options, &o.rest, &e) < 0 || cmd_at_most(&o.rest, 0, &e) < 0)
		return cmd_usage("reset", &e);
	if (o.help) {
		(void)fputs(reset_help, stdout);
		return CMD_OK;
	}
	body = json_object_new_object();
	if (account)
		json_object_object_add(body, "account", json_object_new_string(account));
	if (of_key)
		json_object_object_add(body, "key", json_object_new_string(of_key));
	status = call("reset", &o.at,
		      &(struct control_call){
			      .method = "POST", .path = "/_emulator/reset", .body = json_object_to_json_string(body) },
		      print_whole);
	json_object_put(body);
	return status;
}

int cmd_seed(int argc, char **argv)
{
	const char *seed = NULL;
	struct common o = { 0 };
	const struct cmd_option options[] = { CMD_VALUE("seed", &seed), COMMON_OPTIONS(&o) };
	_cleanup_buf_ struct buf path = BUF_INIT(4096);
	struct err e = ERR_INIT;

	if (cmd_parse(argc, argv, options, &o.rest, &e) < 0 || cmd_at_most(&o.rest, 1, &e) < 0)
		return cmd_usage("seed", &e);
	if (o.help) {
		(void)fputs(seed_help, stdout);
		return CMD_OK;
	}
	if (o.rest.n == 1 && access(o.rest.v[0], R_OK) < 0) {
		(void)err_errno(&e, errno, "%s", o.rest.v[0]);
		return cmd_failed("seed", &e);
	}
	if (o.rest.n != 1) {
		(void)err_set(&e, ERR_INVALID, EINVAL, NULL, "which file?");
		return cmd_usage("seed", &e);
	}
	if (buf_puts(&path, "/_emulator/seed") < 0 || add_query(&path, "seed", seed) < 0)
		return CMD_USAGE;
	return call("seed", &o.at, &(struct control_call){ .method = "POST", .path = path.p, .body_file = o.rest.v[0] },
		    print_whole);
}
