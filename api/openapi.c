/* GET /openapi.json: the OpenAPI document of what this program serves, made of the route tables themselves, so
 * that no route can be missing. Bodies are described by the tables that validate them (schema.h). */

#include "api/api.h"

#include <ctype.h>
#include <string.h>

#include "api/req.h"
#include "api/schema.h"

struct doc {
	const char *method, *pattern;
	const char *summary;
	const char *status; /* of the answer when it went well */
	const struct schema_fields *body;
	const char *query; /* names, with spaces between; a ! before one that must be there */
};

static const struct doc docs[] = {
	{ "POST", "/v1/sandboxes", "Create a sandbox", "201", &sandbox_create_fields, NULL },
	{ "GET", "/v1/sandboxes", "List sandboxes", "200", NULL, "status limit cursor" },
	{ "GET", "/v1/sandboxes/{id}", "Get a sandbox", "200", NULL, NULL },
	{ "DELETE", "/v1/sandboxes/{id}", "Terminate a sandbox", "200", NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/pause", "Pause a sandbox", "200", NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/resume", "Resume a sandbox", "200", NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}/metrics", "A sandbox's metrics", "200", NULL, "since" },
	{ "GET", "/v1/sandboxes/limits", "The plan's limits", "200", NULL, NULL },
	{ "GET", "/v1/limits", "The plan's limits", "200", NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/exec", "Run a command", "200", &exec_request_fields, NULL },
	{ "POST", "/v1/sandboxes/{id}/exec/stream", "Run a command, its output streamed", "200", &exec_request_fields,
	  NULL },
	{ "GET", "/v1/sandboxes/{id}/exec", "List a sandbox's commands", "200", NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}/files", "Read a file or list a folder", "200", NULL,
	  "!path encoding limit after" },
	{ "POST", "/v1/sandboxes/{id}/files", "Write a file", "201", NULL, NULL },
	{ "PUT", "/v1/sandboxes/{id}/files", "Write a file's bytes", "201", NULL, "!path mode" },
	{ "DELETE", "/v1/sandboxes/{id}/files", "Delete a file or a folder", "204", NULL, "!path recursive" },
	{ "POST", "/v1/templates", "Build a custom template", "202", &template_create_fields, NULL },
	{ "GET", "/v1/templates", "List custom templates", "200", NULL, "status" },
	{ "GET", "/v1/templates/{id}", "Get a custom template", "200", NULL, NULL },
	{ "DELETE", "/v1/templates/{id}", "Delete a custom template", "204", NULL, NULL },
	{ "GET", "/v1/templates/{id}/logs", "A build's log", "200", NULL, "after" },
	{ "POST", "/mcp", "Model Context Protocol, Streamable HTTP", "200", NULL, NULL },
	{ "POST", "/api/sandboxes/mcp", "Model Context Protocol, Streamable HTTP", "200", NULL, NULL },
	{ "GET", "/openapi.json", "This document", "200", NULL, NULL },
};

static const struct doc *find(const struct route *r)
{
	for (size_t i = 0; i < ARRAY_SIZE(docs); i++)
		if (strcmp(docs[i].method, r->method) == 0 && strcmp(docs[i].pattern, r->pattern) == 0)
			return &docs[i];
	return NULL;
}

static void add_text(struct json_object *o, const char *name, const char *s)
{
	json_object_object_add(o, name, json_object_new_string(s));
}

static struct json_object *reference(const char *schema)
{
	struct json_object *o = json_object_new_object();
	char text[64];

	(void)snprintf(text, sizeof(text), "#/components/schemas/%s", schema);
	add_text(o, "$ref", text);
	return o;
}

/* {"application/json": {"schema": schema}}; takes schema. */
static struct json_object *json_content(struct json_object *schema)
{
	struct json_object *o = json_object_new_object(), *type = json_object_new_object();

	json_object_object_add(type, "schema", schema);
	json_object_object_add(o, "application/json", type);
	return o;
}

/* ---- one operation ---- */

static void add_parameter(struct json_object *list, const char *name, size_t n, const char *in, bool required)
{
	struct json_object *o = json_object_new_object(), *schema = json_object_new_object();

	json_object_object_add(o, "name", json_object_new_string_len(name, (int)n));
	add_text(o, "in", in);
	json_object_object_add(o, "required", json_object_new_boolean(required));
	add_text(schema, "type", "string");
	json_object_object_add(o, "schema", schema);
	json_object_array_add(list, o);
}

static struct json_object *parameters(const struct route *r, const struct doc *d)
{
	struct json_object *list = json_object_new_array();

	for (const char *p = r->pattern; (p = strchr(p, '{')); p++)
		add_parameter(list, p + 1, strcspn(p + 1, "}"), "path", true);
	for (const char *q = d && d->query ? d->query : ""; *q;) {
		bool required = *q == '!';
		size_t n;

		q += required;
		n = strcspn(q, " ");
		add_parameter(list, q, n, "query", required);
		q += n + (q[n] == ' ');
	}
	return list;
}

static struct json_object *response(const char *description, struct json_object *content)
{
	struct json_object *o = json_object_new_object();

	add_text(o, "description", description);
	if (content)
		json_object_object_add(o, "content", content);
	return o;
}

static struct json_object *responses(const struct doc *d)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, d ? d->status : "2XX", response("It went well", NULL));
	if (d && (d->body || d->query))
		json_object_object_add(o, "422",
				       response("A field is wrong", json_content(reference("HTTPValidationError"))));
	json_object_object_add(o, "default", response("An error", json_content(reference("Error"))));
	return o;
}

/* "get_v1_sandboxes_id": unique, as method and pattern are. */
static void operation_id(const struct route *r, char *ret, size_t cap)
{
	size_t n = (size_t)snprintf(ret, cap, "%s%s", r->method, r->pattern);
	size_t to = 0;

	for (size_t i = 0; i < MIN(n, cap - 1); i++) {
		char c = (char)tolower((unsigned char)ret[i]);

		if (isalnum((unsigned char)c))
			ret[to++] = c;
		else if (to > 0 && ret[to - 1] != '_' && c != '}')
			ret[to++] = '_';
	}
	ret[to] = '\0';
}

static void add_security(struct json_object *o, unsigned int scope)
{
	struct json_object *list = json_object_new_array(), *one = json_object_new_object();

	/* The bearer scheme has no scopes of its own: what the token needs is told beside it. */
	if (scope == SCOPE_READ || scope == SCOPE_WRITE)
		add_text(o, "x-scope", scope == SCOPE_WRITE ? "sandboxes:write" : "sandboxes:read");
	json_object_object_add(one, "bearer", json_object_new_array());
	if (scope != 0)
		json_object_array_add(list, one);
	else
		json_object_put(one);
	json_object_object_add(o, "security", list);
}

static struct json_object *operation(const struct route *r)
{
	const struct doc *d = find(r);
	struct json_object *o = json_object_new_object(), *tags = json_object_new_array(), *body;
	bool own = strncmp(r->pattern, "/_emulator/", 11) == 0;
	char id[128], summary[160];

	operation_id(r, id, sizeof(id));
	(void)snprintf(summary, sizeof(summary), "%s %s", r->method, r->pattern);
	add_text(o, "operationId", id);
	add_text(o, "summary", d ? d->summary : summary);
	json_object_array_add(tags, json_object_new_string(own ? "emulator" : "cloud"));
	json_object_object_add(o, "tags", tags);
	json_object_object_add(o, "parameters", parameters(r, d));
	if (d && d->body) {
		body = json_object_new_object();
		json_object_object_add(body, "required", json_object_new_boolean(true));
		json_object_object_add(body, "content", json_content(schema_of(d->body)));
		json_object_object_add(o, "requestBody", body);
	}
	json_object_object_add(o, "responses", responses(d));
	add_security(o, r->scope);
	return o;
}

/* ---- the document ---- */

static struct json_object *paths(const struct http *h)
{
	struct json_object *o = json_object_new_object();

	for (size_t t = 0; t < h->n_tables; t++)
		for (size_t i = 0; i < h->tables[t].n; i++) {
			const struct route *r = &h->tables[t].routes[i];
			struct json_object *path;
			char method[16];
			size_t n = 0;

			for (; r->method[n] && n < sizeof(method) - 1; n++)
				method[n] = (char)tolower((unsigned char)r->method[n]);
			method[n] = '\0';
			if (!json_object_object_get_ex(o, r->pattern, &path)) {
				path = json_object_new_object();
				json_object_object_add(o, r->pattern, path);
			}
			json_object_object_add(path, method, operation(r));
		}
	return o;
}

static struct json_object *components(void)
{
	return json_tokener_parse(
		"{\"securitySchemes\":{\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\"}},\"schemas\":{"
		"\"Error\":{\"type\":\"object\",\"required\":[\"detail\"],\"properties\":{"
		"\"detail\":{\"type\":\"string\"},\"code\":{\"type\":\"string\",\"description\":\"for machines\"}}},"
		"\"HTTPValidationError\":{\"type\":\"object\",\"required\":[\"detail\",\"code\"],\"properties\":{"
		"\"code\":{\"const\":\"validation_error\"},\"detail\":{\"type\":\"array\",\"items\":{\"type\":"
		"\"object\","
		"\"properties\":{\"loc\":{\"type\":\"array\",\"items\":{\"type\":[\"string\",\"integer\"]}},"
		"\"msg\":{\"type\":\"string\"},\"type\":{\"type\":\"string\"}}}}}}}}");
}

static void handle_openapi(struct req *r)
{
	struct json_object *o = json_object_new_object(), *info = json_object_new_object();

	add_text(o, "openapi", "3.1.0");
	add_text(info, "title", "orkestr-emulator");
	add_text(info, "version", ORKESTR_VERSION);
	add_text(info, "description",
		 "What this emulator serves. Which of it the cloud documents and which is a reading of ours is in the "
		 "README's section Fidelity; what begins with /_emulator/ is the emulator's own.");
	json_object_object_add(o, "info", info);
	json_object_object_add(o, "paths", paths(r->http));
	json_object_object_add(o, "components", components());
	req_reply_json(r, 200, o);
}

static const struct route routes[] = {
	{ "GET", "/openapi.json", 0, 0, handle_openapi, NULL, NULL },
};

void api_add_openapi_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
