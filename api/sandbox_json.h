#pragma once
/* A sandbox as the wire shows it (wire.md, "Create"): for every route that answers with one. */

#include <json-c/json.h>

#include "emulator/store.h"

/* Milliseconds since the epoch as ISO 8601; null for 0: not yet, or never. */
struct json_object *json_time_or_null(int64_t ms);
void json_add_text(struct json_object *o, const char *name, const char *s); /* NULL: null */
void json_add_time(struct json_object *o, const char *name, int64_t ms);    /* 0: null */

struct json_object *sandbox_to_json(const struct sandbox_row *row);
