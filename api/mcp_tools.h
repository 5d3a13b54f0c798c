#pragma once
/* MCP's tools: what a model may ask for, and which request each one is. */

#include <json-c/json.h>

#include "api/validate.h"

struct mcp_tool;

const struct mcp_tool *mcp_tool_find(const char *name); /* or NULL */

/* The array of tools/list. */
struct json_object *mcp_tools_list(void);

struct mcp_call_request {
	const char *method;
	char target[8192];	  /* percent-encoded */
	struct json_object *body; /* or NULL; the caller's to put */
};

/* Arguments (an object, or NULL for none) as the tool's request. What can't be one is collected in errs, as the
 * route itself would do. *ret_ignored: an array of the names that the tool does not have, or NULL; the
 * caller's to put. -ENOMEM. */
int mcp_tool_request(const struct mcp_tool *t, struct json_object *arguments, struct mcp_call_request *ret,
		     struct json_object **ret_ignored, struct validate_errors *errs);
