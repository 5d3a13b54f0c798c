#pragma once
/* A sandbox as the wire shows it (wire.md, "Create"): for every route that answers with one. */

#include <json-c/json.h>

#include "emulator/store.h"

struct json_object *sandbox_to_json(const struct sandbox_row *row);
