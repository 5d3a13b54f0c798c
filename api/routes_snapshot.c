/* GET /_emulator/sandboxes/{id}: what the cloud's own answer has no place for. Of a paused sandbox what its snapshot
 * holds and what a resume without its processes would lose; of one that was resumed so, what was lost; of one that
 * ended by itself, why. */

#include "api/api.h"

#include "api/sandbox_json.h"

static void handle_sandbox(struct req *r)
{
	_cleanup_(sandbox_row_clear) struct sandbox_row row = { 0 };
	struct sandboxes *m = req_api(r)->sandboxes;
	struct json_object *manifest = NULL, *o;
	struct err e = ERR_INIT;
	bool lost = false;

	if (sandbox_get(m, req_account(r), req_param(r, "id"), &row, &e) < 0 ||
	    sandbox_snapshot(m, req_account(r), req_param(r, "id"), &manifest, &lost, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "sandbox", sandbox_to_json(&row));
	json_object_object_add(o, "snapshot", lost ? NULL : manifest);
	json_object_object_add(o, "memory_lost", json_object_new_boolean(lost));
	json_object_object_add(o, "lost", lost ? manifest : NULL);
	json_object_object_add(o, "failure", row.failure ? json_object_new_string(row.failure) : NULL);
	if (lost)
		req_divergence(r, "memory-lost");
	req_reply_json(r, 200, o);
}

static const struct route routes[] = {
	{ "GET", "/_emulator/sandboxes/{id}", SCOPE_READ, 0, handle_sandbox, NULL, NULL },
};

void api_add_snapshot_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
