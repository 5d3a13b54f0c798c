/* A struct req without a connection. Its answer is taken where others become a response of libmicrohttpd
 * (reply.c), a streamed one is pulled here; then done() is told from the loop, and all of it goes. */

#include "api/subreq.h"

#include <errno.h>
#include <string.h>

#include "api/errors.h"
#include "api/req.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define PULL_BLOCK (32u << 10)
#define PULL_TURN (1u << 20) /* bytes; then the loop has its turn */

struct subreq {
	struct req req;
	void (*done)(void *arg, const struct subreq_answer *a);
	void *arg;
	struct buf out;
	unsigned int status; /* of an answer that replaces the route's */
	uv_timer_t soon;
};

static void on_closed(uv_handle_t *h)
{
	struct subreq *s = h->data;

	buf_free(&s->out);
	free(s);
}

static void release(struct subreq *s)
{
	req_free_contents(&s->req);
	uv_close((uv_handle_t *)&s->soon, on_closed);
}

static void finish(struct subreq *s)
{
	const struct subreq_answer a = { .status = s->status ? s->status : s->req.status,
					 .p = s->out.p ? s->out.p : "",
					 .n = s->out.len,
					 .divergence = s->req.divergence };

	s->done(s->arg, &a);
	release(s);
}

static void replace(struct subreq *s, enum err_kind kind, const char *reason, const char *text)
{
	struct errors_answer a;
	struct err e;

	(void)err_set(&e, kind, EMSGSIZE, reason, "%s", text);
	errors_map(&e, &a);
	s->status = a.status;
	buf_reset(&s->out);
	if (buf_printf(&s->out, "{\"detail\":\"%s\",\"code\":\"%s\"}", text, a.code) < 0)
		buf_reset(&s->out);
	finish(s);
}

static void refuse_large(struct subreq *s)
{
	replace(s, ERR_TOO_LARGE, "payload_too_large",
		"the answer is too large for a tool's result; ask for less, or write it to a file and read parts");
}

static void pull(struct subreq *s)
{
	struct req *r = &s->req;
	size_t turn = 0;

	while (turn < PULL_TURN) {
		char *to;
		ssize_t n;

		if (buf_reserve(&s->out, PULL_BLOCK, &to) < 0) {
			refuse_large(s);
			return;
		}
		n = r->pull(r->pull_arg, to, PULL_BLOCK);
		if (n == 0)
			return; /* until it is woken */
		if (n == -1) {
			finish(s);
			return;
		}
		if (n < 0) {
			replace(s, ERR_IO, "internal_error", "the answer broke off");
			return;
		}
		buf_commit(&s->out, (size_t)n);
		turn += (size_t)n;
	}
	subreq_wake(r);
}

static void on_soon(uv_timer_t *timer)
{
	struct subreq *s = timer->data;

	if (s->req.broken)
		refuse_large(s);
	else if (s->req.pull)
		pull(s);
	else
		finish(s);
}

void subreq_wake(struct req *r)
{
	if (r->status != 0)
		(void)uv_timer_start(&r->sub->soon, on_soon, 0, 0);
}

void subreq_reply(struct req *r, unsigned int status, const char *p, size_t n)
{
	if (r->status != 0)
		return;
	r->status = status;
	r->broken = buf_add(&r->sub->out, p, n) < 0;
	subreq_wake(r);
}

void subreq_cancel(struct subreq *s)
{
	void (*fn)(void *arg) = TAKE_PTR(s->req.gone_fn);

	s->req.gone = true;
	if (fn)
		fn(s->req.gone_arg);
	release(s);
}

/* ---- the request ---- */

static int fill(struct subreq *s, const struct subreq_spec *spec)
{
	struct req *r = &s->req;
	const char *text;

	r->uri = strdup(spec->target);
	r->uri_raw = strndup(spec->target, strcspn(spec->target, "?"));
	if (!r->uri || !r->uri_raw)
		return -ENOMEM;
	if (!spec->body)
		return 0;
	text = json_object_to_json_string_ext(spec->body, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	r->body = BUF_INIT(SUBREQ_ANSWER_MAX);
	return text ? buf_puts(&r->body, text) : -ENOMEM;
}

static void run(struct req *r)
{
	const struct route *route = r->route;

	if (route->begin)
		route->begin(r);
	if (route->data && r->status == 0 && r->body.len > 0)
		route->data(r, r->body.p, r->body.len);
	r->body_over = true;
	if (r->status == 0)
		route->handle(r);
}

int subreq_start(const struct subreq_spec *spec, void (*done)(void *arg, const struct subreq_answer *a), void *arg,
		 struct subreq **ret)
{
	struct subreq *s = calloc(1, sizeof(*s));
	struct req *r = s ? &s->req : NULL;

	if (!s)
		return -ENOMEM;
	*s = (struct subreq){ .done = done, .arg = arg, .out = BUF_INIT(SUBREQ_ANSWER_MAX) };
	r->sub = s;
	r->http = spec->outer->http;
	r->method = spec->method;
	r->account = spec->outer->account;
	r->has_account = spec->outer->has_account;
	r->drain_fd = -1;
	r->start_us = clock_mono_us();
	(void)text_format(r->id, sizeof(r->id), "%s", spec->outer->id);
	(void)uv_timer_init(r->http->loop, &s->soon);
	s->soon.data = s;
	if (fill(s, spec) < 0) {
		release(s);
		return -ENOMEM;
	}
	*ret = s;
	if (req_check_inner(r))
		run(r);
	return 0;
}
