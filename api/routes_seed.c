/* POST /_emulator/seed: see api/seed.h. */

#include <errno.h>

#include "api/seed.h"
#include "emulator/base/text.h"

struct pending {
	struct req *req; /* NULL: the client is gone; the seed goes on */
};

static void on_gone(void *arg)
{
	struct pending *p = arg;

	p->req = NULL;
}

static void on_seeded(void *arg, const struct err *e, struct json_object *made)
{
	_cleanup_free_ struct pending *p = arg;

	if (!p->req)
		return;
	req_on_gone(p->req, NULL, NULL);
	if (e)
		req_reply_err(p->req, e);
	else
		req_reply_json(p->req, 201, json_object_get(made));
}

static void handle_seed(struct req *r)
{
	const char *seed = req_query(r, "seed");
	struct json_object *o = req_json(r);
	struct err e = ERR_INIT;
	struct pending *p;
	struct seed *s;

	if (!o)
		return;
	p = calloc(1, sizeof(*p));
	if (!p || seed_parse(o, &s, &e) < 0) {
		if (!p)
			(void)err_errno(&e, ENOMEM, "the seed");
		free(p);
		req_reply_err(r, &e);
		return;
	}
	if (seed && text_parse_u64(seed, 0, INT64_MAX, &s->seed) < 0) {
		free(p);
		seed_free(s);
		req_reply_invalid(r, "query", "seed", "int_parsing", "Input should be a whole number");
		return;
	}
	s->has_seed |= seed != NULL;
	p->req = r;
	req_on_gone(r, on_gone, p);
	seed_run(req_api(r), s, on_seeded, p);
}

static const struct route routes[] = {
	{ "POST", "/_emulator/seed", SCOPE_WRITE, SEED_TEXT_MAX, handle_seed, NULL, NULL },
};

void api_add_seed_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
