/* Starting a command in a sandbox (wire.md, "Exec"): buffered, as a stream (exec_feed.c), or in the
 * background. What can be done to one that runs: routes_exec_session.c. */

#include "api/api.h"

#include <errno.h>
#include <string.h>

#include "api/errors.h"
#include "api/exec_feed.h"
#include "api/exec_json.h"
#include "api/json_text.h"
#include "api/req.h"
#include "api/routes_exec.h"
#include "api/schema.h"
#include "api/validate.h"
#include "emulator/base/text.h"
#include "emulator/exec.h"

#define EXEC_BODY_MAX (8u << 20)
#define COMMAND_MAX (128u << 10) /* what execve(2) takes as one string (MAX_ARG_STRLEN) */
#define ARGV_MAX 4096
#define RESULT_MAX (6 * 2 * (size_t)EXEC_OUTPUT_MAX + 4096) /* each byte of output as \u00XX */

struct exec_body {
	struct json_object *command, *cmd;
	int64_t timeout_s;
	struct json_object *env;
	const char *cwd, *stdin_encoding;
	struct json_object *stdin_text, *pty;
	bool stream, detach, background, stdin_open;
};

static const char *const encodings[] = { "utf-8", "base64", NULL };

#define AT(member) offsetof(struct exec_body, member)

static const struct validate_field exec_fields[] = {
	{ "command", VALIDATE_ANY, .offset = AT(command) },
	{ "cmd", VALIDATE_ANY, .offset = AT(cmd) },
	{ "timeout_seconds", VALIDATE_INT, .min = 1, .max = EXEC_MAX_TIMEOUT_S, .offset = AT(timeout_s) },
	{ "env", VALIDATE_ENV, .offset = AT(env) },
	{ "cwd", VALIDATE_STRING, .min = 1, .max = 4095, .offset = AT(cwd) },
	{ "stdin", VALIDATE_ANY, .offset = AT(stdin_text) },
	{ "stdin_encoding", VALIDATE_STRING, .choices = encodings, .offset = AT(stdin_encoding) },
	{ "stream", VALIDATE_BOOL, .offset = AT(stream) },
	{ "stdin_open", VALIDATE_BOOL, .offset = AT(stdin_open) },
	{ "pty", VALIDATE_ANY, .offset = AT(pty) },
	{ "background", VALIDATE_BOOL, .offset = AT(background) },
	{ "detach_on_disconnect", VALIDATE_BOOL, .offset = AT(detach) },
};

#undef AT

const struct schema_fields exec_request_fields = { exec_fields, ARRAY_SIZE(exec_fields) };

/* What a request asks for, in exec_start's terms; strings stay the JSON's. */
struct exec_request {
	struct exec_body body;
	struct exec_spec spec;
	const char **argv;
	char *stdin_data;
};

static void request_clear(struct exec_request *q)
{
	free(q->argv);
	free(q->stdin_data);
}

/* ---- reading the body ---- */

static const char *plain_string(struct json_object *v, size_t max)
{
	const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
	size_t n = s ? strlen(s) : 0;

	return s && n == (size_t)json_object_get_string_len(v) && n <= max ? s : NULL;
}

static void read_argv(struct exec_request *q, const char *field, struct json_object *list, struct validate_errors *errs)
{
	size_t n = json_object_array_length(list);

	if (n == 0 || n > ARGV_MAX) {
		validate_add(errs, "body", field, -1, n == 0 ? "too_short" : "too_long",
			     "List should have 1 to %d items", ARGV_MAX);
		return;
	}
	q->argv = calloc(n + 1, sizeof(*q->argv));
	if (!q->argv) {
		validate_add(errs, "body", field, -1, "value_error", "Value error, out of memory");
		return;
	}
	for (size_t i = 0; i < n; i++) {
		q->argv[i] = plain_string(json_object_array_get_idx(list, i), COMMAND_MAX - 1);
		if (q->argv[i] && (i > 0 || q->argv[i][0]))
			continue;
		validate_add(errs, "body", field, (int)i, "string_type",
			     i > 0 ? "Input should be a valid string" : "Input should be the name of a program");
		return;
	}
	q->spec.argv = q->argv;
}

static void read_command(struct exec_request *q, struct validate_errors *errs)
{
	const char *field = q->body.command || !q->body.cmd ? "command" : "cmd";
	struct json_object *v = q->body.command ? q->body.command : q->body.cmd;

	if (!v) {
		validate_add(errs, "body", field, -1, "missing", "Field required");
	} else if (json_object_is_type(v, json_type_array)) {
		read_argv(q, field, v, errs);
	} else {
		q->spec.command = plain_string(v, COMMAND_MAX - 1);
		if (!q->spec.command)
			validate_add(errs, "body", field, -1, "string_type",
				     "Input should be a string of at most %u bytes without NUL, or a list of such",
				     COMMAND_MAX - 1);
		else if (!*q->spec.command)
			validate_add(errs, "body", field, -1, "string_too_short",
				     "String should have at least 1 character");
	}
}

static void read_stdin(struct exec_request *q, struct validate_errors *errs)
{
	struct json_object *v = q->body.stdin_text;
	const char *s;
	size_t len;
	ssize_t n;

	if (!v)
		return;
	if (!json_object_is_type(v, json_type_string)) {
		validate_add(errs, "body", "stdin", -1, "string_type", "Input should be a valid string");
		return;
	}
	s = json_object_get_string(v);
	len = (size_t)json_object_get_string_len(v);
	q->spec.stdin_data = s;
	q->spec.stdin_len = len;
	if (!q->body.stdin_encoding || strcmp(q->body.stdin_encoding, "base64") != 0)
		return;
	q->stdin_data = malloc(len / 4 * 3 + 3);
	n = q->stdin_data ? text_base64_decode(s, len, q->stdin_data) : -ENOMEM;
	if (n < 0) {
		validate_add(errs, "body", "stdin", -1, "value_error", "Value error, not base 64");
		return;
	}
	q->spec.stdin_data = q->stdin_data;
	q->spec.stdin_len = (size_t)n;
}

/* {"rows", "cols"}, each optional; true is a terminal of the usual size. */
static void read_pty(struct exec_request *q, struct validate_errors *errs)
{
	struct json_object *v = q->body.pty;
	struct exec_size_body size = { 24, 80 };

	if (!v || (json_object_is_type(v, json_type_boolean) && !json_object_get_boolean(v)))
		return;
	if (json_object_is_type(v, json_type_object))
		validate_object(v, exec_size_fields, ARRAY_SIZE(exec_size_fields), &size, errs);
	else if (!json_object_is_type(v, json_type_boolean))
		validate_add(errs, "body", "pty", -1, "dict_type", "Input should be an object with rows and cols");
	q->spec.pty = (struct exec_size){ (uint16_t)size.rows, (uint16_t)size.cols };
}

/* How the command's life hangs on its client's. */
static void read_mode(struct exec_request *q, bool stream)
{
	struct exec_spec *s = &q->spec;

	s->stdin_open = q->body.stdin_open || s->pty.rows > 0;
	s->background = q->body.background;
	s->streamed = stream && !s->background;
	s->detach = q->body.detach || s->background;
	s->timeout_s = (uint32_t)q->body.timeout_s;
	if (q->body.timeout_s == 0 && (s->background || s->pty.rows > 0))
		s->timeout_s = EXEC_NO_TIMEOUT;
}

static bool read_request(struct req *r, struct exec_request *q)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { 0 };

	if (!o)
		return false;
	validate_object(o, exec_fields, ARRAY_SIZE(exec_fields), &q->body, &errs);
	read_command(q, &errs);
	read_stdin(q, &errs);
	read_pty(q, &errs);
	if (validate_reply(r, &errs))
		return false;
	validate_unknown(r, o, exec_fields, ARRAY_SIZE(exec_fields));
	if (req_fault(r)) {
		q->spec.fault = req_fault(r)->exec;
		q->spec.fault_after_ms = req_fault(r)->exec_after_ms;
	}
	q->spec.cwd = q->body.cwd;
	if (q->body.env)
		q->spec.env = json_object_to_json_string_ext(q->body.env,
							     JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	return true;
}

/* ---- buffered ---- */

struct pending {
	struct req *req;
	struct exec *exec;
};

static int add_result(struct buf *b, const struct exec_result *x)
{
	static const char *const names[] = { "{\"stdout\":", ",\"stderr\":" };
	int r = 0;

	for (int i = 0; i < 2 && r >= 0; i++) {
		const struct buf *out = x->out[i];

		r = buf_puts(b, names[i]);
		if (r >= 0)
			r = json_text_string(b, out->len > 0 ? out->p : "", out->len, true, NULL);
	}
	if (r >= 0)
		r = buf_puts(b, ",");
	if (r >= 0)
		r = exec_json_outcome(b, x);
	if (r >= 0)
		r = buf_printf(b, ",\"stdout_truncated\":%s,\"stderr_truncated\":%s,",
			       x->truncated[0] ? "true" : "false", x->truncated[1] ? "true" : "false");
	return r < 0 ? r : exec_json_blocked(b, "network_blocked", x);
}

/* wire.md, Errors: it failed, and something was refused while it ran. */
static bool is_policy_error(const struct req *r, const struct exec_result *x)
{
	return x->n_blocked > 0 && x->exit_code != 0 && x->reason != EXEC_TERMINATED &&
	       !req_api(r)->network_errors_report;
}

static int add_policy_error(struct buf *b, const struct exec_result *x, struct errors_answer *a)
{
	const struct exec_blocked *first = &x->blocked[0];
	struct err e;
	int k;

	(void)err_set(&e, ERR_POLICY, EPERM, "network_policy", "the network policy refused %s, port %u/%s (%s)",
		      first->host[0] ? first->host : first->ip, first->port, first->proto, first->rule);
	errors_map(&e, a);
	k = buf_puts(b, ",\"detail\":");
	if (k >= 0)
		k = json_text_string(b, e.msg, strlen(e.msg), true, NULL);
	if (k >= 0)
		k = buf_printf(b, ",\"code\":\"%s\",", a->code);
	return k < 0 ? k : exec_json_blocked(b, "blocked", x);
}

static void reply_result(struct req *r, const struct exec_result *x)
{
	_cleanup_buf_ struct buf b = BUF_INIT(RESULT_MAX);
	struct errors_answer a = { .status = 200 };
	struct err e;
	int k = add_result(&b, x);

	if (k >= 0 && x->reason == EXEC_TIMEOUT) {
		(void)err_set(&e, ERR_TIMEOUT, ETIMEDOUT, "exec_timeout", "the command did not end within %u s",
			      x->timeout_s);
		errors_map(&e, &a);
		k = buf_printf(&b, ",\"detail\":\"%s\",\"code\":\"%s\"", e.msg, a.code);
		req_set_code(r, a.code);
	} else if (k >= 0 && is_policy_error(r, x)) {
		k = add_policy_error(&b, x, &a);
		req_set_code(r, "network_policy");
	}
	if (k >= 0)
		k = buf_puts(&b, "}");
	if (k < 0) {
		(void)err_errno(&e, -k, "exec's result");
		req_reply_err(r, &e);
		return;
	}
	req_reply_buf(r, a.status, "application/json", &b);
}

static void on_done(void *arg, const struct exec_result *x)
{
	_cleanup_free_ struct pending *p = arg;

	req_on_gone(p->req, NULL, NULL);
	reply_result(p->req, x);
}

static void on_gone(void *arg)
{
	_cleanup_free_ struct pending *p = arg;

	exec_abandon(p->exec);
}

static int start(struct req *r, const struct exec_request *q, const struct exec_events *ev, struct exec **ret)
{
	struct err e = ERR_INIT;
	int k = exec_start(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), &q->spec, ev, ret, &e);

	if (k < 0)
		req_reply_err(r, &e);
	return k;
}

static void start_buffered(struct req *r, const struct exec_request *q)
{
	struct pending *p = calloc(1, sizeof(*p));
	struct exec_events ev = { .done = on_done, .arg = p };
	struct err e = ERR_INIT;

	if (!p) {
		(void)err_errno(&e, ENOMEM, "exec");
		req_reply_err(r, &e);
		return;
	}
	p->req = r;
	if (start(r, q, &ev, &p->exec) < 0) {
		free(p);
		return;
	}
	req_add_header(r, "X-Exec-Id", exec_id(p->exec));
	req_on_gone(r, on_gone, p);
}

/* ---- streamed, or in the background ---- */

static void start_stream(struct req *r, const struct exec_request *q)
{
	/* Who asks for one of these may have to know the id before there is output, and knows more than the SDKs'
	 * READMEs do; for everyone else the first chunk has what the command wrote. */
	const struct exec_feed_options o = { .ndjson = req_accepts(r, "application/x-ndjson"),
					     .primary = true,
					     .announce = q->spec.stdin_open || q->spec.detach };
	struct exec *x;

	if (start(r, q, NULL, &x) >= 0 && !exec_feed_start(r, x, &o))
		(void)exec_end(x, NULL);
}

static void start_background(struct req *r, const struct exec_request *q)
{
	struct exec *x;

	if (start(r, q, NULL, &x) >= 0)
		exec_session_reply_started(r, x);
}

static void handle(struct req *r, bool stream)
{
	struct exec_request q = { 0 };
	bool ok = read_request(r, &q);

	if (ok) {
		stream = stream || q.body.stream || req_accepts(r, "text/event-stream") ||
			 req_accepts(r, "application/x-ndjson");
		read_mode(&q, stream);
		if (q.spec.background)
			start_background(r, &q);
		else if (stream)
			start_stream(r, &q);
		else
			start_buffered(r, &q);
	}
	request_clear(&q);
}

static void handle_exec(struct req *r)
{
	handle(r, false);
}

static void handle_exec_stream(struct req *r)
{
	handle(r, true);
}

static const struct route routes[] = {
	{ "POST", "/v1/sandboxes/{id}/exec", SCOPE_WRITE, EXEC_BODY_MAX, handle_exec, NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/exec/stream", SCOPE_WRITE, EXEC_BODY_MAX, handle_exec_stream, NULL, NULL },
};

void api_add_exec_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
	exec_session_add_routes(h);
}
