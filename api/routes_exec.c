/* Commands in a sandbox (wire.md, "Exec"): buffered, or as a stream (exec_feed.c). */

#include "api/api.h"

#include <errno.h>
#include <string.h>

#include "api/errors.h"
#include "api/exec_feed.h"
#include "api/json_text.h"
#include "api/req.h"
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
	struct json_object *stdin_text;
	bool stream, detach;
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
	{ "detach_on_disconnect", VALIDATE_BOOL, .offset = AT(detach) },
};

#undef AT

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

static bool read_request(struct req *r, struct exec_request *q)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { NULL };

	if (!o)
		return false;
	validate_object(o, exec_fields, ARRAY_SIZE(exec_fields), &q->body, &errs);
	read_command(q, &errs);
	read_stdin(q, &errs);
	if (validate_reply(r, &errs))
		return false;
	validate_unknown(r, o, exec_fields, ARRAY_SIZE(exec_fields));
	q->spec.timeout_s = (uint32_t)q->body.timeout_s;
	q->spec.cwd = q->body.cwd;
	if (q->body.env)
		q->spec.env = json_object_to_json_string_ext(q->body.env,
							     JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	return true;
}

/* ---- buffered ---- */

struct pending {
	struct req *req; /* NULL: the client is gone and the command was left running */
	struct exec *exec;
	uint32_t timeout_s;
	bool detach;
};

static int add_result(struct buf *b, const struct exec_result *x)
{
	static const char *const names[] = { "{\"stdout\":", ",\"stderr\":" };
	char sig[EXEC_SIGNAL_NAME_SIZE + 2] = "null", name[EXEC_SIGNAL_NAME_SIZE];
	int r = 0;

	for (int i = 0; i < 2 && r >= 0; i++) {
		const struct buf *out = x->out[i];

		r = buf_puts(b, names[i]);
		if (r >= 0)
			r = json_text_string(b, out && out->len > 0 ? out->p : "", out ? out->len : 0, true, NULL);
	}
	if (x->signal != 0) {
		exec_signal_name(x->signal, name);
		(void)snprintf(sig, sizeof(sig), "\"%s\"", name);
	}
	if (r < 0)
		return r;
	return buf_printf(b,
			  ",\"exit_code\":%d,\"duration_ms\":%llu,\"stdout_truncated\":%s,\"stderr_truncated\":%s,"
			  "\"reason\":\"%s\",\"signal\":%s,\"network_blocked\":[]",
			  x->exit_code, (unsigned long long)x->duration_ms, x->truncated[0] ? "true" : "false",
			  x->truncated[1] ? "true" : "false", exec_reason_name(x->reason), sig);
}

static void reply_result(struct req *r, const struct exec_result *x, uint32_t timeout_s)
{
	_cleanup_buf_ struct buf b = BUF_INIT(RESULT_MAX);
	struct errors_answer a = { .status = 200 };
	struct err e;
	int k = add_result(&b, x);

	if (k >= 0 && x->reason == EXEC_TIMEOUT) {
		(void)err_set(&e, ERR_TIMEOUT, ETIMEDOUT, "exec_timeout", "the command did not end within %u s",
			      timeout_s);
		errors_map(&e, &a);
		k = buf_printf(&b, ",\"detail\":\"%s\",\"code\":\"%s\"", e.msg, a.code);
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

	if (!p->req)
		return;
	req_on_gone(p->req, NULL, NULL);
	reply_result(p->req, x, p->timeout_s);
}

static void on_gone(void *arg)
{
	struct pending *p = arg;

	p->req = NULL;
	if (p->detach)
		return;
	exec_abandon(p->exec);
	free(p);
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
	p->detach = q->body.detach;
	p->timeout_s = q->spec.timeout_s ? q->spec.timeout_s : EXEC_DEFAULT_TIMEOUT_S;
	if (exec_start(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), &q->spec, &ev, &p->exec, &e) < 0) {
		free(p);
		req_reply_err(r, &e);
		return;
	}
	req_add_header(r, "X-Exec-Id", exec_id(p->exec));
	req_on_gone(r, on_gone, p);
}

/* ---- streamed ---- */

static void start_stream(struct req *r, const struct exec_request *q)
{
	struct exec_feed *f = exec_feed_new(r, req_accepts(r, "application/x-ndjson"), q->body.detach);
	struct exec_events ev;
	struct exec *x;
	struct err e = ERR_INIT;

	if (!f) {
		(void)err_errno(&e, ENOMEM, "exec");
		req_reply_err(r, &e);
		return;
	}
	exec_feed_events(f, &ev);
	if (exec_start(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), &q->spec, &ev, &x, &e) < 0) {
		exec_feed_discard(f);
		req_reply_err(r, &e);
		return;
	}
	exec_feed_begin(f, x);
}

static void handle(struct req *r, bool stream)
{
	struct exec_request q = { 0 };
	bool ok = read_request(r, &q);

	if (ok &&
	    (stream || q.body.stream || req_accepts(r, "text/event-stream") || req_accepts(r, "application/x-ndjson")))
		start_stream(r, &q);
	else if (ok)
		start_buffered(r, &q);
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
}
