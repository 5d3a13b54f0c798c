/* MCP's tools as requests, and the schemas they are shown with; subrequests of every kind of answer are the
 * API suite's (test_mcp.py). */

#include <criterion/criterion.h>
#include <string.h>

#include "api/mcp_tools.h"
#include "api/schema.h"

static struct mcp_call_request call;
static struct validate_errors errs;
static struct json_object *ignored;

/* The request of a call; its target, or NULL if there were faults. */
static const char *target(const char *tool, const char *arguments)
{
	struct json_object *o = arguments ? json_tokener_parse(arguments) : NULL;
	const struct mcp_tool *t = mcp_tool_find(tool);

	cr_assert(t && (o || !arguments), "%s %s", tool, arguments);
	json_object_put(call.body);
	json_object_put(errs.list);
	json_object_put(ignored);
	call = (struct mcp_call_request){ .body = NULL };
	errs.list = ignored = NULL;
	cr_assert(mcp_tool_request(t, o, &call, &ignored, &errs) == 0);
	json_object_put(o);
	return errs.list ? NULL : call.target;
}

static const char *body(void)
{
	return call.body ? json_object_to_json_string_ext(call.body,
							  JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
			 : "";
}

Test(mcp, requests)
{
	static const struct {
		const char *tool, *arguments, *method, *target, *body;
	} t[] = {
		{ "get_sandbox_limits", NULL, "GET", "/v1/sandboxes/limits", "" },
		{ "list_sandboxes", "{}", "GET", "/v1/sandboxes", "" },
		{ "list_sandboxes", "{\"limit\":5,\"status\":\"a&b\",\"cursor\":null}", "GET",
		  "/v1/sandboxes?status=a%26b&limit=5", "" },
		{ "get_sandbox", "{\"sandbox_id\":\"sbx_1\"}", "GET", "/v1/sandboxes/sbx_1", "" },
		{ "get_sandbox", "{\"sandbox_id\":\"../x?y#z/\xc3\xa9\"}", "GET",
		  "/v1/sandboxes/..%2Fx%3Fy%23z%2F%C3%A9", "" },
		{ "terminate_sandbox", "{\"sandbox_id\":\"s\"}", "DELETE", "/v1/sandboxes/s", "" },
		{ "pause_sandbox", "{\"sandbox_id\":\"s\"}", "POST", "/v1/sandboxes/s/pause", "{}" },
		{ "create_sandbox", "{\"template\":\"t\",\"cpu\":0.5,\"x\":1}", "POST", "/v1/sandboxes",
		  "{\"template\":\"t\",\"cpu\":0.5}" },
		{ "exec_command", "{\"sandbox_id\":\"s\",\"command\":[\"a\"],\"stream\":true,\"background\":true}",
		  "POST", "/v1/sandboxes/s/exec", "{\"command\":[\"a\"]}" },
		{ "write_file", "{\"sandbox_id\":\"s\",\"path\":\"/p\",\"content\":\"c\"}", "POST",
		  "/v1/sandboxes/s/files", "{\"path\":\"/p\",\"content\":\"c\",\"encoding\":\"utf-8\"}" },
		{ "read_file", "{\"sandbox_id\":\"s\",\"path\":\"/a b\",\"encoding\":\"base64\"}", "GET",
		  "/v1/sandboxes/s/files?path=%2Fa%20b&encoding=base64", "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		const char *got = target(t[i].tool, t[i].arguments);

		cr_expect(got && strcmp(got, t[i].target) == 0, "%zu: %s", i, got ? got : "faults");
		cr_expect_str_eq(call.method, t[i].method, "%zu", i);
		cr_expect_str_eq(body(), t[i].body, "%zu", i);
	}
}

Test(mcp, what_is_ignored_is_named)
{
	cr_assert(target("exec_command", "{\"sandbox_id\":\"s\",\"command\":\"a\",\"stream\":true,\"zz\":1}"));
	cr_expect_str_eq(json_object_to_json_string_ext(ignored, JSON_C_TO_STRING_PLAIN), "[\"stream\",\"zz\"]");
}

Test(mcp, faults)
{
	static const struct {
		const char *tool, *arguments, *loc;
	} t[] = {
		{ "get_sandbox", NULL, "[\"path\",\"sandbox_id\"]" },
		{ "get_sandbox", "{\"sandbox_id\":\"\"}", "[\"path\",\"sandbox_id\"]" },
		{ "get_sandbox", "{\"sandbox_id\":7}", "[\"path\",\"sandbox_id\"]" },
		{ "get_sandbox", "{\"sandbox_id\":\"a\\u0000b\"}", "[\"path\",\"sandbox_id\"]" },
		{ "read_file", "{\"sandbox_id\":\"s\"}", "[\"query\",\"path\"]" },
		{ "read_file", "{\"sandbox_id\":\"s\",\"path\":{}}", "[\"query\",\"path\"]" },
		{ "read_file", "{\"sandbox_id\":\"s\",\"path\":\"a\\u0000b\"}", "[\"query\",\"path\"]" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct json_object *loc;

		cr_expect_null(target(t[i].tool, t[i].arguments), "%zu", i);
		cr_assert(json_object_object_get_ex(json_object_array_get_idx(errs.list, 0), "loc", &loc));
		cr_expect_str_eq(json_object_to_json_string_ext(loc, JSON_C_TO_STRING_PLAIN), t[i].loc, "%zu", i);
	}
}

Test(mcp, a_target_is_never_overrun)
{
	char arguments[9000];

	(void)snprintf(arguments, sizeof(arguments), "{\"sandbox_id\":\"%08500d\"}", 0);
	cr_expect_null(target("get_sandbox", arguments));
	(void)snprintf(arguments, sizeof(arguments), "{\"sandbox_id\":\"%08000d\"}", 0);
	cr_expect_not_null(target("get_sandbox", arguments));
}

Test(mcp, ten_tools)
{
	struct json_object *list = mcp_tools_list();

	cr_expect_eq(json_object_array_length(list), 10);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *tool = json_object_array_get_idx(list, i), *v;

		cr_assert(json_object_object_get_ex(tool, "name", &v));
		cr_expect_not_null(mcp_tool_find(json_object_get_string(v)));
	}
	json_object_put(list);
	cr_expect_null(mcp_tool_find("nonsense"));
	cr_expect_null(mcp_tool_find(""));
}

Test(schema, of_every_type)
{
	static const char *const choices[] = { "a", "b", NULL };
	static const struct {
		struct validate_field f;
		const char *want;
	} t[] = {
		{ { .name = "x", .type = VALIDATE_STRING, .min = 1, .max = 9 },
		  "{\"type\":\"string\",\"minLength\":1,\"maxLength\":9}" },
		{ { .name = "x", .type = VALIDATE_STRING, .choices = choices },
		  "{\"type\":\"string\",\"enum\":[\"a\",\"b\"]}" },
		{ { .name = "x", .type = VALIDATE_INT, .min = -1, .max = 2 },
		  "{\"type\":\"integer\",\"minimum\":-1,\"maximum\":2}" },
		{ { .name = "x", .type = VALIDATE_INT }, "{\"type\":\"integer\"}" },
		{ { .name = "x", .type = VALIDATE_NUMBER, .min = 0.01, .max = 4 },
		  "{\"type\":\"number\",\"minimum\":0.01,\"maximum\":4}" },
		{ { .name = "x", .type = VALIDATE_BOOL }, "{\"type\":\"boolean\"}" },
		{ { .name = "x", .type = VALIDATE_STRINGS },
		  "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}}" },
		{ { .name = "x", .type = VALIDATE_ENV },
		  "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"},\"propertyNames\":{\"pattern\":"
		  "\"^[A-Za-z_][A-Za-z0-9_]*$\"}}" },
		{ { .name = "x", .type = VALIDATE_ANY }, "{}" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct json_object *o = schema_of_field(&t[i].f);

		cr_expect_str_eq(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), t[i].want, "%zu", i);
		json_object_put(o);
	}
}
