#pragma once
/* Between routes_templates.c and templates_log.c. */

#include "api/http.h"

void templates_log_handle(struct req *r); /* GET /v1/templates/{id}/logs */
