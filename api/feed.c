#include "api/feed.h"

#include <errno.h>
#include <string.h>

#include "api/req.h"

#define KEEP_ALIVE_MS 15000

/* True while there is something in the chunk. */
static bool next_chunk(struct feed *f)
{
	if (f->sent < f->chunk.len)
		return true;
	buf_reset(&f->chunk);
	f->sent = 0;
	f->failed = f->failed || f->ops->next(f) < 0;
	return !f->failed && f->chunk.len > 0;
}

static ssize_t on_pull(void *arg, char *p, size_t cap)
{
	struct feed *f = arg;
	size_t n = 0;

	while (n < cap && next_chunk(f)) {
		size_t k = MIN(cap - n, f->chunk.len - f->sent);

		memcpy(p + n, f->chunk.p + f->sent, k);
		f->sent += k;
		n += k;
	}
	if (n > 0)
		return (ssize_t)n;
	return f->failed ? -2 : f->ops->over && f->ops->over(f) ? -1 : 0;
}

void feed_wake(void *arg)
{
	struct feed *f = arg;

	req_wake(f->req);
}

static void on_keep_alive(uv_timer_t *timer)
{
	struct feed *f = timer->data;

	/* Anything that waits to be sent does as well. */
	if (f->sent < f->chunk.len)
		return;
	buf_reset(&f->chunk);
	f->sent = 0;
	if (buf_puts(&f->chunk, ": keep-alive\n\n") == 0)
		req_wake(f->req);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct feed *f = handle->data;

	buf_free(&f->chunk);
	f->ops->free(f);
}

static void on_response_over(void *arg)
{
	struct feed *f = arg;

	f->ops->end(f);
	uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

void feed_start(struct feed *f)
{
	(void)uv_timer_init(req_loop(f->req), &f->timer);
	f->timer.data = f;
	if (!f->ndjson)
		(void)uv_timer_start(&f->timer, on_keep_alive, KEEP_ALIVE_MS, KEEP_ALIVE_MS);
	req_add_header(f->req, "Cache-Control", "no-store");
	req_reply_stream(f->req, 200, f->ndjson ? "application/x-ndjson" : "text/event-stream", on_pull,
			 on_response_over, f);
}
