/* The Model Context Protocol over Streamable HTTP (revisions 2025-03-26 to 2025-11-25), at /mcp and where the
 * cloud has it.
 *
 * Stateless: no session is begun (no Mcp-Session-Id is given out, a client's is ignored), the server never
 * asks anything of the client, so there is nothing to GET (405) or to DELETE (405). Each POST has one JSON-RPC
 * message, or an array of them (2025-03-26); their answers come as JSON, or as Server-Sent Events for a client
 * that accepts nothing else. A call runs as a request of the REST API (subreq.h) with the same token, so it
 * needs the same scope and fails with the same code.
 *
 * A page of a browser must not reach it through a name that was pointed at 127.0.0.1 (DNS rebinding): an Origin
 * that is not this machine's is refused. */

#include "api/api.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "api/mcp_tools.h"
#include "api/req.h"
#include "api/subreq.h"
#include "emulator/base/log.h"

#define BODY_MAX (8u << 20)
#define BATCH_MAX 32
#define REPLY_MAX (64u << 20)

/* JSON-RPC 2.0, section 5.1. */
#define PARSE_ERROR (-32700)
#define INVALID_REQUEST (-32600)
#define METHOD_NOT_FOUND (-32601)
#define INVALID_PARAMS (-32602)
#define INTERNAL_ERROR (-32603)

static const char *const versions[] = { "2025-11-25", "2025-06-18", "2025-03-26", NULL }; /* the newest first */

struct batch;

struct call {
	struct batch *batch;
	struct json_object *id;	    /* borrowed from the message */
	struct json_object *answer; /* NULL: none is due, or it runs */
	struct json_object *ignored;
	struct subreq *sub; /* NULL: it does not run */
};

struct batch {
	struct req *req;
	struct json_object *messages;
	bool is_array, sse, bad;
	size_t n, running;
	struct call calls[BATCH_MAX];
};

/* ---- answers ---- */

static void add_text(struct json_object *o, const char *name, const char *s)
{
	json_object_object_add(o, name, json_object_new_string(s));
}

static struct json_object *answer_new(struct json_object *id)
{
	struct json_object *o = json_object_new_object();

	add_text(o, "jsonrpc", "2.0");
	json_object_object_add(o, "id", json_object_get(id));
	return o;
}

static struct json_object *error_answer(struct json_object *id, int code, const char *message)
{
	struct json_object *o = answer_new(id), *error = json_object_new_object();

	json_object_object_add(error, "code", json_object_new_int(code));
	add_text(error, "message", message);
	json_object_object_add(o, "error", error);
	return o;
}

/* Takes result. */
static struct json_object *result_answer(struct json_object *id, struct json_object *result)
{
	struct json_object *o = answer_new(id);

	json_object_object_add(o, "result", result);
	return o;
}

static void batch_free(void *arg)
{
	struct batch *b = arg;

	for (size_t i = 0; i < b->n; i++) {
		json_object_put(b->calls[i].answer);
		json_object_put(b->calls[i].ignored);
		if (b->calls[i].sub)
			subreq_cancel(b->calls[i].sub);
	}
	json_object_put(b->messages);
	free(b);
}

static int put_answer(struct buf *b, struct json_object *o)
{
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);

	return s ? buf_puts(b, s) : -ENOMEM;
}

/* The answers that are due, *ret_n of them. */
static int put_all(struct batch *b, struct buf *out, size_t *ret_n)
{
	bool list = b->is_array && !b->sse;
	int r = list ? buf_puts(out, "[") : 0;

	for (size_t i = 0; r >= 0 && i < b->n; i++) {
		if (!b->calls[i].answer)
			continue;
		if (b->sse)
			r = buf_puts(out, "event: message\ndata: ");
		else if (*ret_n > 0)
			r = buf_puts(out, ",");
		if (r >= 0)
			r = put_answer(out, b->calls[i].answer);
		if (r >= 0 && b->sse)
			r = buf_puts(out, "\n\n");
		++*ret_n;
	}
	return r < 0 || !list ? r : buf_puts(out, "]");
}

static void reply(struct batch *b)
{
	_cleanup_buf_ struct buf out = BUF_INIT(REPLY_MAX);
	struct req *r = b->req;
	struct err e = ERR_INIT;
	size_t n = 0;

	if (put_all(b, &out, &n) < 0) {
		(void)err_set(&e, ERR_TOO_LARGE, EMSGSIZE, "payload_too_large",
			      "the answers are too large for one reply");
		req_reply_err(r, &e);
	} else if (n == 0) {
		req_reply_empty(r, 202); /* notifications and responses have no answer */
	} else {
		req_reply_buf(r, b->bad ? 400 : 200, b->sse ? "text/event-stream" : "application/json", &out);
	}
}

/* ---- tools/call ---- */

/* The body of a REST answer as a tool's result: as text, which every client shows, and as what it is. */
static struct json_object *tool_result(const char *p, size_t n, bool failed)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	struct json_object *item = json_object_new_object(), *parsed = n > 0 ? json_tokener_parse(p) : NULL;

	add_text(item, "type", "text");
	json_object_object_add(item, "text", json_object_new_string_len(p, (int)n));
	json_object_array_add(list, item);
	json_object_object_add(o, "content", list);
	if (json_object_is_type(parsed, json_type_object))
		json_object_object_add(o, "structuredContent", parsed);
	else
		json_object_put(parsed);
	json_object_object_add(o, "isError", json_object_new_boolean(failed));
	return o;
}

static void add_meta(struct json_object *result, struct call *c, const char *divergence)
{
	struct json_object *meta;

	if (!*divergence && !c->ignored)
		return;
	meta = json_object_new_object();
	if (*divergence)
		add_text(meta, "orkestr-emulator/divergence", divergence);
	if (c->ignored)
		json_object_object_add(meta, "orkestr-emulator/ignored-arguments", TAKE_PTR(c->ignored));
	json_object_object_add(result, "_meta", meta);
}

static void on_tool_done(void *arg, const struct subreq_answer *a)
{
	struct call *c = arg;
	struct batch *b = c->batch;
	struct json_object *result = tool_result(a->p, a->n, a->status >= 400);

	c->sub = NULL;
	add_meta(result, c, a->divergence);
	c->answer = result_answer(c->id, result);
	if (--b->running == 0)
		reply(b);
}

/* As the route's own 422. */
static struct json_object *invalid_result(struct validate_errors *errs)
{
	struct json_object *o = json_object_new_object(), *result;
	const char *s;

	json_object_object_add(o, "detail", TAKE_PTR(errs->list));
	add_text(o, "code", "validation_error");
	s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	result = tool_result(s ? s : "", s ? strlen(s) : 0, true);
	json_object_put(o);
	return result;
}

static void call_tool(struct call *c, const struct mcp_tool *t, struct json_object *arguments)
{
	struct mcp_call_request q = { .body = NULL };
	struct subreq_spec s = { .outer = c->batch->req, .target = q.target };
	struct validate_errors errs = { 0 };
	int r = mcp_tool_request(t, arguments, &q, &c->ignored, &errs);

	if (r >= 0 && errs.list) {
		c->answer = result_answer(c->id, invalid_result(&errs));
	} else if (r >= 0) {
		s.method = q.method;
		s.body = q.body;
		r = subreq_start(&s, on_tool_done, c, &c->sub);
		if (r >= 0)
			c->batch->running++;
	}
	if (r < 0)
		c->answer = error_answer(c->id, INTERNAL_ERROR, "out of memory");
	json_object_put(q.body);
}

/* NULL for what is no string, or one with a NUL inside. */
static const char *plain_string(struct json_object *v)
{
	const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;

	return s && strlen(s) == (size_t)json_object_get_string_len(v) ? s : NULL;
}

/* "what: name", whatever a client has put into the name. */
static struct json_object *unknown_answer(struct json_object *id, int code, const char *what, const char *name)
{
	char message[128];

	(void)snprintf(message, sizeof(message), "%s: %.64s", what, name);
	for (char *p = message; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			*p = '?';
	return error_answer(id, code, message);
}

static struct json_object *member(struct json_object *o, const char *name)
{
	struct json_object *v = NULL;

	return o && json_object_object_get_ex(o, name, &v) ? v : NULL;
}

static void handle_call(struct call *c, struct json_object *params)
{
	struct json_object *name = member(params, "name"), *arguments = member(params, "arguments");
	const struct mcp_tool *t;

	if (!json_object_is_type(name, json_type_string)) {
		c->answer = error_answer(c->id, INVALID_PARAMS, "params.name must be a tool's name");
		return;
	}
	if (arguments && !json_object_is_type(arguments, json_type_object)) {
		c->answer = error_answer(c->id, INVALID_PARAMS, "params.arguments must be an object");
		return;
	}
	t = plain_string(name) ? mcp_tool_find(plain_string(name)) : NULL;
	if (t)
		call_tool(c, t, arguments);
	else
		c->answer = unknown_answer(c->id, INVALID_PARAMS, "Unknown tool", json_object_get_string(name));
}

/* ---- the other methods ---- */

static bool version_known(const char *s)
{
	for (size_t i = 0; versions[i]; i++)
		if (strcmp(versions[i], s) == 0)
			return true;
	return false;
}

static void handle_initialize(struct call *c, struct json_object *params)
{
	struct json_object *o = json_object_new_object(), *capabilities = json_object_new_object();
	struct json_object *tools = json_object_new_object(), *info = json_object_new_object();
	struct json_object *wanted = member(params, "protocolVersion");
	const char *v = plain_string(wanted) ? plain_string(wanted) : "";

	/* One that is not known here gets the newest that is; the client then goes on or leaves. */
	add_text(o, "protocolVersion", version_known(v) ? v : versions[0]);
	json_object_object_add(tools, "listChanged", json_object_new_boolean(false));
	json_object_object_add(capabilities, "tools", tools);
	json_object_object_add(o, "capabilities", capabilities);
	add_text(info, "name", "orkestr-emulator");
	add_text(info, "title", "orkestr emulator");
	add_text(info, "version", ORKESTR_VERSION);
	json_object_object_add(o, "serverInfo", info);
	add_text(o, "instructions",
		 "Isolated Linux sandboxes: create_sandbox, then exec_command, write_file and read_file with its id, "
		 "and "
		 "terminate_sandbox at the end. A command that fails is no error of the tool: look at exit_code.");
	c->answer = result_answer(c->id, o);
}

static void handle_list(struct call *c, struct json_object *params)
{
	struct json_object *o;

	if (member(params, "cursor")) {
		c->answer = error_answer(c->id, INVALID_PARAMS, "there is one page only");
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "tools", mcp_tools_list());
	c->answer = result_answer(c->id, o);
}

static void handle_request(struct call *c, const char *method, struct json_object *params)
{
	if (strcmp(method, "tools/call") == 0) {
		handle_call(c, params);
	} else if (strcmp(method, "tools/list") == 0) {
		handle_list(c, params);
	} else if (strcmp(method, "ping") == 0) {
		c->answer = result_answer(c->id, json_object_new_object());
	} else if (strcmp(method, "initialize") != 0) {
		c->answer = unknown_answer(c->id, METHOD_NOT_FOUND, "Method not found", method);
	} else if (c->batch->is_array) {
		c->answer = error_answer(c->id, INVALID_REQUEST, "initialize must not be part of a batch");
	} else {
		handle_initialize(c, params);
	}
}

/* ---- messages ---- */

static void refuse(struct call *c, struct json_object *id, const char *why)
{
	c->batch->bad |= !c->batch->is_array;
	c->answer = error_answer(id, INVALID_REQUEST, why);
}

static bool is_id(struct json_object *id)
{
	return json_object_is_type(id, json_type_string) || json_object_is_type(id, json_type_int);
}

static void handle_message(struct call *c, struct json_object *m)
{
	struct json_object *version, *id, *method, *params;

	if (!json_object_is_type(m, json_type_object)) {
		refuse(c, NULL, "a message must be an object");
		return;
	}
	version = member(m, "jsonrpc");
	id = member(m, "id");
	method = member(m, "method");
	params = member(m, "params");
	if (!plain_string(version) || strcmp(plain_string(version), "2.0") != 0) {
		refuse(c, is_id(id) ? id : NULL, "jsonrpc must be \"2.0\"");
	} else if (!method && is_id(id) && (member(m, "result") || member(m, "error"))) {
		log_debug("mcp: a response to nothing that was asked");
	} else if (!json_object_is_type(method, json_type_string)) {
		refuse(c, is_id(id) ? id : NULL, "method must be a string");
	} else if (json_object_object_get_ex(m, "id", NULL) && !is_id(id)) {
		refuse(c, NULL, "id must be a string or an integer");
	} else if (id && params && !json_object_is_type(params, json_type_object)) {
		c->answer = error_answer(id, INVALID_PARAMS, "params must be an object");
	} else if (id) {
		c->id = id;
		handle_request(c, plain_string(method) ? plain_string(method) : "", params);
	}
	/* Without an id it is a notification: none of them has anything to say here. */
}

/* ---- the request ---- */

static bool origin_allowed(const char *origin)
{
	static const char *const hosts[] = { "localhost", "127.0.0.1", "[::1]" };
	const char *host = strstr(origin, "://");

	if (!host || (strncasecmp(origin, "http://", 7) != 0 && strncasecmp(origin, "https://", 8) != 0))
		return false;
	host += 3;
	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		size_t n = strlen(hosts[i]);

		if (strncasecmp(host, hosts[i], n) == 0 && (host[n] == '\0' || host[n] == ':'))
			return true;
	}
	return false;
}

static void reply_refused(struct req *r, unsigned int status, const char *code, const char *detail)
{
	struct json_object *o = json_object_new_object();

	add_text(o, "detail", detail);
	add_text(o, "code", code);
	req_reply_json(r, status, o);
}

/* False: answered. */
static bool check_headers(struct req *r, bool *ret_sse)
{
	const char *origin = req_header(r, "Origin"), *version = req_header(r, "MCP-Protocol-Version");
	const char *type = req_header(r, "Content-Type"), *accept = req_header(r, "Accept");
	bool json = !accept || req_accepts(r, "application/json") || req_accepts(r, "application/*") ||
		    req_accepts(r, "*/*");

	*ret_sse = !json && req_accepts(r, "text/event-stream");
	if (origin && !origin_allowed(origin))
		reply_refused(r, 403, "origin_not_allowed", "this Origin may not use the MCP endpoint");
	else if (type && strncasecmp(type, "application/json", strlen("application/json")) != 0)
		reply_refused(r, 415, "unsupported_media_type", "Content-Type must be application/json");
	else if (!json && !*ret_sse)
		reply_refused(r, 406, "not_acceptable", "Accept must name application/json and text/event-stream");
	else if (version && !version_known(version))
		reply_refused(r, 400, "unsupported_protocol_version",
			      "MCP-Protocol-Version must be 2025-11-25, 2025-06-18 or 2025-03-26");
	else
		return true;
	return false;
}

static void reply_rpc_error(struct req *r, int code, const char *message)
{
	req_reply_json(r, 400, error_answer(NULL, code, message));
}

static void run_all(struct batch *b)
{
	/* Held up by one, so that a call that is over at once does not answer for those behind it. */
	b->running = 1;
	for (size_t i = 0; i < b->n; i++) {
		b->calls[i].batch = b;
		handle_message(&b->calls[i], b->is_array ? json_object_array_get_idx(b->messages, i) : b->messages);
	}
	if (--b->running == 0)
		reply(b);
}

static void handle_mcp(struct req *r)
{
	struct json_object *messages;
	struct batch *b;
	size_t n = 1;
	bool sse;

	if (!check_headers(r, &sse))
		return;
	messages = req_json_value(r);
	if (!messages) {
		reply_rpc_error(r, PARSE_ERROR, "Parse error");
		return;
	}
	if (json_object_is_type(messages, json_type_array))
		n = json_object_array_length(messages);
	if (n < 1 || n > BATCH_MAX) {
		reply_rpc_error(r, INVALID_REQUEST, "a batch has 1 to 32 messages");
		return;
	}
	b = calloc(1, sizeof(*b));
	if (!b) {
		reply_rpc_error(r, INTERNAL_ERROR, "out of memory");
		return;
	}
	*b = (struct batch){ .req = r,
			     .messages = json_object_get(messages),
			     .is_array = json_object_is_type(messages, json_type_array),
			     .sse = sse,
			     .n = n };
	req_set_data(r, b, batch_free);
	run_all(b);
}

static const struct route routes[] = {
	{ "POST", "/api/sandboxes/mcp", SCOPE_ANY, BODY_MAX, handle_mcp, NULL, NULL },
	{ "POST", "/mcp", SCOPE_ANY, BODY_MAX, handle_mcp, NULL, NULL },
};

void api_add_mcp_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
