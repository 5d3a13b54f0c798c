/* POST /_emulator/reset: an account, or everything, as if nothing had happened. */

#include <errno.h>

#include "api/control.h"
#include "api/validate.h"

#define BODY_MAX 4096

struct reset_body {
	const char *account, *key;
};

#define AT(member) offsetof(struct reset_body, member)
static const struct validate_field reset_fields[] = {
	{ "account", VALIDATE_STRING, .max = 64, .offset = AT(account) },
	{ "key", VALIDATE_STRING, .max = 256, .offset = AT(key) },
};
#undef AT

struct pending {
	struct api *api;
	char account[ACCOUNT_ID_SIZE]; /* "": all */
	struct req *req;	       /* NULL: the client is gone */
};

static void on_gone(void *arg)
{
	struct pending *p = arg;

	p->req = NULL;
}

/* Keys that were made at run time; and with everything gone, the clock is the host's again. */
static int forget_rest(struct api *api, const char *account, struct err *e)
{
	struct sandboxes_counts n = { 0 };
	int r = accounts_forget_made(api->accounts, account[0] ? account : NULL, e);

	sandboxes_count(api->sandboxes, &n);
	if (r >= 0 && !account[0] && n.live == 0)
		r = vclock_reset(api->clock, e);
	return r;
}

static void on_reset(void *arg, const struct err *e, const struct sandboxes_reset_result *r)
{
	_cleanup_free_ struct pending *p = arg;
	struct err own = ERR_INIT;
	struct json_object *o;

	if (!e && forget_rest(p->api, p->account, &own) < 0)
		e = &own;
	if (!p->req)
		return;
	req_on_gone(p->req, NULL, NULL);
	if (e) {
		req_reply_err(p->req, e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "sandboxes_ended", json_object_new_int64(r->ended));
	json_object_object_add(o, "sandboxes_forgotten", json_object_new_uint64(r->rows));
	json_object_object_add(o, "faults_cleared", json_object_new_uint64(r->faults));
	req_reply_json(p->req, 200, o);
}

static void handle_reset(struct req *r)
{
	struct validate_errors errs = { 0 };
	char account[ACCOUNT_ID_SIZE];
	struct reset_body b = { NULL, NULL };
	struct err e = ERR_INIT;
	struct json_object *o;
	struct pending *p;

	o = req_json(r);
	if (!o)
		return;
	validate_object(o, reset_fields, ARRAY_SIZE(reset_fields), &b, &errs);
	if (validate_reply(r, &errs) || !control_account(r, "body", b.account, b.key, account))
		return;
	validate_unknown(r, o, reset_fields, ARRAY_SIZE(reset_fields));
	p = calloc(1, sizeof(*p));
	if (!p) {
		(void)err_errno(&e, ENOMEM, "reset");
		req_reply_err(r, &e);
		return;
	}
	p->api = req_api(r);
	p->req = r;
	(void)snprintf(p->account, sizeof(p->account), "%s", account);
	req_on_gone(r, on_gone, p);
	if (sandboxes_reset(req_api(r)->sandboxes, account[0] ? account : NULL, on_reset, p, &e) == 0)
		return;
	req_on_gone(r, NULL, NULL);
	free(p);
	req_reply_err(r, &e);
}

static const struct route routes[] = {
	{ "POST", "/_emulator/reset", SCOPE_WRITE, BODY_MAX, handle_reset, NULL, NULL },
};

void api_add_reset_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
