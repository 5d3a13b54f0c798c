/* A request as the journal keeps it. What is asked of the emulator itself by GET is no event: looking must not change
 * what is seen. */

#include <string.h>

#include "api/api.h"
#include "api/req.h"
#include "emulator/base/clock.h"

/* The sandbox it was about: of the path, or the one that was made. */
static const char *sandbox_of(const struct req *r)
{
	static const char made[] = "/v1/sandboxes/";

	if (r->route && strstr(r->route->pattern, "/sandboxes/{id}"))
		return req_param(r, "id");
	for (size_t i = 0; i < r->n_headers; i++)
		if (strcmp(r->headers[i].name, "Location") == 0 &&
		    strncmp(r->headers[i].value, made, sizeof(made) - 1) == 0)
			return r->headers[i].value + sizeof(made) - 1;
	return NULL;
}

void req_journal(const struct req *r)
{
	const struct api *api = r->http->api;

	if (!api || !api->journal || !r->method || !r->uri_raw)
		return;
	if (strncmp(r->uri_raw, "/_emulator/", 11) == 0 && strcmp(r->method, "GET") == 0)
		return;
	journal_add(api->journal, &(struct journal_event){ .type = JOURNAL_REQUEST,
							   .account = r->has_account ? r->account.id : NULL,
							   .sandbox = sandbox_of(r),
							   .request_id = r->id,
							   .method = r->method,
							   .path = r->uri_raw,
							   .route = r->route ? r->route->pattern : NULL,
							   .code = r->code[0] ? r->code : NULL,
							   .status = r->gone && !r->pull ? 0 : r->status,
							   .duration_us = clock_mono_us() - r->start_us,
							   .bytes_in = r->body_seen,
							   .bytes_out = r->out_bytes });
}
