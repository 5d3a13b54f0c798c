/* Commands after their start: what there is, and what can be done to one. */

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "api/exec_feed.h"
#include "api/exec_json.h"
#include "api/json_text.h"
#include "api/req.h"
#include "api/routes_exec.h"
#include "emulator/base/text.h"

#define STDIN_BODY_MAX (6u * EXEC_STDIN_MAX + 4096) /* each byte as \\u00XX */
#define SMALL_BODY_MAX 4096
#define OUTPUT_MAX (6 * 2 * (size_t)(EXEC_LOG_HEAD + EXEC_LOG_TAIL) + 65536)
#define SIZE_MAX_CELLS 10000

static void reply_no_memory(struct req *r)
{
	struct err e = ERR_INIT;

	(void)err_errno(&e, ENOMEM, "exec");
	req_reply_err(r, &e);
}

/* The exec of {id} and {exec_id}, or NULL after answering. */
static struct exec *find(struct req *r)
{
	struct err e = ERR_INIT;
	struct exec *x;

	if (exec_find(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), req_param(r, "exec_id"), &x, &e) < 0) {
		req_reply_err(r, &e);
		return NULL;
	}
	return x;
}

/* {"exec_id": ...}, for answers that say little more. */
static struct json_object *about(const struct exec *x)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "exec_id", json_object_new_string(exec_id(x)));
	return o;
}

/* ---- the state ---- */

static int add_info(void *arg, const struct exec_info *i)
{
	struct json_object *o = exec_json_info(i);

	return o ? json_object_array_add(arg, o) : -ENOMEM;
}

static void handle_list(struct req *r)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	struct err e = ERR_INIT;
	int k;

	json_object_object_add(o, "execs", list);
	k = exec_each(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), add_info, list, &e);
	if (k >= 0) {
		req_reply_json(r, 200, o);
		return;
	}
	json_object_put(o);
	if (e.kind == ERR_NONE)
		(void)err_errno(&e, -k, "exec");
	req_reply_err(r, &e);
}

static void reply_info(struct req *r, unsigned int status, const struct exec *x)
{
	struct exec_info i;
	struct json_object *o;

	exec_get_info(x, &i);
	o = exec_json_info(&i);
	if (!o) {
		reply_no_memory(r);
		return;
	}
	json_object_object_add(o, "status", json_object_new_string(i.running ? "running" : "ended"));
	req_reply_json(r, status, o);
}

static int add_output(struct buf *b, const struct exec *x, enum exec_stream s, const char *name)
{
	_cleanup_buf_ struct buf text = BUF_INIT(EXEC_LOG_HEAD + EXEC_LOG_TAIL + 128);
	bool truncated;
	int k = exec_text(x, s, &text, &truncated);

	if (k >= 0)
		k = buf_printf(b, ",\"%s_truncated\":%s,\"%s\":", name, truncated ? "true" : "false", name);
	return k < 0 ? k : json_text_string(b, text.len > 0 ? text.p : "", text.len, true, NULL);
}

/* The state, and what was written so far. */
static void handle_get(struct req *r)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OUTPUT_MAX);
	struct json_object *o;
	struct exec_info i;
	const struct exec *x = find(r);
	size_t n;
	int k;

	if (!x)
		return;
	exec_get_info(x, &i);
	o = exec_json_info(&i);
	k = o ? buf_puts(&b, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE))
	      : -ENOMEM;
	json_object_put(o);
	n = b.len;
	if (k >= 0) {
		b.len = n - 1; /* the closing brace comes last */
		k = add_output(&b, x, EXEC_STDOUT, "stdout");
	}
	if (k >= 0)
		k = add_output(&b, x, EXEC_STDERR, "stderr");
	if (k >= 0)
		k = buf_puts(&b, "}");
	if (k < 0)
		reply_no_memory(r);
	else
		req_reply_buf(r, 200, "application/json", &b);
}

/* ---- waiting for a change of state ---- */

struct watch {
	struct req *req;
	struct exec_reader *reader;
	unsigned int status;
	bool to_the_end; /* else: until its process is there */
};

static void watch_free(void *arg)
{
	struct watch *w = arg;

	exec_reader_free(w->reader);
	free(w);
}

static bool watch_check(struct watch *w)
{
	struct exec *x = exec_reader_exec(w->reader);
	struct exec_info i;

	exec_get_info(x, &i);
	if (i.running && (w->to_the_end || i.pid == 0))
		return false;
	reply_info(w->req, w->status, x);
	return true;
}

static void on_change(void *arg)
{
	struct watch *w = arg;

	if (!watch_check(w))
		return;
	req_on_gone(w->req, NULL, NULL);
	watch_free(w);
}

static void reply_when(struct req *r, struct exec *x, unsigned int status, bool to_the_end)
{
	struct watch *w = calloc(1, sizeof(*w));
	const struct exec_reader_config c = { .after = EXEC_AFTER_OUTPUT, .wake = on_change, .arg = w };

	if (!w || exec_reader_new(x, &c, &w->reader, NULL) < 0) {
		free(w);
		reply_no_memory(r);
		return;
	}
	w->req = r;
	w->status = status;
	w->to_the_end = to_the_end;
	if (watch_check(w))
		watch_free(w);
	else
		req_on_gone(r, watch_free, w);
}

void exec_session_reply_started(struct req *r, struct exec *x)
{
	req_add_header(r, "X-Exec-Id", exec_id(x));
	reply_when(r, x, 202, false);
}

static void handle_delete(struct req *r)
{
	struct exec *x = find(r);
	struct err e = ERR_INIT;

	if (!x)
		return;
	if (exec_end(x, &e) < 0)
		req_reply_err(r, &e);
	else
		reply_when(r, x, 200, true);
}

/* ---- the stream again ---- */

/* Where the reader was: Last-Event-ID (HTML, "Server-sent events"), or ?after=. */
static bool read_after(struct req *r, uint64_t *ret)
{
	const char *query = req_query(r, "after"), *s = query ? query : req_header(r, "Last-Event-ID");

	*ret = 0;
	if (!s || !*s || text_parse_u64(s, 0, EXEC_AFTER_OUTPUT - 1, ret) == 0)
		return true;
	req_reply_invalid(r, query ? "query" : "header", query ? "after" : "Last-Event-ID", "int_parsing",
			  "Input should be the id of an event");
	return false;
}

static void handle_stream(struct req *r)
{
	struct exec_feed_options o = { .ndjson = req_accepts(r, "application/x-ndjson"), .primary = true };
	struct exec *x = find(r);

	if (x && read_after(r, &o.after))
		(void)exec_feed_start(r, x, &o);
}

/* ---- stdin, signal, resize ---- */

static const char *const encodings[] = { "utf-8", "base64", NULL };

struct stdin_body {
	struct json_object *data;
	const char *encoding;
	bool eof;
};

static const struct validate_field stdin_fields[] = {
	{ "data", VALIDATE_ANY, .offset = offsetof(struct stdin_body, data) },
	{ "encoding", VALIDATE_STRING, .choices = encodings, .offset = offsetof(struct stdin_body, encoding) },
	{ "eof", VALIDATE_BOOL, .offset = offsetof(struct stdin_body, eof) },
};

/* Text as it is, or decoded into *ret_memory, which is the caller's. */
static bool decode(const struct stdin_body *q, char **ret_memory, const char **ret, size_t *ret_n,
		   struct validate_errors *errs)
{
	ssize_t n;

	*ret = "";
	*ret_n = 0;
	if (!q->data)
		return true;
	if (!json_object_is_type(q->data, json_type_string)) {
		validate_add(errs, "body", "data", -1, "string_type", "Input should be a valid string");
		return false;
	}
	*ret = json_object_get_string(q->data);
	*ret_n = (size_t)json_object_get_string_len(q->data);
	if (!q->encoding || strcmp(q->encoding, "base64") != 0)
		return true;
	*ret_memory = malloc(*ret_n / 4 * 3 + 3);
	n = *ret_memory ? text_base64_decode(*ret, *ret_n, *ret_memory) : -ENOMEM;
	if (n < 0) {
		validate_add(errs, "body", "data", -1, "value_error", "Value error, not base 64");
		return false;
	}
	*ret = *ret_memory;
	*ret_n = (size_t)n;
	return true;
}

static void handle_stdin(struct req *r)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { 0 };
	_cleanup_free_ char *memory = NULL;
	struct stdin_body q = { 0 };
	struct err e = ERR_INIT;
	struct exec *x;
	const char *p;
	size_t n, waiting;

	if (!o)
		return;
	validate_object(o, stdin_fields, ARRAY_SIZE(stdin_fields), &q, &errs);
	(void)decode(&q, &memory, &p, &n, &errs);
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, stdin_fields, ARRAY_SIZE(stdin_fields));
	x = find(r);
	if (!x)
		return;
	if (exec_stdin(x, p, n, q.eof, &waiting, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	o = about(x);
	json_object_object_add(o, "accepted", json_object_new_uint64(n));
	json_object_object_add(o, "waiting", json_object_new_uint64(waiting));
	json_object_object_add(o, "eof", json_object_new_boolean(q.eof));
	req_reply_json(r, 200, o);
}

struct signal_body {
	struct json_object *signal;
	bool tree;
};

static const struct validate_field signal_fields[] = {
	{ "signal", VALIDATE_ANY, .required = true, .offset = offsetof(struct signal_body, signal) },
	{ "tree", VALIDATE_BOOL, .offset = offsetof(struct signal_body, tree) },
};

/* A name or a number; 0 when it is neither. */
static int signal_of(struct json_object *v)
{
	int64_t n;

	if (json_object_is_type(v, json_type_string))
		return exec_signal_number(json_object_get_string(v));
	if (!json_object_is_type(v, json_type_int))
		return 0;
	n = json_object_get_int64(v);
	return n > 0 && n <= SIGRTMAX ? (int)n : 0;
}

static void handle_signal(struct req *r)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { 0 };
	struct signal_body q = { .tree = true };
	char name[EXEC_SIGNAL_NAME_SIZE];
	struct err e = ERR_INIT;
	struct exec *x;
	int sig;

	if (!o)
		return;
	validate_object(o, signal_fields, ARRAY_SIZE(signal_fields), &q, &errs);
	sig = q.signal ? signal_of(q.signal) : 0;
	if (q.signal && sig == 0)
		validate_add(&errs, "body", "signal", -1, "value_error",
			     "Value error, the name of a signal or a number from 1 to %d", SIGRTMAX);
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, signal_fields, ARRAY_SIZE(signal_fields));
	x = find(r);
	if (!x)
		return;
	if (exec_signal(x, sig, q.tree, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	exec_signal_name(sig, name);
	o = about(x);
	json_object_object_add(o, "signal", json_object_new_string(name));
	json_object_object_add(o, "tree", json_object_new_boolean(q.tree));
	req_reply_json(r, 200, o);
}

const struct validate_field exec_size_fields[EXEC_SIZE_FIELDS] = {
	{ "rows", VALIDATE_INT, .min = 1, .max = SIZE_MAX_CELLS, .offset = offsetof(struct exec_size_body, rows) },
	{ "cols", VALIDATE_INT, .min = 1, .max = SIZE_MAX_CELLS, .offset = offsetof(struct exec_size_body, cols) },
};

static void handle_resize(struct req *r)
{
	struct json_object *o = req_json(r);
	struct validate_errors errs = { 0 };
	struct exec_size_body q = { 0 };
	struct err e = ERR_INIT;
	struct exec *x;

	if (!o)
		return;
	validate_object(o, exec_size_fields, EXEC_SIZE_FIELDS, &q, &errs);
	if (!errs.list && q.rows == 0)
		validate_add(&errs, "body", "rows", -1, "missing", "Field required");
	if (!errs.list && q.cols == 0)
		validate_add(&errs, "body", "cols", -1, "missing", "Field required");
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, exec_size_fields, EXEC_SIZE_FIELDS);
	x = find(r);
	if (!x)
		return;
	if (exec_resize(x, (struct exec_size){ (uint16_t)q.rows, (uint16_t)q.cols }, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	o = about(x);
	json_object_object_add(o, "rows", json_object_new_int64(q.rows));
	json_object_object_add(o, "cols", json_object_new_int64(q.cols));
	req_reply_json(r, 200, o);
}

#define EXECS "/v1/sandboxes/{id}/exec"
#define EXEC EXECS "/{exec_id}"

static const struct route routes[] = {
	{ "GET", EXECS, SCOPE_READ, 0, handle_list, NULL, NULL },
	{ "GET", EXEC, SCOPE_READ, 0, handle_get, NULL, NULL },
	{ "DELETE", EXEC, SCOPE_WRITE, 0, handle_delete, NULL, NULL },
	{ "GET", EXEC "/stream", SCOPE_READ, 0, handle_stream, NULL, NULL },
	{ "POST", EXEC "/stdin", SCOPE_WRITE, STDIN_BODY_MAX, handle_stdin, NULL, NULL },
	{ "POST", EXEC "/signal", SCOPE_WRITE, SMALL_BODY_MAX, handle_signal, NULL, NULL },
	{ "POST", EXEC "/resize", SCOPE_WRITE, SMALL_BODY_MAX, handle_resize, NULL, NULL },
};

void exec_session_add_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
