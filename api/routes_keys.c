/* /_emulator/keys and /_emulator/rate-limit: the emulator's own, to make, change and revoke keys while it runs. A key is
 * told once, in the answer to the POST that made it; everything else names it by its id. */

#include "api/api.h"

#include <errno.h>
#include <string.h>

#include "api/sandbox_json.h"
#include "api/validate.h"
#include "emulator/base/clock.h"

#define BODY_MAX 8192
#define EXPIRES_MAX_S (100.0 * 366 * 86400)

static struct json_object *key_to_json(const struct key_info *k)
{
	struct json_object *o = json_object_new_object();
	bool expired = k->expires_ms && clock_now_ms() >= k->expires_ms;
	char rate[32];

	json_object_object_add(o, "id", json_object_new_string(k->id));
	json_object_object_add(o, "account", json_object_new_string(k->account));
	json_object_object_add(o, "label", k->label[0] ? json_object_new_string(k->label) : NULL);
	json_object_object_add(o, "plan", json_object_new_string(plan_get(k->plan)->name));
	json_object_object_add(o, "scopes",
			       json_object_new_string(k->scopes == SCOPE_READ	 ? "read"
						      : k->scopes == SCOPE_WRITE ? "write"
										 : "read,write"));
	json_object_object_add(o, "state",
			       json_object_new_string(k->revoked_ms ? "revoked"
						      : expired	    ? "expired"
								    : "active"));
	json_object_object_add(o, "created_at", json_time_or_null(k->created_ms));
	json_object_object_add(o, "expires_at", json_time_or_null(k->expires_ms));
	(void)snprintf(rate, sizeof(rate), "%u/%u", k->rate.requests, k->rate.seconds);
	json_object_object_add(o, "rate_limit", k->rate.requests ? json_object_new_string(rate) : NULL);
	return o;
}

/* What was wrong with a key is said as for any other field. */
static void reply_error(struct req *r, const struct err *e)
{
	if (e->kind == ERR_INVALID)
		req_reply_invalid(r, "body", "key", "value_error", "Value error, %s", e->msg);
	else
		req_reply_err(r, e);
}

/* ---- what is asked for ---- */

struct key_body {
	const char *key, *account, *label, *plan, *scopes, *expires_at, *rate;
	double expires_in_s;
	bool revoked, has_revoked;
};

static const char *const plans[] = { "free", "pro", "team", NULL };

#define AT(member) offsetof(struct key_body, member)
static const struct validate_field new_fields[] = {
	{ "key", VALIDATE_STRING, .min = 8, .max = 256, .offset = AT(key) },
	{ "account", VALIDATE_STRING, .min = 1, .max = 32, .offset = AT(account) },
	{ "label", VALIDATE_STRING, .max = KEY_LABEL_SIZE - 1, .offset = AT(label) },
	{ "plan", VALIDATE_STRING, .choices = plans, .offset = AT(plan) },
	{ "scopes", VALIDATE_STRING, .min = 1, .max = 16, .offset = AT(scopes) },
	{ "expires_at", VALIDATE_STRING, .min = 1, .max = CLOCK_ISO_SIZE, .offset = AT(expires_at) },
	{ "expires_in_seconds", VALIDATE_NUMBER, .min = 0, .max = EXPIRES_MAX_S, .offset = AT(expires_in_s) },
	{ "rate_limit", VALIDATE_STRING, .min = 1, .max = 32, .offset = AT(rate) },
};
static const struct validate_field change_fields[] = {
	{ "plan", VALIDATE_STRING, .choices = plans, .offset = AT(plan) },
	{ "scopes", VALIDATE_STRING, .min = 1, .max = 16, .offset = AT(scopes) },
	{ "expires_at", VALIDATE_STRING, .min = 1, .max = CLOCK_ISO_SIZE, .offset = AT(expires_at) },
	{ "expires_in_seconds", VALIDATE_NUMBER, .min = 0, .max = EXPIRES_MAX_S, .offset = AT(expires_in_s) },
	{ "rate_limit", VALIDATE_STRING, .min = 1, .max = 32, .offset = AT(rate) },
	{ "revoked", VALIDATE_BOOL, .offset = AT(revoked) },
};
#undef AT

struct key_values {
	enum plan_id plan;
	unsigned int scopes;
	int64_t expires_ms;
	struct rate_limit rate;
};

/* The words of a body that validate_object has checked for their types. */
static void parse_values(const struct key_body *b, struct key_values *v, struct validate_errors *errs)
{
	if (b->plan)
		(void)plan_parse(b->plan, &v->plan);
	if (b->scopes && account_scopes_parse(b->scopes, &v->scopes) < 0)
		validate_add(errs, "body", "scopes", -1, "value_error",
			     "Value error, wanted is read, write or read,write");
	if (b->expires_at && b->expires_in_s >= 0)
		validate_add(errs, "body", "expires_at", -1, "value_error",
			     "Value error, give either expires_at or expires_in_seconds");
	if (b->expires_in_s >= 0)
		v->expires_ms = clock_now_ms() + (int64_t)(b->expires_in_s * 1000);
	else if (b->expires_at && strcmp(b->expires_at, "never") != 0 &&
		 clock_parse_iso(b->expires_at, &v->expires_ms) < 0)
		validate_add(errs, "body", "expires_at", -1, "value_error",
			     "Value error, wanted is a time as in 2026-05-01T00:00:00Z, or never");
	if (b->rate && strcmp(b->rate, "none") != 0 && rate_limit_parse(b->rate, &v->rate) < 0)
		validate_add(errs, "body", "rate_limit", -1, "value_error",
			     "Value error, wanted is REQUESTS/SECONDS as in 60/60, or none");
}

static bool read_body(struct req *r, const struct validate_field *fields, size_t n, struct key_body *b,
		      struct key_values *v)
{
	struct validate_errors errs = { 0 };
	struct json_object *o = req_json(r);

	if (!o)
		return false;
	b->expires_in_s = -1;
	validate_object(o, fields, n, b, &errs);
	b->has_revoked = json_object_object_get(o, "revoked") != NULL;
	if (!errs.list)
		parse_values(b, v, &errs);
	if (validate_reply(r, &errs))
		return false;
	validate_unknown(r, o, fields, n);
	return true;
}

/* ---- the routes ---- */

static int add_key(void *arg, const struct key_info *k)
{
	return json_object_array_add(arg, key_to_json(k)) < 0 ? -ENOMEM : 0;
}

static void handle_list(struct req *r)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();

	(void)accounts_each_key(req_api(r)->accounts, add_key, list);
	json_object_object_add(o, "keys", list);
	req_reply_json(r, 200, o);
}

static void handle_add(struct req *r)
{
	struct key_values v = { .plan = PLAN_TEAM };
	struct key_body b = { 0 };
	char key[ACCOUNT_KEY_MAX];
	struct err e = ERR_INIT;
	struct json_object *o;
	struct key_spec s;
	struct key_info k;

	if (!read_body(r, new_fields, ARRAY_SIZE(new_fields), &b, &v))
		return;
	s = (struct key_spec){ .key = b.key,
			       .account = b.account,
			       .label = b.label,
			       .plan = v.plan,
			       .scopes = v.scopes,
			       .expires_ms = v.expires_ms,
			       .rate = v.rate };
	if (accounts_key_add(req_api(r)->accounts, &s, &k, key, &e) < 0) {
		reply_error(r, &e);
		return;
	}
	o = key_to_json(&k);
	json_object_object_add(o, "key", json_object_new_string(key));
	explicit_bzero(key, sizeof(key));
	req_reply_json(r, 201, o);
}

static void reply_key(struct req *r, int k, const struct key_info *info, const struct err *e)
{
	if (k < 0)
		reply_error(r, e);
	else
		req_reply_json(r, 200, key_to_json(info));
}

static void handle_get(struct req *r)
{
	struct err e = ERR_INIT;
	struct key_info k;
	int n = accounts_key_get(req_api(r)->accounts, req_param(r, "id"), &k, &e);

	reply_key(r, n, &k, &e);
}

static void handle_change(struct req *r)
{
	struct key_body b = { 0 };
	struct key_values v = { 0 };
	struct err e = ERR_INIT;
	struct key_change c;
	struct key_info k;
	int n;

	if (!read_body(r, change_fields, ARRAY_SIZE(change_fields), &b, &v))
		return;
	c = (struct key_change){ .plan = b.plan ? &v.plan : NULL,
				 .scopes = b.scopes ? &v.scopes : NULL,
				 .expires_ms = b.expires_at || b.expires_in_s >= 0 ? &v.expires_ms : NULL,
				 .rate = b.rate ? &v.rate : NULL,
				 .revoked = b.has_revoked ? &b.revoked : NULL };
	n = accounts_key_change(req_api(r)->accounts, req_param(r, "id"), &c, &k, &e);
	reply_key(r, n, &k, &e);
}

static void handle_revoke(struct req *r)
{
	static const bool yes = true;
	struct err e = ERR_INIT;
	struct key_info k;
	int n = accounts_key_change(req_api(r)->accounts, req_param(r, "id"), &(struct key_change){ .revoked = &yes },
				    &k, &e);

	reply_key(r, n, &k, &e);
}

/* ---- rate limits ---- */

static void reply_rate(struct req *r)
{
	struct json_object *o = json_object_new_object();
	struct rate_limit l = { 0 };
	enum rate_mode mode = ratelimits_get(req_api(r)->limits, &l);
	char text[32];

	(void)snprintf(text, sizeof(text), "%u/%u", l.requests, l.seconds);
	json_object_object_add(o, "rate_limit",
			       json_object_new_string(mode == RATE_OFF	  ? "off"
						      : mode == RATE_PLAN ? "plan"
									  : text));
	req_reply_json(r, 200, o);
}

struct rate_body {
	const char *rate;
};

static const struct validate_field rate_fields[] = {
	{ "rate_limit", VALIDATE_STRING, .required = true, .min = 1, .max = 32,
	  .offset = offsetof(struct rate_body, rate) },
};

static void handle_set_rate(struct req *r)
{
	struct validate_errors errs = { 0 };
	struct json_object *o = req_json(r);
	enum rate_mode mode = RATE_FIXED;
	struct rate_body b = { 0 };
	struct rate_limit l = { 0 };

	if (!o)
		return;
	validate_object(o, rate_fields, ARRAY_SIZE(rate_fields), &b, &errs);
	if (b.rate && strcmp(b.rate, "off") == 0)
		mode = RATE_OFF;
	else if (b.rate && strcmp(b.rate, "plan") == 0)
		mode = RATE_PLAN;
	else if (b.rate && rate_limit_parse(b.rate, &l) < 0)
		validate_add(&errs, "body", "rate_limit", -1, "value_error",
			     "Value error, wanted is off, plan, or REQUESTS/SECONDS as in 60/60");
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, rate_fields, ARRAY_SIZE(rate_fields));
	ratelimits_set(req_api(r)->limits, mode, &l);
	reply_rate(r);
}

static void handle_rate(struct req *r)
{
	reply_rate(r);
}

static const struct route routes[] = {
	{ "GET", "/_emulator/keys", SCOPE_READ, 0, handle_list, NULL, NULL },
	{ "POST", "/_emulator/keys", SCOPE_WRITE, BODY_MAX, handle_add, NULL, NULL },
	{ "GET", "/_emulator/keys/{id}", SCOPE_READ, 0, handle_get, NULL, NULL },
	{ "PATCH", "/_emulator/keys/{id}", SCOPE_WRITE, BODY_MAX, handle_change, NULL, NULL },
	{ "DELETE", "/_emulator/keys/{id}", SCOPE_WRITE, 0, handle_revoke, NULL, NULL },
	{ "GET", "/_emulator/rate-limit", SCOPE_READ, 0, handle_rate, NULL, NULL },
	{ "PUT", "/_emulator/rate-limit", SCOPE_WRITE, BODY_MAX, handle_set_rate, NULL, NULL },
};

void api_add_key_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
