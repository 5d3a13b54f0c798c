/* Chunks are encoded when the connection asks for more, one at a time, so a response holds no more than
 * one of them; what waits is in the exec's log, whose bounds are the exec's business.
 *
 * The first chunk names the exec. After the last chunk nothing is sent any more. A chunk that could not be
 * encoded breaks the response off: no end is made up. */

#include "api/exec_feed.h"
#include "api/req.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "api/exec_json.h"
#include "api/json_text.h"
#include "emulator/base/log.h"
#include "emulator/fault.h"

#define KEEP_ALIVE_MS 15000
/* What the kernel holds for a reader that has stopped: by default megabytes, which neither slow the command
 * nor are there for a reader that comes back. */
#define SEND_BUFFER (128 << 10)
#define CHUNK_MAX (256u << 10) /* a piece of the log, each byte as \u00XX, and its frame */

struct exec_feed {
	struct req *req;
	struct exec_reader *reader;
	struct buf chunk;
	size_t sent; /* of chunk */
	uv_timer_t timer;
	int64_t cut;  /* a fault: so many events still go out, then it breaks off; -1: none */
	bool no_last; /* a fault: the last chunk does not go out */
	bool ndjson, named, failed;
};

static const char *const stream_names[] = { [EXEC_STDOUT] = "stdout", [EXEC_STDERR] = "stderr" };

/* ---- chunks ---- */

static int begin_chunk(struct exec_feed *f, uint64_t id, enum exec_stream s)
{
	int r = 0;

	if (!f->ndjson)
		r = buf_printf(&f->chunk, "id: %llu\ndata: ", (unsigned long long)id);
	return r < 0 ? r : buf_printf(&f->chunk, "{\"stream\":\"%s\",\"data\":", stream_names[s]);
}

static int end_chunk(struct exec_feed *f, uint64_t id)
{
	int r = buf_printf(&f->chunk, ",\"seq\":%llu", (unsigned long long)id);

	if (r >= 0 && !f->named)
		r = buf_printf(&f->chunk, ",\"exec_id\":\"%s\"", exec_id(exec_reader_exec(f->reader)));
	f->named = true;
	return r < 0 ? r : buf_puts(&f->chunk, f->ndjson ? "}\n" : "}\n\n");
}

static int add_announcement(struct exec_feed *f, uint64_t id)
{
	int r = begin_chunk(f, id, EXEC_STDOUT);

	if (r >= 0)
		r = buf_puts(&f->chunk, "\"\",\"is_final\":false");
	return r < 0 ? r : end_chunk(f, id);
}

static int add_event(struct exec_feed *f, const struct exec_event *ev)
{
	int r = begin_chunk(f, ev->id, ev->stream);

	if (r < 0)
		return r;
	switch (ev->kind) {
	case EXEC_EVENT_OUTPUT:
		r = json_text_string(&f->chunk, ev->p, ev->n, true, NULL);
		if (r >= 0)
			r = buf_puts(&f->chunk, ",\"is_final\":false");
		break;
	case EXEC_EVENT_GAP:
		r = buf_printf(&f->chunk, "\"\",\"is_final\":false,\"gap\":true,\"missed_bytes\":%llu",
			       (unsigned long long)ev->missed);
		break;
	case EXEC_EVENT_END:
		r = buf_puts(&f->chunk, "\"\",\"is_final\":true,");
		if (r >= 0)
			r = exec_json_outcome(&f->chunk, ev->result);
		if (r >= 0)
			r = buf_puts(&f->chunk, ",");
		if (r >= 0)
			r = exec_json_blocked(&f->chunk, "network_blocked", ev->result);
		break;
	}
	return r < 0 ? r : end_chunk(f, ev->id);
}

/* ---- the response ---- */

/* True while there is something in the chunk. */
static bool next_chunk(struct exec_feed *f)
{
	struct exec_event ev;

	if (f->sent < f->chunk.len)
		return true;
	buf_reset(&f->chunk);
	f->sent = 0;
	f->failed |= f->cut == 0;
	if (f->failed || !exec_reader_next(f->reader, &ev) || (f->no_last && ev.kind == EXEC_EVENT_END))
		return false;
	if (f->cut > 0)
		f->cut--;
	if (add_event(f, &ev) == 0)
		return true;
	log_warn("%s: a chunk of a streamed exec could not be made", req_id(f->req));
	f->failed = true;
	return false;
}

static ssize_t on_pull(void *arg, char *p, size_t cap)
{
	struct exec_feed *f = arg;
	size_t n = 0;

	while (n < cap && next_chunk(f)) {
		size_t k = MIN(cap - n, f->chunk.len - f->sent);

		memcpy(p + n, f->chunk.p + f->sent, k);
		f->sent += k;
		n += k;
	}
	if (n > 0)
		return (ssize_t)n;
	return f->failed ? -2 : exec_reader_over(f->reader) ? -1 : 0;
}

static void on_wake(void *arg)
{
	struct exec_feed *f = arg;

	req_wake(f->req);
}

static void on_keep_alive(uv_timer_t *timer)
{
	struct exec_feed *f = timer->data;

	/* Anything that waits to be sent does as well. */
	if (f->sent == f->chunk.len && buf_puts(&f->chunk, ": keep-alive\n\n") == 0)
		req_wake(f->req);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct exec_feed *f = handle->data;

	buf_free(&f->chunk);
	free(f);
}

static void on_response_over(void *arg)
{
	struct exec_feed *f = arg;

	exec_reader_free(TAKE_PTR(f->reader));
	uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

bool exec_feed_start(struct req *r, struct exec *x, const struct exec_feed_options *o)
{
	struct exec_feed *f = calloc(1, sizeof(*f));
	struct exec_reader_config c = { .after = o->after, .primary = o->primary, .wake = on_wake, .arg = f };
	struct err e = ERR_INIT;
	int k = f ? exec_reader_new(x, &c, &f->reader, &e) : err_errno(&e, ENOMEM, "exec");

	if (k < 0) {
		free(f);
		req_reply_err(r, &e);
		return false;
	}
	*f = (struct exec_feed){
		.req = r, .reader = f->reader, .ndjson = o->ndjson, .chunk = BUF_INIT(CHUNK_MAX), .cut = -1
	};
	if (req_fault(r)) {
		f->cut = req_fault(r)->cut;
		f->no_last = req_fault(r)->no_last_chunk;
	}
	req_add_header(r, "X-Exec-Id", exec_id(x));
	req_add_header(r, "Cache-Control", "no-store");
	if (exec_reader_over(f->reader)) {
		exec_reader_free(f->reader);
		free(f);
		req_reply_empty(r, 204);
		return true;
	}
	(void)uv_timer_init(req_loop(r), &f->timer);
	f->timer.data = f;
	if (!f->ndjson)
		(void)uv_timer_start(&f->timer, on_keep_alive, KEEP_ALIVE_MS, KEEP_ALIVE_MS);
	(void)setsockopt(req_fd(r), SOL_SOCKET, SO_SNDBUF, &(int){ SEND_BUFFER }, sizeof(int));
	if (o->announce && add_announcement(f, MAX(o->after, 1)) < 0)
		f->failed = true;
	req_reply_stream(r, 200, f->ndjson ? "application/x-ndjson" : "text/event-stream", on_pull, on_response_over,
			 f);
	return true;
}
