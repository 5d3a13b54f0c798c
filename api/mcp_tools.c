/* Ten tools over the same routes (wire.md, "MCP"). A tool is a table row: its route, and which argument goes
 * where. Values are checked by the route; the schema that a model is shown is made of the route's own table. */

#include "api/mcp_tools.h"

#include <errno.h>
#include <string.h>

#include "api/schema.h"
#include "emulator/base/buf.h"

#define MAX_ARGS 12

enum place { IN_PATH, IN_QUERY, IN_BODY };

struct argument {
	const char *name;
	enum place place;
	bool required;
	const char *schema;    /* JSON text; NULL: by the route's table */
	const char *otherwise; /* a text for when it is not given, or NULL */
	const char *description;
};

struct mcp_tool {
	const char *name, *title, *description;
	const char *method, *path;
	const struct schema_fields *fields;
	bool read_only, destructive, idempotent, open_world;
	struct argument args[MAX_ARGS];
};

#define SANDBOX_ID                                                                                                     \
	{                                                                                                              \
		"sandbox_id", IN_PATH, true, "{\"type\":\"string\",\"minLength\":1}", NULL,                            \
			"The sandbox's id, as create_sandbox returned it"                                              \
	}
#define TEXT "{\"type\":\"string\"}"

static const struct mcp_tool tools[] = {
	{ .name = "create_sandbox",
	  .title = "Create a sandbox",
	  .description = "Starts an isolated Linux sandbox and returns it once commands can be run in it. It ends by "
			 "itself after timeout_seconds; end it with terminate_sandbox when you are done.",
	  .method = "POST",
	  .path = "/v1/sandboxes",
	  .fields = &sandbox_create_fields,
	  .open_world = true,
	  .args = { { "template", IN_BODY, true, NULL, NULL,
		      "python-3.12, python-3.12-bare, node-22, ubuntu-24.04, or a custom template's id (tmpl_...)" },
		    { "size", IN_BODY, false, NULL, NULL, "Instead of cpu and memory_mb" },
		    { "cpu", IN_BODY, false, NULL, NULL, "Number of CPUs" },
		    { "memory_mb", IN_BODY, false, NULL, NULL, "Memory in MB" },
		    { "network", IN_BODY, false, NULL, NULL,
		      "off: none (the default); restricted: package registries and the like; open: the internet" },
		    { "timeout_seconds", IN_BODY, false, NULL, NULL, "The sandbox's lifetime" },
		    { "env", IN_BODY, false, NULL, NULL, "Environment variables of all its commands" },
		    { "metadata", IN_BODY, false, NULL, NULL, "Your own labels" },
		    { "region", IN_BODY, false, NULL, NULL, "Where it runs" } } },
	{ .name = "list_sandboxes",
	  .title = "List sandboxes",
	  .description = "The account's sandboxes, the newest first.",
	  .method = "GET",
	  .path = "/v1/sandboxes",
	  .read_only = true,
	  .idempotent = true,
	  .args = { { "status", IN_QUERY, false, TEXT, NULL, "Only those, such as running, paused or terminated" },
		    { "limit", IN_QUERY, false, "{\"type\":\"integer\",\"minimum\":1,\"maximum\":200}", NULL,
		      "At most so many" },
		    { "cursor", IN_QUERY, false, TEXT, NULL, "next_cursor of the page before" } } },
	{ .name = "get_sandbox",
	  .title = "Get a sandbox",
	  .description = "A sandbox's status and what it was created with.",
	  .method = "GET",
	  .path = "/v1/sandboxes/",
	  .read_only = true,
	  .idempotent = true,
	  .args = { SANDBOX_ID } },
	{ .name = "terminate_sandbox",
	  .title = "Terminate a sandbox",
	  .description = "Ends a sandbox for good; its processes and files are gone.",
	  .method = "DELETE",
	  .path = "/v1/sandboxes/",
	  .destructive = true,
	  .idempotent = true,
	  .args = { SANDBOX_ID } },
	{ .name = "exec_command",
	  .title = "Run a command",
	  .description = "Runs a command in a sandbox, waits for its end, and returns stdout, stderr and exit_code.",
	  .method = "POST",
	  .path = "/v1/sandboxes//exec",
	  .fields = &exec_request_fields,
	  .destructive = true,
	  .open_world = true,
	  .args = { SANDBOX_ID,
		    { "command", IN_BODY, true,
		      "{\"anyOf\":[{\"type\":\"string\",\"minLength\":1},{\"type\":\"array\",\"items\":{\"type\":"
		      "\"string\"},\"minItems\":1}]}",
		      NULL, "A line for /bin/sh, or a program and its arguments" },
		    { "timeout_seconds", IN_BODY, false, NULL, NULL, "Then it is ended (default 60)" },
		    { "env", IN_BODY, false, NULL, NULL, "More environment variables" },
		    { "cwd", IN_BODY, false, NULL, NULL, "Default /workspace" },
		    { "stdin", IN_BODY, false, TEXT, NULL, "What it reads from its standard input" } } },
	{ .name = "write_file",
	  .title = "Write a file",
	  .description = "Writes a whole file in a sandbox; missing folders are made.",
	  .method = "POST",
	  .path = "/v1/sandboxes//files",
	  .destructive = true,
	  .idempotent = true,
	  .args = { SANDBOX_ID,
		    { "path", IN_BODY, true, TEXT, NULL, "Absolute, such as /workspace/main.py" },
		    { "content", IN_BODY, true, TEXT, NULL, "The file's text, or base64" },
		    { "encoding", IN_BODY, false, "{\"type\":\"string\",\"enum\":[\"utf-8\",\"base64\"]}", "utf-8",
		      "Of content; default utf-8" },
		    { "mode", IN_BODY, false, "{\"type\":\"string\",\"pattern\":\"^[0-7]{3,4}$\"}", NULL,
		      "Permission bits, such as 0755" } } },
	{ .name = "read_file",
	  .title = "Read a file or list a folder",
	  .description =
		  "A file's content, or a folder's entries (is_dir tells which). Content that is not UTF-8 comes "
		  "as base64, and encoding says so.",
	  .method = "GET",
	  .path = "/v1/sandboxes//files",
	  .read_only = true,
	  .idempotent = true,
	  .args = { SANDBOX_ID,
		    { "path", IN_QUERY, true, TEXT, NULL, "Absolute" },
		    { "encoding", IN_QUERY, false, "{\"type\":\"string\",\"enum\":[\"utf-8\",\"base64\"]}", "utf-8",
		      "Default utf-8" },
		    { "limit", IN_QUERY, false, "{\"type\":\"integer\",\"minimum\":1,\"maximum\":10000}", NULL,
		      "Of a folder: at most so many entries" },
		    { "after", IN_QUERY, false, TEXT, NULL, "Of a folder: next_after of the page before" } } },
	{ .name = "pause_sandbox",
	  .title = "Pause a sandbox",
	  .description = "Freezes a sandbox and keeps its disk; nothing runs, and its lifetime stands still.",
	  .method = "POST",
	  .path = "/v1/sandboxes//pause",
	  .idempotent = true,
	  .args = { SANDBOX_ID } },
	{ .name = "resume_sandbox",
	  .title = "Resume a sandbox",
	  .description = "Continues a paused sandbox.",
	  .method = "POST",
	  .path = "/v1/sandboxes//resume",
	  .idempotent = true,
	  .args = { SANDBOX_ID } },
	{ .name = "get_sandbox_limits",
	  .title = "Get the plan's limits",
	  .description = "What the plan allows: sizes, sandboxes at a time, usage of this month.",
	  .method = "GET",
	  .path = "/v1/sandboxes/limits",
	  .read_only = true,
	  .idempotent = true },
};

const struct mcp_tool *mcp_tool_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(tools); i++)
		if (strcmp(tools[i].name, name) == 0)
			return &tools[i];
	return NULL;
}

static const struct argument *argument_find(const struct mcp_tool *t, const char *name)
{
	for (const struct argument *a = t->args; a < t->args + MAX_ARGS && a->name; a++)
		if (strcmp(a->name, name) == 0)
			return a;
	return NULL;
}

/* ---- tools/list ---- */

static void add_text(struct json_object *o, const char *name, const char *s)
{
	json_object_object_add(o, name, json_object_new_string(s));
}

static struct json_object *input_schema(const struct mcp_tool *t)
{
	struct json_object *o = json_object_new_object(), *members = json_object_new_object();
	struct json_object *required = json_object_new_array();

	for (const struct argument *a = t->args; a < t->args + MAX_ARGS && a->name; a++) {
		const struct validate_field *f = t->fields && !a->schema ? schema_find(t->fields, a->name) : NULL;
		struct json_object *m = f ? schema_of_field(f) : json_tokener_parse(a->schema ? a->schema : "{}");

		add_text(m, "description", a->description);
		if (a->otherwise)
			add_text(m, "default", a->otherwise);
		json_object_object_add(members, a->name, m);
		if (a->required)
			json_object_array_add(required, json_object_new_string(a->name));
	}
	add_text(o, "type", "object");
	json_object_object_add(o, "properties", members);
	json_object_object_add(o, "required", required);
	return o;
}

static struct json_object *tool_object(const struct mcp_tool *t)
{
	struct json_object *o = json_object_new_object(), *hints = json_object_new_object();

	add_text(o, "name", t->name);
	add_text(o, "title", t->title);
	add_text(o, "description", t->description);
	json_object_object_add(o, "inputSchema", input_schema(t));
	add_text(hints, "title", t->title);
	json_object_object_add(hints, "readOnlyHint", json_object_new_boolean(t->read_only));
	json_object_object_add(hints, "destructiveHint", json_object_new_boolean(t->destructive));
	json_object_object_add(hints, "idempotentHint", json_object_new_boolean(t->idempotent));
	json_object_object_add(hints, "openWorldHint", json_object_new_boolean(t->open_world));
	json_object_object_add(o, "annotations", hints);
	return o;
}

struct json_object *mcp_tools_list(void)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < ARRAY_SIZE(tools); i++)
		json_object_array_add(list, tool_object(&tools[i]));
	return list;
}

/* ---- tools/call ---- */

static int add_encoded(struct buf *b, const char *s)
{
	int r = 0;

	for (; r >= 0 && *s; s++)
		if ((*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
		    strchr("-_.~", *s))
			r = buf_add(b, s, 1);
		else
			r = buf_printf(b, "%%%02X", (unsigned char)*s);
	return r;
}

/* A value as part of a URL: a string without NUL, a number, or true and false. NULL: none of these. */
static const char *url_text(struct json_object *v)
{
	const char *s;

	if (!json_object_is_type(v, json_type_string))
		return json_object_is_type(v, json_type_int) || json_object_is_type(v, json_type_boolean)
			       ? json_object_to_json_string(v)
			       : NULL;
	s = json_object_get_string(v);
	return strlen(s) == (size_t)json_object_get_string_len(v) ? s : NULL;
}

/* The place of the path's id is where a slash has nothing behind it, or another slash. */
static int put_path(struct buf *b, const char *path, const char *id)
{
	const char *at = strstr(path, "//");
	size_t n = at ? (size_t)(at - path) + 1 : strlen(path);
	int r = buf_add(b, path, n);

	if (r >= 0 && id)
		r = add_encoded(b, id);
	return r < 0 ? r : buf_puts(b, path + n);
}

static struct json_object *value_of(const struct argument *a, struct json_object *arguments)
{
	struct json_object *v = NULL;

	if (arguments && json_object_object_get_ex(arguments, a->name, &v) && v)
		return json_object_get(v);
	return a->otherwise ? json_object_new_string(a->otherwise) : NULL;
}

static void fault(struct validate_errors *errs, const struct argument *a, const char *type, const char *msg)
{
	static const char *const where[] = { [IN_PATH] = "path", [IN_QUERY] = "query", [IN_BODY] = "body" };

	validate_add(errs, where[a->place], a->name, -1, type, "%s", msg);
}

static int put_argument(const struct argument *a, struct json_object *v, struct buf *query, struct json_object *body,
			struct validate_errors *errs)
{
	const char *s = a->place == IN_BODY ? "" : url_text(v);
	int r;

	if (!s) {
		fault(errs, a, "string_type", "Input should be a valid string");
		return 0;
	}
	if (a->place == IN_BODY)
		return json_object_object_add(body, a->name, json_object_get(v)) < 0 ? -ENOMEM : 0;
	r = buf_printf(query, "%c%s=", query->len ? '&' : '?', a->name);
	return r < 0 ? r : add_encoded(query, s);
}

static struct json_object *ignored_names(const struct mcp_tool *t, struct json_object *arguments)
{
	struct json_object *list = NULL;

	if (!arguments)
		return NULL;
	json_object_object_foreach(arguments, key, value)
	{
		(void)value;
		if (argument_find(t, key) || (list && json_object_array_length(list) == MAX_ARGS))
			continue;
		list = list ? list : json_object_new_array();
		json_object_array_add(list, json_object_new_string_len(key, (int)strnlen(key, 64)));
	}
	return list;
}

int mcp_tool_request(const struct mcp_tool *t, struct json_object *arguments, struct mcp_call_request *ret,
		     struct json_object **ret_ignored, struct validate_errors *errs)
{
	_cleanup_buf_ struct buf target = BUF_INIT(sizeof(ret->target) - 1), query = BUF_INIT(sizeof(ret->target) - 1);
	struct json_object *body = json_object_new_object(), *id = NULL;
	int r = 0;

	for (const struct argument *a = t->args; r >= 0 && a < t->args + MAX_ARGS && a->name; a++) {
		struct json_object *v = value_of(a, arguments);

		/* What a body lacks its route says best. */
		if (!v && a->required && a->place != IN_BODY)
			fault(errs, a, "missing", "Field required");
		else if (v && a->place == IN_PATH &&
			 (!json_object_is_type(v, json_type_string) || !url_text(v) || !*url_text(v)))
			fault(errs, a, "string_type", "Input should be a sandbox's id");
		else if (v && a->place == IN_PATH)
			id = v;
		else if (v)
			r = put_argument(a, v, &query, body, errs);
		if (v != id)
			json_object_put(v);
	}
	if (r >= 0)
		r = put_path(&target, t->path, id ? json_object_get_string(id) : NULL);
	if (r >= 0 && query.len > 0)
		r = buf_puts(&target, query.p);
	json_object_put(id);
	if (r == -EMSGSIZE) {
		validate_add(errs, "query", "arguments", -1, "string_too_long", "The arguments are too long for a URL");
		r = 0;
	}
	if (r < 0) {
		json_object_put(body);
		return r;
	}
	ret->method = t->method;
	(void)snprintf(ret->target, sizeof(ret->target), "%s", target.p ? target.p : "");
	ret->body = strcmp(t->method, "POST") == 0 ? body : NULL;
	if (!ret->body)
		json_object_put(body);
	*ret_ignored = ignored_names(t, arguments);
	return 0;
}
