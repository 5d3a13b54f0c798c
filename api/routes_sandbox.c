/* Sandboxes on the wire (wire.md, "Create").
 *
 * A create with an Idempotency-Key is remembered in two places: while it runs, in the list `creates`, where
 * a second request with the same key waits for the same end; after it succeeded, in the store. A failed
 * create leaves nothing behind, so the key can be tried again. */

#include "api/api.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "api/sandbox_json.h"
#include "api/schema.h"
#include "api/validate.h"
#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "rootfs/template.h"

#define CREATE_BODY_MAX (1u << 20)
#define STRINGS_MAX (64u << 10) /* env and metadata together */
#define KEY_MAX 255
#define LIST_LIMIT_DEFAULT 50
#define LIST_LIMIT_MAX 200

const char *const api_regions[] = { "fsn1", "hel1", NULL };

struct waiter {
	struct waiter *prev, *next;
	struct create *create;
	struct req *req;
	bool replay;
};

struct create {
	struct create *prev, *next;
	struct api *api;
	struct waiter *waiters; /* who still wants to know */
	char account[ACCOUNT_ID_SIZE];
	char *key; /* NULL: none given, and not in the list */
	char body_hash[TEXT_SHA256_SIZE];
};

static struct create *creates;

/* ---- create: what is asked for ---- */

struct create_body {
	const char *template_name, *size, *network, *region;
	double cpu;
	int64_t memory_mb, timeout_s;
	struct json_object *env, *metadata;
};

static const char *const size_names[] = { "small", "medium", "large", NULL };
static const char *const network_names[] = { "off", "restricted", "open", NULL };

#define AT(member) offsetof(struct create_body, member)

static const struct validate_field create_fields[] = {
	{ "template", VALIDATE_STRING, .required = true, .min = 1, .max = 128, .offset = AT(template_name) },
	{ "size", VALIDATE_STRING, .choices = size_names, .offset = AT(size) },
	{ "cpu", VALIDATE_NUMBER, .min = 0.01, .max = 1024, .offset = AT(cpu) },
	{ "memory_mb", VALIDATE_INT, .min = 16, .max = 1 << 24, .offset = AT(memory_mb) },
	{ "network", VALIDATE_STRING, .choices = network_names, .offset = AT(network) },
	{ "timeout_seconds", VALIDATE_INT, .min = 10, .max = 3600, .offset = AT(timeout_s) },
	{ "env", VALIDATE_ENV, .offset = AT(env) },
	{ "metadata", VALIDATE_STRINGS, .offset = AT(metadata) },
	{ "region", VALIDATE_STRING, .choices = api_regions, .offset = AT(region) },
};

#undef AT

const struct schema_fields sandbox_create_fields = { create_fields, ARRAY_SIZE(create_fields) };

static bool read_create_body(struct req *r, struct create_body *b)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { 0 };

	if (!o)
		return false;
	validate_object(o, create_fields, ARRAY_SIZE(create_fields), b, &errs);
	if (b->size && (b->cpu > 0 || b->memory_mb > 0))
		validate_add(&errs, "body", "size", -1, "value_error",
			     "Value error, give either size or cpu and memory_mb");
	if (validate_strings_size(b->env) + validate_strings_size(b->metadata) > STRINGS_MAX)
		validate_add(&errs, "body", "env", -1, "value_error",
			     "Value error, env and metadata together have more than %u bytes", STRINGS_MAX);
	if (validate_reply(r, &errs))
		return false;
	validate_unknown(r, o, create_fields, ARRAY_SIZE(create_fields));
	return true;
}

static const char *json_text(struct json_object *o)
{
	return o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE) : "{}";
}

/* ---- create: those who wait ---- */

static void waiter_free(struct create *c, struct waiter *w)
{
	DL_DELETE(c->waiters, w);
	free(w);
}

/* The sandbox is made all the same: who asked with a key may ask again, and others find it in the list. */
static void on_waiter_gone(void *arg)
{
	struct waiter *w = arg;

	waiter_free(w->create, w);
}

static bool waiter_add(struct create *c, struct req *r, bool replay)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		return false;
	*w = (struct waiter){ .create = c, .req = r, .replay = replay };
	DL_APPEND(c->waiters, w);
	req_on_gone(r, on_waiter_gone, w);
	return true;
}

static void create_free(struct create *c)
{
	if (c->key)
		DL_DELETE(creates, c);
	free(c->key);
	free(c);
}

/* What this create knowingly does otherwise than the cloud. */
static void name_divergences(struct req *r, const char *template_name)
{
	const struct api *api = req_api(r);
	const struct cgroup_features *f = cgroup_root_features(api->cgroups);
	struct template *t = NULL;

	if (template_load(api->state_fd, template_name, &t, NULL) == 0) {
		if (t->stand_in)
			req_divergence(r, "template-stand-in");
		template_free(t);
	}
	if (api->idmap->kind == IDMAP_SINGLE)
		req_divergence(r, "single-id");
	if (!f->cpu || !f->memory || !f->pids)
		req_divergence(r, "limits-unenforced");
}

static void reply_created(struct req *r, const struct sandbox_row *row, bool replay)
{
	char location[64];

	(void)text_format(location, sizeof(location), "/v1/sandboxes/%s", row->id);
	req_add_header(r, "Location", location);
	if (replay)
		req_add_header(r, "Idempotent-Replayed", "true");
	name_divergences(r, row->template_name);
	req_reply_json(r, 201, sandbox_to_json(row));
}

static void on_created(void *arg, const struct err *e, const struct sandbox_row *row)
{
	struct create *c = arg;
	struct err e2;

	if (row && c->key &&
	    store_idempotency_put(c->api->store, c->account, c->key, c->body_hash, row->id, clock_now_ms(), &e2) < 0)
		log_warn("idempotency key of %s was not kept: %s", row->id, e2.msg);
	while (c->waiters) {
		struct waiter *w = c->waiters;
		struct req *r = w->req;
		bool replay = w->replay;

		waiter_free(c, w);
		req_on_gone(r, NULL, NULL);
		if (row)
			reply_created(r, row, replay);
		else
			req_reply_err(r, e);
	}
	create_free(c);
}

/* ---- create: the key ---- */

static void reply_mismatch(struct req *r)
{
	struct err e;

	(void)err_set(&e, ERR_EXISTS, EEXIST, "idempotency_mismatch",
		      "this Idempotency-Key was used with another body");
	req_reply_err(r, &e);
}

/* True when the key answers the request: waits for a running create, or replays one that is done. */
static bool answer_by_key(struct req *r, const char *key, const char *hash)
{
	const struct account *a = req_account(r);
	struct api *api = req_api(r);
	char old_hash[TEXT_SHA256_SIZE], id[SANDBOX_ID_SIZE];
	_cleanup_(sandbox_row_clear) struct sandbox_row row = { 0 };
	struct create *c;
	struct err e = ERR_INIT;

	for (c = creates; c; c = c->next) {
		if (c->api != api || strcmp(c->account, a->id) != 0 || strcmp(c->key, key) != 0)
			continue;
		if (strcmp(c->body_hash, hash) != 0)
			reply_mismatch(r);
		else if (!waiter_add(c, r, true))
			req_reply_empty(r, 500);
		return true;
	}
	if (store_idempotency_get(api->store, a->id, key, clock_now_ms(), old_hash, id, &e) < 0) {
		if (e.kind == ERR_NOT_FOUND)
			return false;
		req_reply_err(r, &e);
		return true;
	}
	if (strcmp(old_hash, hash) != 0) {
		reply_mismatch(r);
		return true;
	}
	if (sandbox_get(api->sandboxes, a, id, &row, &e) < 0) {
		/* Its row is gone (a reset): the key means nothing any more. */
		(void)store_idempotency_forget(api->store, a->id, key, NULL);
		return false;
	}
	reply_created(r, &row, true);
	return true;
}

static bool key_valid(const char *key)
{
	size_t n = 0;

	for (; key[n]; n++)
		if ((unsigned char)key[n] < 0x21 || (unsigned char)key[n] > 0x7e)
			return false;
	return n > 0 && n <= KEY_MAX;
}

static struct create *create_new(struct req *r, const char *key, const char *hash)
{
	struct create *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->api = req_api(r);
	(void)snprintf(c->account, sizeof(c->account), "%s", req_account(r)->id);
	(void)snprintf(c->body_hash, sizeof(c->body_hash), "%s", hash);
	if (key) {
		c->key = strdup(key);
		if (!c->key) {
			free(c);
			return NULL;
		}
		DL_APPEND(creates, c);
	}
	if (!waiter_add(c, r, false)) {
		create_free(c);
		return NULL;
	}
	return c;
}

static void handle_create(struct req *r)
{
	const char *key = req_header(r, "Idempotency-Key");
	struct create_body b = { .network = "off" };
	char hash[TEXT_SHA256_SIZE] = "";
	struct sandbox_spec spec;
	struct err e = ERR_INIT;
	struct create *c;

	if (key && !key_valid(key)) {
		req_reply_invalid(r, "header", "idempotency-key", "value_error",
				  "Value error, 1 to %d printable characters without spaces", KEY_MAX);
		return;
	}
	if (!read_create_body(r, &b))
		return;
	if (key) {
		text_sha256(req_body(r)->p, req_body(r)->len, hash);
		if (answer_by_key(r, key, hash))
			return;
	}
	spec = (struct sandbox_spec){
		.template_name = b.template_name,
		.size = b.size,
		.cpu_millis = (uint32_t)(b.cpu * 1000 + 0.5),
		.memory_mb = (uint32_t)b.memory_mb,
		.network = b.network,
		.timeout_s = (uint32_t)b.timeout_s,
		.region = b.region,
		.env = json_text(b.env),
		.metadata = json_text(b.metadata),
	};
	c = create_new(r, key, hash);
	if (!c)
		(void)err_errno(&e, ENOMEM, "create");
	else if (sandbox_create(req_api(r)->sandboxes, req_account(r), &spec, on_created, c, &e) == 0)
		return;
	/* Refused at once: nobody else can have come to wait for it. */
	req_on_gone(r, NULL, NULL);
	if (c) {
		waiter_free(c, c->waiters);
		create_free(c);
	}
	req_reply_err(r, &e);
}

/* ---- get, list, delete ---- */

static void handle_get(struct req *r)
{
	_cleanup_(sandbox_row_clear) struct sandbox_row row = { 0 };
	struct err e = ERR_INIT;

	if (sandbox_get(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), &row, &e) < 0)
		req_reply_err(r, &e);
	else
		req_reply_json(r, 200, sandbox_to_json(&row));
}

static int add_to_list(void *arg, const struct sandbox_row *row)
{
	return json_object_array_add(arg, sandbox_to_json(row)) < 0 ? -ENOMEM : 0;
}

/* The query of a list; false after a 422. */
static bool read_list_query(struct req *r, struct store_list *q, enum sandbox_status *status)
{
	const char *s = req_query(r, "status"), *limit = req_query(r, "limit"), *cursor = req_query(r, "cursor");
	uint64_t n = LIST_LIMIT_DEFAULT;

	if (s && *s) {
		if (sandbox_status_parse(s, status) < 0) {
			req_reply_invalid(r, "query", "status", "literal_error", "Input should be a sandbox's status");
			return false;
		}
		q->status = status;
	}
	if (limit && text_parse_u64(limit, 1, LIST_LIMIT_MAX, &n) < 0) {
		req_reply_invalid(r, "query", "limit", "int_parsing", "Input should be an integer from 1 to %d",
				  LIST_LIMIT_MAX);
		return false;
	}
	q->limit = (uint32_t)n;
	q->cursor = cursor && *cursor ? cursor : NULL;
	return true;
}

static void handle_list(struct req *r)
{
	struct store_list q = { .account = req_account(r)->id };
	char next[STORE_CURSOR_SIZE] = "";
	struct json_object *list, *o;
	enum sandbox_status status;
	struct err e = ERR_INIT;
	int k;

	if (!read_list_query(r, &q, &status))
		return;
	sandboxes_look(req_api(r)->sandboxes);
	list = json_object_new_array();
	k = store_sandbox_list(req_api(r)->store, &q, add_to_list, list, next, &e);
	if (k < 0) {
		json_object_put(list);
		if (e.kind == ERR_INVALID)
			req_reply_invalid(r, "query", "cursor", "value_error", "Value error, no cursor of this list");
		else
			req_reply_err(r, &e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "sandboxes", list);
	json_object_object_add(o, "items", json_object_get(list));
	json_object_object_add(o, "next_cursor", next[0] ? json_object_new_string(next) : NULL);
	json_object_object_add(o, "has_more", json_object_new_boolean(next[0] != '\0'));
	req_reply_json(r, 200, o);
}

struct end {
	struct req *req; /* NULL: the client is gone */
};

static void on_end_gone(void *arg)
{
	struct end *d = arg;

	d->req = NULL;
}

static void on_changed(void *arg, const struct err *e, const struct sandbox_row *row)
{
	_cleanup_free_ struct end *d = arg;

	if (!d->req)
		return;
	req_on_gone(d->req, NULL, NULL);
	if (row && row->memory_lost && row->status == SANDBOX_RUNNING)
		req_divergence(d->req, "memory-lost");
	if (row)
		req_reply_json(d->req, 200, sandbox_to_json(row));
	else
		req_reply_err(d->req, e);
}

typedef int (*change_fn)(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
			 struct err *e);

/* Terminate, pause, resume: answered with the row once it is so. The change goes on if the client goes. */
static void change(struct req *r, change_fn fn)
{
	struct end *d = calloc(1, sizeof(*d));
	struct err e = ERR_INIT;

	if (!d) {
		(void)err_errno(&e, ENOMEM, "sandbox");
		req_reply_err(r, &e);
		return;
	}
	d->req = r;
	req_on_gone(r, on_end_gone, d);
	if (fn(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), on_changed, d, &e) == 0)
		return;
	req_on_gone(r, NULL, NULL);
	free(d);
	req_reply_err(r, &e);
}

static void handle_delete(struct req *r)
{
	change(r, sandbox_terminate);
}

static void handle_pause(struct req *r)
{
	change(r, sandbox_pause);
}

static void handle_resume(struct req *r)
{
	change(r, sandbox_resume);
}

static const struct route routes[] = {
	{ "POST", "/v1/sandboxes", SCOPE_WRITE, CREATE_BODY_MAX, handle_create, NULL, NULL },
	{ "GET", "/v1/sandboxes", SCOPE_READ, 0, handle_list, NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}", SCOPE_READ, 0, handle_get, NULL, NULL },
	{ "DELETE", "/v1/sandboxes/{id}", SCOPE_WRITE, 0, handle_delete, NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/pause", SCOPE_WRITE, 0, handle_pause, NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/resume", SCOPE_WRITE, 0, handle_resume, NULL, NULL },
};

void api_add_sandbox_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
