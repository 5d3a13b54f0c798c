/* /_emulator/clock: the emulator's own, to make an hour or a month pass at once (emulator/vclock.h). */

#include "api/api.h"

#include <errno.h>

#include "api/validate.h"
#include "emulator/base/clock.h"

#define BODY_MAX 4096
#define ADVANCE_MAX_S (100.0 * 366 * 86400)

static void reply_clock(struct req *r)
{
	struct json_object *o = json_object_new_object();
	char iso[CLOCK_ISO_SIZE], offset[32];

	clock_iso(clock_now_ms(), iso);
	json_object_object_add(o, "now", json_object_new_string(iso));
	clock_iso(clock_real_ms(), iso);
	json_object_object_add(o, "host", json_object_new_string(iso));
	(void)snprintf(offset, sizeof(offset), "%.3f", (double)clock_offset_ms() / 1000);
	json_object_object_add(o, "offset_seconds", json_object_new_double_s((double)clock_offset_ms() / 1000, offset));
	req_reply_json(r, 200, o);
}

struct clock_body {
	double advance_s;
	const char *set;
	bool reset;
};

#define AT(member) offsetof(struct clock_body, member)
static const struct validate_field fields[] = {
	{ "advance_seconds", VALIDATE_NUMBER, .min = 0, .max = ADVANCE_MAX_S, .offset = AT(advance_s) },
	{ "set", VALIDATE_STRING, .min = 1, .max = CLOCK_ISO_SIZE, .offset = AT(set) },
	{ "reset", VALIDATE_BOOL, .offset = AT(reset) },
};
#undef AT

/* set is a moment then; false after a 422. */
static bool read_body(struct req *r, struct clock_body *ret, int64_t *ret_ms)
{
	struct clock_body b = { .advance_s = -1 };
	struct validate_errors errs = { 0 };
	struct json_object *o = req_json(r);

	if (!o)
		return false;
	validate_object(o, fields, ARRAY_SIZE(fields), &b, &errs);
	if (!errs.list && (b.advance_s >= 0) + (b.set != NULL) + b.reset != 1)
		validate_add(&errs, "body", "advance_seconds", -1, "value_error",
			     "Value error, give one of advance_seconds, set (ISO 8601) and reset (true)");
	if (b.set && clock_parse_iso(b.set, ret_ms) < 0)
		validate_add(&errs, "body", "set", -1, "value_error",
			     "Value error, wanted is a time as in 2026-05-01T00:00:00Z");
	if (validate_reply(r, &errs))
		return false;
	validate_unknown(r, o, fields, ARRAY_SIZE(fields));
	*ret = b;
	return true;
}

struct wait {
	struct req *req; /* NULL: the client is gone */
};

static void on_gone(void *arg)
{
	struct wait *w = arg;

	w->req = NULL;
}

static void on_settled(void *arg)
{
	_cleanup_free_ struct wait *w = arg;

	if (!w->req)
		return;
	req_on_gone(w->req, NULL, NULL);
	reply_clock(w->req);
}

/* Answered once what the new time has ended is gone, so that the next request finds it so. */
static void reply_when_settled(struct req *r)
{
	struct wait *w = calloc(1, sizeof(*w));
	struct err e = ERR_INIT;

	if (!w) {
		(void)err_errno(&e, ENOMEM, "the clock");
		req_reply_err(r, &e);
		return;
	}
	w->req = r;
	req_on_gone(r, on_gone, w);
	if (sandboxes_await_ends(req_api(r)->sandboxes, on_settled, w, &e) == 0)
		return;
	req_on_gone(r, NULL, NULL);
	free(w);
	req_reply_err(r, &e);
}

static int set_back(struct api *api, struct err *e)
{
	struct sandboxes_counts n = { 0 };

	sandboxes_count(api->sandboxes, &n);
	if (n.live > 0)
		return err_set(e, ERR_BUSY, EBUSY, "sandboxes_live",
			       "%u sandboxes live by the clock as it is; terminate them before it is set back", n.live);
	return vclock_reset(api->clock, e);
}

static void handle_get(struct req *r)
{
	reply_clock(r);
}

static void handle_post(struct req *r)
{
	struct api *api = req_api(r);
	struct err e = ERR_INIT;
	struct clock_body b;
	int64_t ms = 0;
	int k;

	if (!read_body(r, &b, &ms))
		return;
	if (b.reset)
		k = set_back(api, &e);
	else if (b.set)
		k = vclock_advance_to(api->clock, ms, &e);
	else
		k = vclock_advance_by(api->clock, (int64_t)(b.advance_s * 1000 + 0.5), &e);
	if (k < 0 && e.kind == ERR_INVALID)
		req_reply_invalid(r, "body", "set", "value_error", "Value error, %s", e.msg);
	else if (k < 0)
		req_reply_err(r, &e);
	else
		reply_when_settled(r);
}

static const struct route routes[] = {
	{ "GET", "/_emulator/clock", 0, 0, handle_get, NULL, NULL },
	{ "POST", "/_emulator/clock", SCOPE_WRITE, BODY_MAX, handle_post, NULL, NULL },
};

void api_add_clock_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
