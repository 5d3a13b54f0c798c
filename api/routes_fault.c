/* /_emulator/faults: the rules of emulator/fault.h over HTTP. A rule comes as a JSON object with the grammar's names
 * as members, or as {"rule": "name=value; ..."}, or both. */

#include <errno.h>
#include <string.h>

#include "api/control.h"
#include "api/errors.h"
#include "api/sandbox_json.h"

#define RULE_BODY_MAX 8192

/* ---- out ---- */

static void add_if(struct json_object *o, const char *name, const char *s)
{
	if (*s)
		json_add_text(o, name, s);
}

static void add_int(struct json_object *o, const char *name, int64_t v, int64_t none)
{
	if (v != none)
		json_object_object_add(o, name, json_object_new_int64(v));
}

static void add_which(struct json_object *o, const struct fault_rule *r)
{
	char route[sizeof(r->method) + sizeof(r->path) + 1], header[sizeof(r->header) + sizeof(r->header_value) + 3];

	(void)snprintf(route, sizeof(route), "%s%s%s", r->method, r->method[0] ? " " : "", r->path);
	(void)snprintf(header, sizeof(header), "%s%s%s", r->header, r->header_value[0] ? ": " : "", r->header_value);
	add_if(o, "route", route);
	add_if(o, "account", r->account);
	add_if(o, "sandbox", r->sandbox);
	add_if(o, "header", header);
	add_if(o, "host", r->host);
	add_int(o, "nth", (int64_t)r->nth, 0);
	add_int(o, "times", (int64_t)r->times, 0);
	if (r->probability < 1) {
		json_object_object_add(o, "probability", json_object_new_double(r->probability));
		json_object_object_add(o, "seed", json_object_new_uint64(r->seed));
	}
}

static void add_effect(struct json_object *o, const struct fault_effect *fx)
{
	static const char *const resets[] = { "", "before", "body", "after" };
	static const char *const execs[] = { "", "kill", "oom" };
	char latency[64] = "";

	add_int(o, "status", fx->status, 0);
	add_if(o, "code", fx->code);
	add_if(o, "detail", fx->detail);
	add_int(o, "retry_after", fx->retry_after, -1);
	if (fx->has_latency)
		(void)fault_latency_text(&fx->latency, latency, sizeof(latency));
	add_if(o, "latency", latency);
	add_if(o, "reset", resets[fx->reset]);
	add_int(o, "cut", fx->cut, -1);
	if (fx->no_last_chunk)
		json_add_text(o, "last_chunk", "missing");
	add_if(o, "exec", execs[fx->exec]);
	add_int(o, "exec_after", fx->exec_after_ms, 0);
	if (fx->dns_servfail)
		json_add_text(o, "dns", "servfail");
}

static struct json_object *to_json(const struct fault_rule *r)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "id", r->id);
	add_which(o, r);
	add_effect(o, &r->effect);
	json_object_object_add(o, "seen", json_object_new_uint64(r->seen));
	json_object_object_add(o, "hits", json_object_new_uint64(r->hits));
	json_object_object_add(o, "spent", json_object_new_boolean(r->times > 0 && r->hits >= r->times));
	return o;
}

/* ---- in ---- */

static int set_member(struct fault_rule *rule, const char *name, struct json_object *v, struct err *e)
{
	/* A number or a string of it; nothing that has parts. */
	if (!json_object_is_type(v, json_type_string) && !json_object_is_type(v, json_type_int) &&
	    !json_object_is_type(v, json_type_double))
		return err_set(e, ERR_INVALID, EINVAL, "invalid_fault", "%.40s: a string or a number is wanted", name);
	if (strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v) &&
	    json_object_is_type(v, json_type_string))
		return err_set(e, ERR_INVALID, EINVAL, "invalid_fault", "%.40s: no NUL character", name);
	if (strcmp(name, "rule") == 0)
		return fault_rule_parse(rule, json_object_get_string(v), e);
	return fault_rule_set(rule, name, json_object_get_string(v), e);
}

static int read_rule(const struct api *api, struct json_object *o, struct fault_rule *rule, struct err *e)
{
	struct account a;
	int k = 0;

	json_object_object_foreach(o, name, v)
	{
		if (k >= 0 && v)
			k = set_member(rule, name, v, e);
	}
	if (k >= 0)
		k = fault_rule_check(rule, false, e);
	if (k >= 0)
		k = errors_check_code(rule->effect.status, rule->effect.code, e);
	if (k >= 0 && rule->key[0]) {
		k = accounts_find(api->accounts, rule->key, &a, NULL);
		if (k < 0)
			return err_set(e, ERR_INVALID, EINVAL, "invalid_fault", "key: no API key of this emulator");
		(void)snprintf(rule->account, sizeof(rule->account), "%s", a.id);
		explicit_bzero(rule->key, sizeof(rule->key));
	}
	return k;
}

static bool faults_allowed(struct req *r)
{
	struct err e;

	if (req_api(r)->faults)
		return true;
	(void)err_set(&e, ERR_DENIED, EPERM, "faults_disabled", "this emulator was started with --no-faults");
	req_reply_err(r, &e);
	return false;
}

static void handle_add(struct req *r)
{
	struct fault_rule rule = FAULT_RULE_INIT;
	const struct fault_rule *added;
	const struct api *api = req_api(r);
	struct err e = ERR_INIT;
	struct json_object *o;
	int k;

	if (!faults_allowed(r) || !(o = req_json(r)))
		return;
	k = read_rule(api, o, &rule, &e);
	if (k >= 0 && rule.effect.dns_servfail)
		k = sandboxes_fault_names_ready(api->sandboxes, &rule, &e);
	if (k >= 0)
		k = faults_add(api->faults, &rule, &added, &e);
	if (k >= 0 && rule.effect.dns_servfail)
		sandboxes_fault_names(api->sandboxes);
	if (k < 0)
		req_reply_err(r, &e);
	else
		req_reply_json(r, 201, to_json(added));
}

static void handle_list(struct req *r)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	const struct faults *f = req_api(r)->faults;

	for (size_t i = 0; i < faults_count(f); i++)
		json_object_array_add(list, to_json(faults_at(f, i)));
	json_object_object_add(o, "faults", list);
	json_object_object_add(o, "enabled", json_object_new_boolean(f != NULL));
	req_reply_json(r, 200, o);
}

static void handle_get(struct req *r)
{
	const struct fault_rule *rule;
	struct err e = ERR_INIT;

	if (!faults_allowed(r))
		return;
	if (faults_get(req_api(r)->faults, req_param(r, "id"), &rule, &e) < 0)
		req_reply_err(r, &e);
	else
		req_reply_json(r, 200, to_json(rule));
}

static void handle_delete(struct req *r)
{
	struct err e = ERR_INIT;

	if (!faults_allowed(r))
		return;
	if (faults_remove(req_api(r)->faults, req_param(r, "id"), &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	sandboxes_fault_names(req_api(r)->sandboxes);
	req_reply_empty(r, 204);
}

/* All, or one account's: ?account= or ?key=. */
static void handle_clear(struct req *r)
{
	char account[ACCOUNT_ID_SIZE];
	struct json_object *o;
	size_t n;

	if (!faults_allowed(r) || !control_account(r, "query", req_query(r, "account"), req_query(r, "key"), account))
		return;
	n = faults_clear(req_api(r)->faults, account[0] ? account : NULL);
	sandboxes_fault_names(req_api(r)->sandboxes);
	o = json_object_new_object();
	json_object_object_add(o, "cleared", json_object_new_uint64(n));
	req_reply_json(r, 200, o);
}

static const struct route routes[] = {
	{ "POST", "/_emulator/faults", SCOPE_WRITE, RULE_BODY_MAX, handle_add, NULL, NULL },
	{ "GET", "/_emulator/faults", SCOPE_READ, 0, handle_list, NULL, NULL },
	{ "DELETE", "/_emulator/faults", SCOPE_WRITE, 0, handle_clear, NULL, NULL },
	{ "GET", "/_emulator/faults/{id}", SCOPE_READ, 0, handle_get, NULL, NULL },
	{ "DELETE", "/_emulator/faults/{id}", SCOPE_WRITE, 0, handle_delete, NULL, NULL },
};

void api_add_fault_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
