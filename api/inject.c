#include "api/inject.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "api/api.h"
#include "api/errors.h"
#include "emulator/base/log.h"
#include "emulator/profile.h"

struct inject {
	struct http *http;
	struct req *req;
	char id[FAULT_ID_SIZE + 16];
	bool has_rule;
	struct fault_effect fx; /* all zero without a rule, but cut */
	uint32_t wait_ms;
	bool waited;
	uv_timer_t timer;
	bool timer_made;
};

/* ---- what fires ---- */

static const char *header_of(void *arg, const char *name)
{
	return req_header(arg, name);
}

static const char *sandbox_of(const struct req *r)
{
	static const char prefix[] = "/v1/sandboxes/{id}";

	return strncmp(r->route->pattern, prefix, sizeof(prefix) - 1) == 0 ? req_param(r, "id") : NULL;
}

static struct inject *inject_get(struct req *r)
{
	if (r->inject)
		return r->inject;
	r->inject = calloc(1, sizeof(*r->inject));
	if (!r->inject)
		return NULL;
	r->inject->http = r->http;
	r->inject->req = r;
	r->inject->fx.cut = r->inject->fx.retry_after = -1;
	return r->inject;
}

static const char *summary(const struct fault_effect *fx, char ret[static 80])
{
	static const char *const resets[] = { NULL, "reset before", "reset in the body", "reset after" };

	if (fx->status && !fx->code[0])
		(void)snprintf(ret, 80, "status %u", fx->status);
	else if (fault_effect_answers(fx))
		(void)snprintf(ret, 80, "code %s", fx->code);
	else if (fx->reset)
		(void)snprintf(ret, 80, "%s", resets[fx->reset]);
	else if (fx->cut >= 0)
		(void)snprintf(ret, 80, "cut after %lld", (long long)fx->cut);
	else if (fx->no_last_chunk)
		(void)snprintf(ret, 80, "last chunk missing");
	else if (fx->exec)
		(void)snprintf(ret, 80, "exec %s", fx->exec == FAULT_EXEC_OOM ? "oom" : "kill");
	else
		(void)snprintf(ret, 80, "latency");
	return ret;
}

static void apply(struct req *r, const struct fault_rule *rule, uint64_t *dice)
{
	struct inject *in = inject_get(r);
	char text[80];

	if (!in)
		return;
	in->has_rule = true;
	in->fx = rule->effect;
	(void)snprintf(in->id, sizeof(in->id), "%s", rule->id);
	if (rule->effect.has_latency)
		in->wait_ms += fault_latency_next(&rule->effect.latency, dice);
	journal_add(r->http->api->journal, &(struct journal_event){ .type = JOURNAL_FAULT_FIRED,
								    .account = r->has_account ? r->account.id : NULL,
								    .sandbox = sandbox_of(r),
								    .subject = in->id,
								    .request_id = r->id,
								    .detail = summary(&in->fx, text) });
}

static void roll_rules(struct req *r)
{
	const struct fault_call c = { .method = r->method,
				      .path = r->uri_raw,
				      .account = r->has_account ? r->account.id : NULL,
				      .sandbox = sandbox_of(r),
				      .header = header_of,
				      .arg = r };
	struct fault_rule *rule = (struct fault_rule *)(uintptr_t)faults_fire(r->http->api->faults, &c);

	if (rule)
		apply(r, rule, &rule->dice);
}

/* False: it is no rule, and the request was answered with what is wrong. */
static bool roll_header(struct req *r, const char *text)
{
	struct fault_rule rule = FAULT_RULE_INIT;
	struct err e = ERR_INIT;

	(void)snprintf(rule.id, sizeof(rule.id), "header");
	if (fault_rule_parse(&rule, text, &e) < 0 || fault_rule_check(&rule, true, &e) < 0 ||
	    errors_check_code(rule.effect.status, rule.effect.code, &e) < 0) {
		req_reply_err(r, &e);
		return false;
	}
	rule.dice = rule.seed;
	if (fault_rule_fires(&rule))
		apply(r, &rule, &rule.dice);
	return true;
}

static void add_profile(struct req *r, const struct profile *p)
{
	static uint64_t dice = 1;
	enum profile_call call = PROFILE_OTHER;
	struct inject *in = inject_get(r);

	if (strcmp(r->method, "POST") == 0) {
		if (strcmp(r->route->pattern, "/v1/sandboxes") == 0)
			call = PROFILE_CREATE;
		else if (strcmp(r->route->pattern, "/v1/sandboxes/{id}/pause") == 0)
			call = PROFILE_PAUSE;
		else if (strcmp(r->route->pattern, "/v1/sandboxes/{id}/resume") == 0)
			call = PROFILE_RESUME;
	}
	if (in)
		in->wait_ms += fault_latency_next(&p->latency[call], &dice);
}

bool inject_begin(struct req *r)
{
	const struct api *api = r->http->api;
	const char *own;

	if (!api || (!api->faults && !api->profile) || strncmp(r->route->pattern, "/_emulator/", 11) == 0)
		return true;
	own = api->faults ? req_header(r, "X-Orkestr-Fault") : NULL;
	if (own && !roll_header(r, own))
		return true;
	if (!own && faults_count(api->faults) > 0)
		roll_rules(r);
	if (api->profile && api->profile->slow)
		add_profile(r, api->profile);
	if (!r->inject)
		return true;
	if (!inject_answers(r) || r->inject->wait_ms > 0)
		return true;
	inject_answer(r);
	return r->inject->fx.reset != FAULT_RESET_BEFORE;
}

/* ---- waiting ---- */

static void on_timer(uv_timer_t *t)
{
	struct inject *in = t->data;

	in->waited = true;
	req_resume(in->req);
}

bool inject_waits(struct req *r)
{
	struct inject *in = r->inject;

	if (!in || in->waited || in->wait_ms == 0)
		return false;
	if (!in->timer_made) {
		(void)uv_timer_init(in->http->loop, &in->timer);
		in->timer.data = in;
		in->timer_made = true;
		http_hold(in->http);
	}
	uv_update_time(in->http->loop);
	(void)uv_timer_start(&in->timer, on_timer, in->wait_ms, 0);
	return true;
}

static void on_timer_closed(uv_handle_t *h)
{
	struct inject *in = h->data;
	struct http *http = in->http;

	free(in);
	http_release(http);
}

void inject_free(struct req *r)
{
	struct inject *in = TAKE_PTR(r->inject);

	if (in && in->timer_made)
		uv_close((uv_handle_t *)&in->timer, on_timer_closed);
	else
		free(in);
}

/* ---- the answer ---- */

const struct fault_effect *req_fault(const struct req *r)
{
	return r->inject && r->inject->has_rule ? &r->inject->fx : NULL;
}

bool inject_answers(const struct req *r)
{
	return r->inject && (fault_effect_answers(&r->inject->fx) || r->inject->fx.reset == FAULT_RESET_BEFORE);
}

void inject_answer(struct req *r)
{
	const struct fault_effect *fx = &r->inject->fx;
	unsigned int status = fx->status;
	const char *code = fx->code;
	struct json_object *o;
	char after[24];

	if (fx->reset == FAULT_RESET_BEFORE) {
		inject_reset(req_fd(r));
		r->broken = true;
		return;
	}
	o = json_object_new_object();
	errors_complete(&status, &code);
	json_object_object_add(o, "detail", json_object_new_string(fx->detail[0] ? fx->detail : errors_detail(code)));
	json_object_object_add(o, "code", json_object_new_string(code));
	req_set_code(r, code);
	if (status == 401)
		req_add_header(r, "WWW-Authenticate", "Bearer");
	if (fx->retry_after >= 0 || status == 429) {
		(void)snprintf(after, sizeof(after), "%lld", (long long)(fx->retry_after >= 0 ? fx->retry_after : 1));
		req_add_header(r, "Retry-After", after);
	}
	req_reply_json(r, status, o);
}

void inject_header(struct req *r)
{
	char slug[48];

	if (!r->inject || !r->inject->has_rule)
		return;
	(void)snprintf(slug, sizeof(slug), "fault-injected:%s", r->inject->id);
	req_divergence(r, slug);
}

/* ---- breaking ---- */

void inject_reset(int sock)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };

	if (sock >= 0 && connect(sock, &none, sizeof(none)) < 0)
		log_debug("a connection that should be reset is only closed: it is no TCP connection");
}

bool inject_breaks_answer(struct req *r)
{
	if (!r->inject || r->inject->fx.reset != FAULT_RESET_AFTER)
		return false;
	inject_reset(req_fd(r));
	r->status = 0;
	r->out_bytes = 0;
	return true;
}

bool inject_breaks_body(const struct req *r)
{
	return r->inject && r->inject->fx.reset == FAULT_RESET_BODY;
}

bool inject_breaks_stream(struct req *r)
{
	if (!inject_breaks_body(r) || r->out_bytes == 0)
		return false;
	inject_reset(req_fd(r));
	return true;
}

struct half {
	int sock;
	size_t n; /* bytes at p, the first half */
	char p[];
};

static ssize_t half_read(void *arg, uint64_t pos, char *p, size_t cap)
{
	const struct half *h = arg;
	size_t n = pos < h->n ? MIN(cap, h->n - (size_t)pos) : 0;

	if (n == 0) {
		inject_reset(h->sock);
		return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	memcpy(p, h->p + pos, n);
	return (ssize_t)n;
}

struct MHD_Response *inject_half(const struct req *r, const void *p, size_t n)
{
	struct half *h = malloc(sizeof(*h) + n / 2);
	struct MHD_Response *m;

	if (!h)
		return NULL;
	h->sock = req_fd(r);
	h->n = n / 2;
	memcpy(h->p, p, h->n);
	m = MHD_create_response_from_callback(n, MAX(h->n, (size_t)1), half_read, h, free);
	if (!m)
		free(h);
	return m;
}
