#pragma once
/* What a run came to, so far: sandboxes (how many, and which are alive), what they used, the slowest calls. */

#include "api/api.h"

struct json_object *api_summary(const struct api *api);
