/* Answers. Each makes a response object with every header the wire asks for and keeps it in the request;
 * http.c queues it where libmicrohttpd allows that, which may be later. */

#include "api/req.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "api/api.h"
#include "api/errors.h"
#include "api/inject.h"
#include "api/subreq.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"

#define STREAM_BLOCK 16384 /* for HTTP/1.0; chunks use the connection's own memory */
#define FILE_BLOCK (128u << 10)

void req_add_header(struct req *r, const char *name, const char *value)
{
	struct req_header_pair h = { strdup(name), strdup(value) };

	if (!h.name || !h.value || r->n_headers == REQ_MAX_HEADERS) {
		free(h.name);
		free(h.value);
		log_warn("%s: header %s was dropped", r->id, name);
		return;
	}
	r->headers[r->n_headers++] = h;
}

void req_divergence(struct req *r, const char *slug)
{
	size_t len = strlen(r->divergence), n = strlen(slug);

	for (const char *p = r->divergence; (p = strstr(p, slug)); p += n)
		if ((p == r->divergence || p[-1] == ' ') && (p[n] == '\0' || p[n] == ','))
			return;
	if (len + n + 3 > sizeof(r->divergence))
		return;
	(void)snprintf(r->divergence + len, sizeof(r->divergence) - len, "%s%s", len > 0 ? ", " : "", slug);
}

static void add_headers(struct req *r, struct MHD_Response *m, const char *type)
{
	if (type)
		(void)MHD_add_response_header(m, "Content-Type", type);
	(void)MHD_add_response_header(m, "X-Request-Id", r->id);
	(void)MHD_add_response_header(m, "X-Orkestr-Emulator", ORKESTR_VERSION);
	if (r->divergence[0])
		(void)MHD_add_response_header(m, "X-Orkestr-Divergence", r->divergence);
	if (r->http->quiesced)
		(void)MHD_add_response_header(m, "Connection", "close");
	for (size_t i = 0; i < r->n_headers; i++)
		(void)MHD_add_response_header(m, r->headers[i].name, r->headers[i].value);
}

/* Takes the response (NULL: it could not be made, and the connection will be closed). */
static void answer(struct req *r, unsigned int status, const char *type, struct MHD_Response *m)
{
	if (r->status != 0) {
		log_error("%s: answered twice (%u, then %u)", r->id, r->status, status);
		if (m)
			MHD_destroy_response(m);
		return;
	}
	r->status = status;
	inject_header(r);
	if (m)
		add_headers(r, m, type);
	else
		r->broken = true;
	r->resp = m;
	req_resume(r);
}

/* For an answer whose body is all there: the response, or one that breaks off in the middle. */
static struct MHD_Response *whole_body(struct req *r, const void *p, size_t n, enum MHD_ResponseMemoryMode mode)
{
	r->out_bytes = n;
	if (inject_breaks_body(r))
		return inject_half(r, p, n);
	return MHD_create_response_from_buffer(n, (void *)(uintptr_t)p, mode);
}

void req_reply_plain(struct req *r, unsigned int status, const char *json)
{
	if (r->sub) {
		subreq_reply(r, status, json, strlen(json));
		return;
	}
	answer(r, status, "application/json", whole_body(r, json, strlen(json), MHD_RESPMEM_PERSISTENT));
}

static void put_json(void *o)
{
	json_object_put(o);
}

void req_reply_json(struct req *r, unsigned int status, struct json_object *o)
{
	size_t n = 0;
	const char *s =
		json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &n);
	struct MHD_Response *m = NULL;

	if (r->sub) {
		subreq_reply(r, status, s ? s : "", s ? n : 0);
		json_object_put(o);
		return;
	}
	/* The text belongs to the object, which lives as long as the response. */
	if (s && inject_breaks_body(r))
		m = whole_body(r, s, n, MHD_RESPMEM_MUST_COPY);
	else if (s)
		m = MHD_create_response_from_buffer_with_free_callback_cls(n, (void *)(uintptr_t)s, put_json, o);
	r->out_bytes = n;
	if (!m || inject_breaks_body(r))
		json_object_put(o);
	answer(r, status, "application/json", m);
}

void req_reply_empty(struct req *r, unsigned int status)
{
	static char none[1];

	if (r->sub) {
		subreq_reply(r, status, "", 0);
		return;
	}
	answer(r, status, NULL, MHD_create_response_from_buffer(0, none, MHD_RESPMEM_PERSISTENT));
}

void req_reply_bytes(struct req *r, unsigned int status, const char *type, const void *p, size_t n)
{
	if (r->sub) {
		subreq_reply(r, status, n > 0 ? p : "", n);
		return;
	}
	answer(r, status, type, whole_body(r, n > 0 ? p : r->id, n, MHD_RESPMEM_MUST_COPY));
}

void req_reply_buf(struct req *r, unsigned int status, const char *type, struct buf *b)
{
	struct MHD_Response *m;

	if (r->sub) {
		subreq_reply(r, status, b->len > 0 ? b->p : "", b->len);
		buf_free(b);
		return;
	}
	if (b->len == 0) {
		buf_free(b);
		req_reply_bytes(r, status, type, NULL, 0);
		return;
	}
	m = whole_body(r, b->p, b->len, MHD_RESPMEM_MUST_FREE);
	if (m && !inject_breaks_body(r))
		b->p = NULL;
	buf_free(b);
	answer(r, status, type, m);
}

/* libmicrohttpd would use sendfile(2), but if the file has become shorter than was promised it then waits for
 * more until its time-out; read by us, the answer is broken off at once. Its own reader takes 4 KiB at a time. */
struct file_part {
	int fd, sock;
	uint64_t from, stop; /* where a fault breaks it off */
};

static ssize_t file_part_read(void *arg, uint64_t pos, char *p, size_t cap)
{
	const struct file_part *f = arg;
	ssize_t n;

	if (pos >= f->stop) {
		inject_reset(f->sock);
		return MHD_CONTENT_READER_END_WITH_ERROR;
	}
	cap = (size_t)MIN((uint64_t)cap, f->stop - pos);
	do
		n = pread(f->fd, p, cap, (off_t)(f->from + pos));
	while (n < 0 && errno == EINTR);
	return n > 0 ? n : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void file_part_free(void *arg)
{
	struct file_part *f = arg;

	closep(&f->fd);
	free(f);
}

void req_reply_fd(struct req *r, unsigned int status, const char *type, int fd, uint64_t offset, uint64_t n)
{
	struct file_part *f = n > 0 ? malloc(sizeof(*f)) : NULL;
	struct MHD_Response *m = NULL;

	if (r->sub) { /* the bytes of a file, which nothing inside asks for */
		(void)close(fd);
		free(f);
		subreq_reply(r, 500, "", 0);
		return;
	}
	if (!f) {
		(void)close(fd);
		if (n > 0)
			answer(r, status, type, NULL);
		else
			req_reply_bytes(r, status, type, NULL, 0);
		return;
	}
	*f = (struct file_part){ fd, req_fd(r), offset, inject_breaks_body(r) ? n / 2 : UINT64_MAX };
	r->out_bytes = n;
	m = MHD_create_response_from_callback(n, (size_t)MIN(n, (uint64_t)FILE_BLOCK), file_part_read, f,
					      file_part_free);
	if (!m)
		file_part_free(f);
	answer(r, status, type, m);
}

void req_reply_stream(struct req *r, unsigned int status, const char *type,
		      ssize_t (*pull)(void *arg, char *p, size_t cap), void (*free_fn)(void *arg), void *arg)
{
	if (r->status != 0) {
		log_error("%s: answered twice (%u, then %u)", r->id, r->status, status);
		free_fn(arg);
		return;
	}
	r->pull = pull;
	r->pull_free = free_fn;
	r->pull_arg = arg;
	if (r->sub) {
		r->status = status;
		subreq_wake(r);
		return;
	}
	answer(r, status, type, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, req_pull, r, NULL));
}

void req_set_code(struct req *r, const char *code)
{
	(void)snprintf(r->code, sizeof(r->code), "%s", code);
}

static struct json_object *text_object(const char *s)
{
	_cleanup_buf_ struct buf b = BUF_INIT(4096);

	/* A message may quote a path or a name in any bytes; JSON may not. */
	if (text_utf8_sanitize(s, strlen(s), true, &b, NULL) < 0 || !b.p)
		return json_object_new_string("");
	return json_object_new_string_len(b.p, (int)b.len);
}

static void merge(struct json_object *into, struct json_object *extra)
{
	json_object_object_foreach(extra, key, value)
	{
		json_object_object_add(into, key, json_object_get(value));
	}
	json_object_put(extra);
}

void req_reply_err_with(struct req *r, const struct err *e, struct json_object *extra)
{
	struct json_object *o = json_object_new_object();
	struct errors_answer a;
	char detail[160];

	errors_map(e, &a);
	if (a.status >= 500 || a.detail)
		log_write(a.status == 500 ? LOG_LEVEL_ERROR : LOG_LEVEL_INFO, "%s: %s (%s)", r->id, e->msg,
			  err_kind_name(e->kind));
	if (a.detail) {
		(void)snprintf(detail, sizeof(detail), "%s, see the emulator's log for %s", a.detail, r->id);
		json_object_object_add(o, "detail", json_object_new_string(detail));
	} else {
		json_object_object_add(o, "detail", text_object(e->msg));
	}
	json_object_object_add(o, "code", json_object_new_string(a.code));
	req_set_code(r, a.code);
	if (extra)
		merge(o, extra);
	if (a.status == 401)
		req_add_header(r, "WWW-Authenticate", "Bearer");
	req_reply_json(r, a.status, o);
}

void req_reply_err(struct req *r, const struct err *e)
{
	req_reply_err_with(r, e, NULL);
}

void req_reply_invalid_at(struct req *r, struct json_object *loc, const char *type, const char *msg)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	struct json_object *item = json_object_new_object();

	json_object_object_add(item, "loc", loc);
	json_object_object_add(item, "msg", text_object(msg));
	json_object_object_add(item, "type", json_object_new_string(type));
	json_object_array_add(list, item);
	json_object_object_add(o, "detail", list);
	json_object_object_add(o, "code", json_object_new_string("validation_error"));
	req_set_code(r, "validation_error");
	req_reply_json(r, 422, o);
}

void req_reply_invalid(struct req *r, const char *where, const char *field, const char *type, const char *fmt, ...)
{
	struct json_object *loc = json_object_new_array();
	char msg[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	json_object_array_add(loc, json_object_new_string(where));
	json_object_array_add(loc, text_object(field));
	req_reply_invalid_at(r, loc, type, msg);
}
