/* Custom templates on the wire (wire.md, "Custom templates"): made, listed, deleted. Their build's log is in
 * templates_log.c. */

#include "api/api.h"

#include <errno.h>
#include <string.h>

#include "api/routes_templates.h"
#include "api/sandbox_json.h"
#include "api/schema.h"
#include "api/validate.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "emulator/tmpl.h"
#include "rootfs/template.h"

#define BODY_MAX (6u << 20) /* all steps, each byte escaped */

struct template_body {
	const char *name, *base, *network;
	struct json_object *steps;
	int64_t timeout_s;
};

static const char *const network_names[] = { "off", "restricted", "open", NULL };

#define AT(member) offsetof(struct template_body, member)

static const struct validate_field fields[] = {
	{ "name", VALIDATE_STRING, .required = true, .min = 1, .max = 128, .offset = AT(name) },
	{ "base", VALIDATE_STRING, .required = true, .min = 1, .max = 128, .offset = AT(base) },
	{ "steps", VALIDATE_ANY, .required = true, .offset = AT(steps) },
	{ "network", VALIDATE_STRING, .choices = network_names, .offset = AT(network) },
	{ "timeout_seconds", VALIDATE_INT, .min = 10, .max = TMPL_MAX_TIMEOUT_S, .offset = AT(timeout_s) },
};

#undef AT

const struct schema_fields template_create_fields = { fields, ARRAY_SIZE(fields) };

/* ---- create ---- */

static void check_steps(struct json_object *steps, struct validate_errors *errs)
{
	size_t n;

	if (!json_object_is_type(steps, json_type_array)) {
		validate_add(errs, "body", "steps", -1, "list_type", "Input should be a valid list");
		return;
	}
	n = json_object_array_length(steps);
	if (n < 1 || n > TMPL_MAX_STEPS)
		validate_add(errs, "body", "steps", -1, n < 1 ? "too_short" : "too_long",
			     "List should have 1 to %d items", TMPL_MAX_STEPS);
	for (size_t i = 0; i < MIN(n, (size_t)TMPL_MAX_STEPS); i++) {
		struct json_object *v = json_object_array_get_idx(steps, i);
		const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
		size_t len = s ? (size_t)json_object_get_string_len(v) : 0;

		if (!s)
			validate_add(errs, "body", "steps", (int)i, "string_type", "Input should be a valid string");
		else if (strlen(s) != len)
			validate_add(errs, "body", "steps", (int)i, "value_error",
				     "Value error, a NUL character is not allowed");
		else if (strspn(s, " \t\r\n") == len)
			validate_add(errs, "body", "steps", (int)i, "string_too_short",
				     "String should have at least 1 character");
		else if (len > TMPL_MAX_STEP)
			validate_add(errs, "body", "steps", (int)i, "string_too_long",
				     "String should have at most %u bytes", TMPL_MAX_STEP);
	}
}

static bool is_printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static bool read_body(struct req *r, struct template_body *b)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { 0 };

	if (!o)
		return false;
	validate_object(o, fields, ARRAY_SIZE(fields), b, &errs);
	if (b->steps)
		check_steps(b->steps, &errs);
	if (b->name && !is_printable(b->name))
		validate_add(&errs, "body", "name", -1, "value_error",
			     "Value error, control characters are not allowed");
	if (validate_reply(r, &errs))
		return false;
	validate_unknown(r, o, fields, ARRAY_SIZE(fields));
	return true;
}

static void add_error(struct json_object *o, const struct tmpl_row *row)
{
	struct json_object *error = NULL;

	if (row->status == TMPL_FAILED) {
		error = json_object_new_object();
		json_add_text(error, "code", row->error_code);
		json_add_text(error, "message", row->error ? row->error : "");
	}
	json_object_object_add(o, "error", error);
	json_object_object_add(o, "failed_step", row->failed_step ? json_tokener_parse(row->failed_step) : NULL);
}

/* What it really is: its base may only stand in for what the name says. */
static void add_facts(struct json_object *o, const struct api *api, const struct tmpl_row *row)
{
	struct template *t = NULL;

	if (row->status == TMPL_READY)
		(void)template_load(api->state_fd, row->id, &t, NULL);
	json_add_text(o, "digest", row->digest[0] ? row->digest : NULL);
	json_add_text(o, "distribution", t ? t->distribution : NULL);
	json_add_text(o, "interpreter", t ? t->interpreter : NULL);
	json_add_text(o, "stand_in", t ? t->stand_in : NULL);
	json_object_object_add(o, "size_bytes", t ? json_object_new_uint64(row->size_bytes) : NULL);
	json_object_object_add(o, "layer_bytes", t ? json_object_new_uint64(row->layer_bytes) : NULL);
	template_free(t);
}

static struct json_object *template_object(const struct api *api, const struct tmpl_row *row)
{
	struct json_object *o = json_object_new_object();
	unsigned int step = tmpl_step(api->tmpls, row->id);

	json_add_text(o, "id", row->id);
	json_add_text(o, "name", row->name);
	json_add_text(o, "base", row->base);
	json_add_text(o, "status", tmpl_status_name(row->status));
	json_object_object_add(o, "steps", json_tokener_parse(row->steps));
	json_object_object_add(o, "current_step", step ? json_object_new_int64(step) : NULL);
	json_add_text(o, "network", row->network);
	json_object_object_add(o, "timeout_seconds", json_object_new_int64(row->timeout_s));
	json_add_time(o, "created_at", row->created_ms);
	json_add_time(o, "ready_at", row->status == TMPL_READY ? row->ended_ms : 0);
	json_add_time(o, "failed_at", row->status == TMPL_FAILED ? row->ended_ms : 0);
	add_error(o, row);
	add_facts(o, api, row);
	return o;
}

static void handle_create(struct req *r)
{
	struct template_body b = { .network = "restricted" };
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	struct err e = ERR_INIT;
	struct tmpl_spec spec;
	char location[64];

	if (!read_body(r, &b))
		return;
	spec = (struct tmpl_spec){
		.name = b.name,
		.base = b.base,
		.network = b.network,
		.timeout_s = (uint32_t)b.timeout_s,
		.steps = json_object_to_json_string_ext(b.steps,
							JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
	};
	if (tmpl_create(req_api(r)->tmpls, req_account(r), &spec, &row, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	(void)text_format(location, sizeof(location), "/v1/templates/%s", row.id);
	req_add_header(r, "Location", location);
	req_reply_json(r, 202, template_object(req_api(r), &row));
}

/* ---- get, list, delete ---- */

static void handle_get(struct req *r)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	struct err e = ERR_INIT;

	if (tmpl_get(req_api(r)->tmpls, req_account(r), req_param(r, "id"), &row, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	req_reply_json(r, 200, template_object(req_api(r), &row));
}

struct listing {
	const struct api *api;
	struct json_object *list;
	const enum tmpl_status *status; /* NULL: any */
};

static int add_to_list(void *arg, const struct tmpl_row *row)
{
	struct listing *l = arg;

	if (l->status && *l->status != row->status)
		return 0;
	return json_object_array_add(l->list, template_object(l->api, row)) < 0 ? -ENOMEM : 0;
}

static void handle_list(struct req *r)
{
	const char *s = req_query(r, "status");
	struct listing l = { .api = req_api(r) };
	enum tmpl_status status;
	struct json_object *o;
	struct err e = ERR_INIT;

	if (s && *s) {
		if (tmpl_status_parse(s, &status) < 0) {
			req_reply_invalid(r, "query", "status", "literal_error",
					  "Input should be 'building', 'ready' or 'failed'");
			return;
		}
		l.status = &status;
	}
	l.list = json_object_new_array();
	if (tmpl_each(req_api(r)->tmpls, req_account(r), add_to_list, &l, &e) < 0) {
		json_object_put(l.list);
		req_reply_err(r, &e);
		return;
	}
	/* A plan's cap keeps it on one page. */
	o = json_object_new_object();
	json_object_object_add(o, "templates", l.list);
	json_object_object_add(o, "items", json_object_get(l.list));
	json_object_object_add(o, "next_cursor", NULL);
	json_object_object_add(o, "has_more", json_object_new_boolean(false));
	req_reply_json(r, 200, o);
}

#define USERS_SHOWN 100

static void add_user(void *arg, const char *id)
{
	struct json_object *list = arg;

	if (json_object_array_length(list) < USERS_SHOWN)
		json_object_array_add(list, json_object_new_string(id));
}

static void handle_delete(struct req *r)
{
	struct json_object *users = json_object_new_array(), *extra;
	struct err e = ERR_INIT;

	if (tmpl_delete(req_api(r)->tmpls, req_account(r), req_param(r, "id"), add_user, users, &e) < 0) {
		extra = json_object_array_length(users) > 0 ? json_object_new_object() : NULL;
		if (extra)
			json_object_object_add(extra, "used_by", json_object_get(users));
		req_reply_err_with(r, &e, extra);
	} else {
		req_reply_empty(r, 204);
	}
	json_object_put(users);
}

static const struct route routes[] = {
	{ "POST", "/v1/templates", SCOPE_WRITE, BODY_MAX, handle_create, NULL, NULL },
	{ "GET", "/v1/templates", SCOPE_READ, 0, handle_list, NULL, NULL },
	{ "GET", "/v1/templates/{id}", SCOPE_READ, 0, handle_get, NULL, NULL },
	{ "DELETE", "/v1/templates/{id}", SCOPE_WRITE, 0, handle_delete, NULL, NULL },
	{ "GET", "/v1/templates/{id}/logs", SCOPE_READ, 0, templates_log_handle, NULL, NULL },
};

void api_add_template_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
