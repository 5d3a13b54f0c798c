/* A build's log: as one JSON answer of what there is, or as a stream that goes on to the build's end
 * (Server-Sent Events, or NDJSON). The log is a file (emulator/tmpl.h); an event's id is where its line
 * ends in it, so a client that comes back goes on behind the last one it has seen. */

#include "api/routes_templates.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "api/feed.h"
#include "api/req.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/tmpl.h"

#define BLOCK (64u << 10)
#define LINE_LENGTH (1u << 20)
#define WHOLE_MAX (64u << 20) /* what TMPL_LOG_MAX bytes of output can become */

struct log_feed {
	struct feed feed;
	struct tmpl_watch *watch; /* NULL: no more will come */
	int fd;
	uint64_t at;   /* of the file: behind what was handed on as lines */
	struct buf in; /* the file behind `at` */
	bool over;
};

/* ---- the stream ---- */

/* Whole lines of `in` to the chunk. */
static int take_lines(struct log_feed *f)
{
	const char *p = f->in.p, *end = p + f->in.len, *nl;
	int r = 0;

	for (; r >= 0 && p < end && (nl = memchr(p, '\n', (size_t)(end - p))); p = nl + 1) {
		f->at += (uint64_t)(nl + 1 - p);
		if (f->feed.ndjson)
			r = buf_add(&f->feed.chunk, p, (size_t)(nl + 1 - p));
		else
			r = buf_printf(&f->feed.chunk, "id: %llu\ndata: %.*s\n\n", (unsigned long long)f->at,
				       (int)(nl - p), p);
	}
	f->in.len -= (size_t)(p - f->in.p);
	memmove(f->in.p, p, f->in.len);
	return r;
}

static int next_lines(struct feed *feed)
{
	struct log_feed *f = (struct log_feed *)feed;
	bool over = !f->watch || tmpl_watch_over(f->watch); /* before the read: what came until then is in it */
	char *to;
	ssize_t n;
	int r;

	while (feed->chunk.len == 0) {
		r = buf_reserve(&f->in, BLOCK, &to);
		if (r < 0)
			return r;
		n = pread(f->fd, to, BLOCK, (off_t)(f->at + f->in.len));
		if (n < 0)
			return -errno;
		f->over = over && n == 0;
		if (n == 0)
			return 0;
		buf_commit(&f->in, (size_t)n);
		r = take_lines(f);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_over(struct feed *feed)
{
	return ((struct log_feed *)feed)->over;
}

static void response_over(struct feed *feed)
{
	tmpl_watch_free(TAKE_PTR(((struct log_feed *)feed)->watch));
}

static void log_feed_free(struct feed *feed)
{
	struct log_feed *f = (struct log_feed *)feed;

	buf_free(&f->in);
	closep(&f->fd);
	free(f);
}

static const struct feed_ops ops = { .next = next_lines, .over = is_over, .end = response_over, .free = log_feed_free };

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
	*f = (struct log_feed){ .feed = FEED_INIT(&ops, r, 2 * LINE_LENGTH + 4 * BLOCK, ndjson),
				.fd = -1,
				.in = BUF_INIT(LINE_LENGTH + BLOCK) };
	fd = tmpl_log_open(req_api(r)->tmpls, req_account(r), req_param(r, "id"), feed_wake, f, &f->watch, &e);
	if (fd < 0)
		req_reply_err(r, &e);
	else if (read_after(r, fd, &at)) {
		f->fd = fd;
		f->at = at;
		feed_start(&f->feed);
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
