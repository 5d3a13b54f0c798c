/* What a handler reads of a request, and the checks that come before its body is read. */

#include "api/req.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "api/errors.h"
#include "api/inject.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "rootfs/json.h"

/* A value costs json-c about 70 bytes, so what a body may become in memory is bounded, too. */
static const struct json_limits BODY_LIMITS = { .depth = 31, .values = 65536 };

struct api *req_api(const struct req *r)
{
	return r->http->api;
}

struct uv_loop_s *req_loop(const struct req *r)
{
	return r->http->loop;
}

const struct account *req_account(const struct req *r)
{
	return r->has_account ? &r->account : NULL;
}

const char *req_id(const struct req *r)
{
	return r->id;
}

const char *req_param(const struct req *r, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < r->match.n_params; i++) {
		const struct router_param *p = &r->match.params[i];

		if (p->name_len == len && memcmp(p->name, name, len) == 0)
			return p->value;
	}
	return NULL;
}

const char *req_query(const struct req *r, const char *name)
{
	return router_query_get(&r->query, name);
}

const char *req_header(const struct req *r, const char *name)
{
	return r->conn ? MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name) : NULL;
}

const struct buf *req_body(const struct req *r)
{
	return &r->body;
}

bool req_accepts(const struct req *r, const char *type)
{
	const char *p = req_header(r, "Accept");
	size_t len = strlen(type);

	while (p && *p) {
		size_t item;

		p += strspn(p, " \t,");
		item = strcspn(p, ",; \t");
		if (item == len && strncasecmp(p, type, len) == 0)
			return true;
		p += strcspn(p, ",");
	}
	return false;
}

void req_set_data(struct req *r, void *data, void (*free_fn)(void *data))
{
	if (r->data && r->data_free)
		r->data_free(r->data);
	r->data = data;
	r->data_free = free_fn;
}

void *req_data(const struct req *r)
{
	return r->data;
}

void req_on_gone(struct req *r, void (*fn)(void *arg), void *arg)
{
	r->gone_fn = fn;
	r->gone_arg = arg;
}

/* ---- JSON ---- */

static void reply_json_invalid(struct req *r, size_t at, const char *type, const char *msg)
{
	struct json_object *loc = json_object_new_array();

	json_object_array_add(loc, json_object_new_string("body"));
	if (strcmp(type, "json_invalid") == 0)
		json_object_array_add(loc, json_object_new_int64((int64_t)at));
	req_reply_invalid_at(r, loc, type, msg);
}

struct json_object *req_json(struct req *r)
{
	const char *text = r->body.p ? r->body.p : "";
	size_t at;
	int k;

	if (r->json)
		return r->json;
	at = strspn(text, " \t\r\n");
	if (at == r->body.len) {
		r->json = json_object_new_object();
		return r->json;
	}
	k = json_parse_at(text, r->body.len, BODY_LIMITS, &r->json, &at);
	if (k < 0) {
		reply_json_invalid(r, at, "json_invalid",
				   k == -E2BIG ? "JSON decode error: too many values" : "JSON decode error");
		return NULL;
	}
	if (!json_object_is_type(r->json, json_type_object)) {
		json_object_put(TAKE_PTR(r->json));
		reply_json_invalid(r, at, "dict_type", "Input should be a valid dictionary");
		return NULL;
	}
	return r->json;
}

struct json_object *req_json_value(struct req *r)
{
	const char *text = r->body.p ? r->body.p : "";
	size_t at;

	if (!r->json)
		(void)json_parse_at(text, r->body.len, BODY_LIMITS, &r->json, &at);
	return r->json;
}

/* ---- before the body ---- */

static bool check_target(struct req *r)
{
	char allow[ROUTER_ALLOW_SIZE], *query = strchr(r->uri, '?');
	struct err e;
	int k;

	if (query)
		*query++ = '\0';
	k = router_find(r->http->tables, r->http->n_tables, r->method, r->uri, &r->match, allow);
	if (k == -ENOENT) {
		req_reply_plain(r, 404, "{\"detail\":\"Not Found\"}");
		return false;
	}
	if (k == -EPERM) {
		req_add_header(r, "Allow", allow);
		req_reply_plain(r, 405, "{\"detail\":\"Method Not Allowed\"}");
		return false;
	}
	if (k < 0 || router_parse_query(query, &r->query) < 0) {
		(void)err_set(&e, ERR_INVALID, EINVAL, "path_invalid",
			      "the URL has a bad escape, a NUL byte or too many parameters");
		req_reply_err(r, &e);
		return false;
	}
	r->route = r->match.route;
	return true;
}

static bool check_scope(struct req *r)
{
	unsigned int want = r->route->scope;
	struct err e;

	if ((r->account.scopes & want) == want || want == SCOPE_ANY)
		return true;
	(void)err_set(&e, ERR_DENIED, EACCES, "insufficient_scope", "the token lacks the scope sandboxes:%s",
		      want & SCOPE_WRITE ? "write" : "read");
	req_reply_err(r, &e);
	return false;
}

static void add_number(struct req *r, const char *name, uint32_t n)
{
	char text[16];

	(void)snprintf(text, sizeof(text), "%u", n);
	req_add_header(r, name, text);
}

/* A request counts once its key is known to be one, whatever else is wrong with it; the emulator's own routes are not
 * the cloud's. */
static bool check_rate(struct req *r)
{
	struct rate_verdict v;
	struct err e;

	if (!r->http->limits || strncmp(r->route->pattern, "/_emulator/", 11) == 0)
		return true;
	ratelimits_take(r->http->limits, &r->account, &v);
	if (!v.limited)
		return true;
	add_number(r, "X-RateLimit-Limit", v.limit);
	add_number(r, "X-RateLimit-Remaining", v.remaining);
	add_number(r, "X-RateLimit-Reset", v.reset_s);
	if (!v.refused)
		return true;
	add_number(r, "Retry-After", v.retry_after_s);
	(void)err_set(&e, ERR_BUSY, EAGAIN, "rate_limited", "too many requests with this API key; try again in %u s",
		      v.retry_after_s);
	req_reply_err(r, &e);
	return false;
}

static bool check_token(struct req *r)
{
	const char *p = req_header(r, "Authorization");
	struct err e = ERR_INIT;

	if (r->route->scope == 0)
		return true;
	if (!p || strncasecmp(p, "Bearer", 6) != 0 || (p[6] != ' ' && p[6] != '\t')) {
		(void)err_set(&e, ERR_DENIED, EACCES, "unauthorized", "no bearer token was given");
		req_reply_err(r, &e);
		return false;
	}
	p += 6 + strspn(p + 6, " \t");
	if (accounts_find(r->http->accounts, p, &r->account, &e) < 0) {
		if (!e.reason)
			e.reason = "unauthorized";
		req_reply_err(r, &e);
		return false;
	}
	r->has_account = true;
	return check_rate(r) && check_scope(r);
}

static bool check_length(struct req *r)
{
	const char *length = req_header(r, "Content-Length"), *coding = req_header(r, "Transfer-Encoding");
	struct err e;
	uint64_t n;

	if (coding && (strcasecmp(coding, "chunked") != 0 || length)) {
		(void)err_set(&e, ERR_INVALID, EINVAL, NULL,
			      "a body needs either Content-Length or Transfer-Encoding: chunked");
		req_reply_err(r, &e);
		return false;
	}
	r->body_size = coding ? UINT64_MAX : 0;
	if (!length)
		return true;
	r->sized = true;
	/* libmicrohttpd has refused what is no number. */
	(void)text_parse_u64(length, 0, UINT64_MAX, &r->body_size);
	if (r->route->body_max == 0 || text_parse_u64(length, 0, r->route->body_max, &n) == 0)
		return true;
	(void)err_set(&e, ERR_TOO_LARGE, EMSGSIZE, "payload_too_large", "the body is larger than %zu bytes",
		      r->route->body_max);
	req_reply_err(r, &e);
	return false;
}

bool req_check(struct req *r, const char *version)
{
	/* libmicrohttpd hands over C strings: a NUL in the request line shows in where the version begins. */
	bool cut = !r->uri_at || version != r->uri_at + r->uri_len + 1;
	struct err e;

	if (!cut)
		return check_target(r) && check_token(r) && check_length(r);
	(void)err_set(&e, ERR_INVALID, EINVAL, "path_invalid", "the request line is malformed");
	req_reply_err(r, &e);
	return false;
}

bool req_check_inner(struct req *r)
{
	return check_target(r) && check_scope(r);
}

void req_free_contents(struct req *r)
{
	if (r->pull_free)
		r->pull_free(r->pull_arg);
	inject_free(r);
	req_set_data(r, NULL, NULL);
	if (r->resp)
		MHD_destroy_response(r->resp);
	for (size_t i = 0; i < r->n_headers; i++) {
		free(r->headers[i].name);
		free(r->headers[i].value);
	}
	json_object_put(r->json);
	buf_free(&r->body);
	free(r->uri);
	free(r->uri_raw);
}
