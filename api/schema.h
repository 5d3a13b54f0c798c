#pragma once
/* What routes take, as JSON Schema: from the tables they validate by, so that no description of them can
 * differ from what is done (MCP's tools, the OpenAPI document). */

#include <json-c/json.h>

#include "api/validate.h"

/* The tables of the routes themselves. */
struct schema_fields {
	const struct validate_field *fields;
	size_t n;
};
extern const struct schema_fields sandbox_create_fields;  /* POST /v1/sandboxes */
extern const struct schema_fields exec_request_fields;	  /* POST /v1/sandboxes/{id}/exec */
extern const struct schema_fields template_create_fields; /* POST /v1/templates */

/* One member's schema; an empty one for what the table leaves unchecked. NULL out of memory. */
struct json_object *schema_of_field(const struct validate_field *f);

const struct validate_field *schema_find(const struct schema_fields *t, const char *name); /* or NULL */

/* The whole body's. */
struct json_object *schema_of(const struct schema_fields *t);
