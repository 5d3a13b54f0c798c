/* A build's log: as one JSON answer of what there is, or as a stream that goes on to the build's end
 * (Server-Sent Events, or NDJSON). The log is a file (emulator/tmpl.h); an event's id is where its line
 * ends in it, so a client that comes back goes on behind the last one it has seen. */

#include "api/routes_templates.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "api/req.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/tmpl.h"

#define KEEP_ALIVE_MS 15000
#define BLOCK (64u << 10)
#define LINE_LENGTH (1u << 20)
#define WHOLE_MAX (64u << 20) /* what TMPL_LOG_MAX bytes of output can become */

struct log_feed {
	struct req *req;
	struct tmpl_watch *watch; /* NULL: no more will come */
	int fd;
	uint64_t at;	/* of the file: behind what was handed on as lines */
	struct buf in;	/* the file behind `at` */
	struct buf out; /* to be sent */
	size_t sent;
	uv_timer_t timer;
	bool ndjson, failed;
};

/* ---- the stream ---- */

/* Whole lines of `in` to `out`. */
static int take_lines(struct log_feed *f)
{
	const char *p = f->in.p, *end = p + f->in.len, *nl;
	int r = 0;

	for (; r >= 0 && p < end && (nl = memchr(p, '\n', (size_t)(end - p))); p = nl + 1) {
		f->at += (uint64_t)(nl + 1 - p);
		if (f->ndjson)
			r = buf_add(&f->out, p, (size_t)(nl + 1 - p));
		else
			r = buf_printf(&f->out, "id: %llu\ndata: %.*s\n\n", (unsigned long long)f->at, (int)(nl - p),
				       p);
	}
	f->in.len -= (size_t)(p - f->in.p);
	memmove(f->in.p, p, f->in.len);
	return r;
}

/* 1: there is something to be sent; 0: not now; -1: it is over; below: broken. */
static int fill(struct log_feed *f)
{
	bool over = !f->watch || tmpl_watch_over(f->watch); /* before the read: what came until then is in it */
	char *to;
	ssize_t n;
	int r;

	buf_reset(&f->out);
	f->sent = 0;
	while (f->out.len == 0) {
		r = buf_reserve(&f->in, BLOCK, &to);
		if (r < 0)
			return -2;
		n = pread(f->fd, to, BLOCK, (off_t)(f->at + f->in.len));
		if (n < 0)
			return -2;
		if (n == 0)
			return over ? -1 : 0;
		buf_commit(&f->in, (size_t)n);
		if (take_lines(f) < 0)
			return -2;
	}
	return 1;
}

static ssize_t on_pull(void *arg, char *p, size_t cap)
{
	struct log_feed *f = arg;
	size_t n;

	if (f->sent == f->out.len) {
		int r = f->failed ? -2 : fill(f);

		if (r <= 0) {
			f->failed = r < -1;
			return r;
		}
	}
	n = MIN(cap, f->out.len - f->sent);
	memcpy(p, f->out.p + f->sent, n);
	f->sent += n;
	return (ssize_t)n;
}

static void on_wake(void *arg)
{
	struct log_feed *f = arg;

	req_wake(f->req);
}

static void on_keep_alive(uv_timer_t *timer)
{
	struct log_feed *f = timer->data;

	if (f->sent < f->out.len)
		return;
	buf_reset(&f->out);
	f->sent = 0;
	if (buf_puts(&f->out, ": keep-alive\n\n") == 0)
		req_wake(f->req);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct log_feed *f = handle->data;

	buf_free(&f->in);
	buf_free(&f->out);
	closep(&f->fd);
	free(f);
}

static void on_response_over(void *arg)
{
	struct log_feed *f = arg;

	tmpl_watch_free(TAKE_PTR(f->watch));
	uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

/* ---- the request ---- */

/* Where to begin: behind a line. False: answered. */
static bool read_after(struct req *r, int fd, uint64_t *ret)
{
	const char *query = req_query(r, "after"), *s = query ? query : req_header(r, "Last-Event-ID");
	struct stat st;
	char c;

	*ret = 0;
	if (!s || !*s)
		return true;
	if (fstat(fd, &st) == 0 && text_parse_u64(s, 0, (uint64_t)st.st_size, ret) == 0 &&
	    (*ret == 0 || (pread(fd, &c, 1, (off_t)*ret - 1) == 1 && c == '\n')))
		return true;
	req_reply_invalid(r, query ? "query" : "header", query ? "after" : "Last-Event-ID", "value_error",
			  "Value error, not the id of an event of this log");
	return false;
}

static void reply_stream(struct req *r, int fd, struct log_feed *f, uint64_t at, bool ndjson)
{
	f->req = r;
	f->fd = fd;
	f->at = at;
	f->ndjson = ndjson;
	(void)uv_timer_init(req_loop(r), &f->timer);
	f->timer.data = f;
	if (!ndjson)
		(void)uv_timer_start(&f->timer, on_keep_alive, KEEP_ALIVE_MS, KEEP_ALIVE_MS);
	req_add_header(r, "Cache-Control", "no-store");
	req_reply_stream(r, 200, ndjson ? "application/x-ndjson" : "text/event-stream", on_pull, on_response_over, f);
}

static void handle_stream(struct req *r, bool ndjson)
{
	struct log_feed *f = calloc(1, sizeof(*f));
	struct err e = ERR_INIT;
	uint64_t at;
	int fd;

	if (!f) {
		(void)err_errno(&e, ENOMEM, "log");
		req_reply_err(r, &e);
		return;
	}
	*f = (struct log_feed){ .fd = -1,
				.in = BUF_INIT(LINE_LENGTH + BLOCK),
				.out = BUF_INIT(2 * LINE_LENGTH + 4 * BLOCK) };
	fd = tmpl_log_open(req_api(r)->tmpls, req_account(r), req_param(r, "id"), on_wake, f, &f->watch, &e);
	if (fd < 0)
		req_reply_err(r, &e);
	else if (read_after(r, fd, &at)) {
		reply_stream(r, fd, f, at, ndjson);
		return;
	}
	tmpl_watch_free(f->watch);
	closep(&fd);
	free(f);
}

/* The lines are JSON already: what goes around them is all there is to make. */
static int whole(struct buf *b, const struct tmpl_row *row, int fd, uint64_t at)
{
	char *to;
	ssize_t n = 1;
	size_t begin;
	int r = buf_printf(b, "{\"id\":\"%s\",\"status\":\"%s\",\"lines\":[", row->id, tmpl_status_name(row->status));

	begin = b->len;
	while (r >= 0 && n > 0) {
		r = buf_reserve(b, BLOCK, &to);
		n = r < 0 ? r : pread(fd, to, BLOCK, (off_t)at);
		if (n < 0)
			return r < 0 ? r : -errno;
		buf_commit(b, (size_t)n);
		at += (uint64_t)n;
	}
	for (size_t i = begin; i < b->len; i++)
		if (b->p[i] == '\n')
			b->p[i] = ',';
	if (r >= 0 && b->len > begin && b->p[b->len - 1] == ',')
		b->p[--b->len] = '\0';
	return r < 0 ? r : buf_printf(b, "],\"next\":%llu}", (unsigned long long)at);
}

static void handle_whole(struct req *r)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	_cleanup_buf_ struct buf b = BUF_INIT(WHOLE_MAX);
	struct tmpl_watch *none = NULL;
	struct err e = ERR_INIT;
	_cleanup_close_ int fd = -1;
	uint64_t at;
	int k;

	k = tmpl_get(req_api(r)->tmpls, req_account(r), req_param(r, "id"), &row, &e);
	if (k >= 0)
		k = fd = tmpl_log_open(req_api(r)->tmpls, req_account(r), row.id, NULL, NULL, &none, &e);
	if (k >= 0) {
		if (!read_after(r, fd, &at))
			return;
		k = whole(&b, &row, fd, at);
		if (k < 0)
			(void)err_errno(&e, -k, "a build's log");
	}
	if (k < 0)
		req_reply_err(r, &e);
	else
		req_reply_buf(r, 200, "application/json", &b);
}

void templates_log_handle(struct req *r)
{
	if (req_accepts(r, "text/event-stream"))
		handle_stream(r, false);
	else if (req_accepts(r, "application/x-ndjson"))
		handle_stream(r, true);
	else
		handle_whole(r);
}
