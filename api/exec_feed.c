/* Chunks are encoded when the connection asks for more (api/feed.h); what waits is in the exec's log, whose bounds are
 * the exec's business. The first chunk names the exec. After the last chunk nothing is sent any more. */

#include "api/exec_feed.h"
#include "api/req.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "api/exec_json.h"
#include "api/feed.h"
#include "api/json_text.h"
#include "emulator/base/log.h"
#include "emulator/fault.h"

/* What the kernel holds for a reader that has stopped: by default megabytes, which neither slow the command
 * nor are there for a reader that comes back. */
#define SEND_BUFFER (128 << 10)
#define CHUNK_MAX (256u << 10) /* a piece of the log, each byte as \u00XX, and its frame */

struct exec_feed {
	struct feed feed;
	struct exec_reader *reader;
	int64_t cut;  /* a fault: so many events still go out, then it breaks off; -1: none */
	bool no_last; /* a fault: the last chunk does not go out */
	bool named;
};

static const char *const stream_names[] = { [EXEC_STDOUT] = "stdout", [EXEC_STDERR] = "stderr" };

/* ---- chunks ---- */

static int begin_chunk(struct exec_feed *f, uint64_t id, enum exec_stream s)
{
	int r = 0;

	if (!f->feed.ndjson)
		r = buf_printf(&f->feed.chunk, "id: %llu\ndata: ", (unsigned long long)id);
	return r < 0 ? r : buf_printf(&f->feed.chunk, "{\"stream\":\"%s\",\"data\":", stream_names[s]);
}

static int end_chunk(struct exec_feed *f, uint64_t id)
{
	int r = buf_printf(&f->feed.chunk, ",\"seq\":%llu", (unsigned long long)id);

	if (r >= 0 && !f->named)
		r = buf_printf(&f->feed.chunk, ",\"exec_id\":\"%s\"", exec_id(exec_reader_exec(f->reader)));
	f->named = true;
	return r < 0 ? r : buf_puts(&f->feed.chunk, f->feed.ndjson ? "}\n" : "}\n\n");
}

static int add_announcement(struct exec_feed *f, uint64_t id)
{
	int r = begin_chunk(f, id, EXEC_STDOUT);

	if (r >= 0)
		r = buf_puts(&f->feed.chunk, "\"\",\"is_final\":false");
	return r < 0 ? r : end_chunk(f, id);
}

static int add_event(struct exec_feed *f, const struct exec_event *ev)
{
	int r = begin_chunk(f, ev->id, ev->stream);

	if (r < 0)
		return r;
	switch (ev->kind) {
	case EXEC_EVENT_OUTPUT:
		r = json_text_string(&f->feed.chunk, ev->p, ev->n, true, NULL);
		if (r >= 0)
			r = buf_puts(&f->feed.chunk, ",\"is_final\":false");
		break;
	case EXEC_EVENT_GAP:
		r = buf_printf(&f->feed.chunk, "\"\",\"is_final\":false,\"gap\":true,\"missed_bytes\":%llu",
			       (unsigned long long)ev->missed);
		break;
	case EXEC_EVENT_END:
		r = buf_puts(&f->feed.chunk, "\"\",\"is_final\":true,");
		if (r >= 0)
			r = exec_json_outcome(&f->feed.chunk, ev->result);
		if (r >= 0)
			r = buf_puts(&f->feed.chunk, ",");
		if (r >= 0)
			r = exec_json_blocked(&f->feed.chunk, "network_blocked", ev->result);
		break;
	}
	return r < 0 ? r : end_chunk(f, ev->id);
}

/* ---- the response ---- */

static int next_chunk(struct feed *feed)
{
	struct exec_feed *f = (struct exec_feed *)feed;
	struct exec_event ev;

	if (f->cut == 0)
		return -EPIPE;
	if (!exec_reader_next(f->reader, &ev) || (f->no_last && ev.kind == EXEC_EVENT_END))
		return 0;
	if (f->cut > 0)
		f->cut--;
	if (add_event(f, &ev) == 0)
		return 0;
	log_warn("%s: a chunk of a streamed exec could not be made", req_id(feed->req));
	return -ENOMEM;
}

static bool is_over(struct feed *feed)
{
	return exec_reader_over(((struct exec_feed *)feed)->reader);
}

static void response_over(struct feed *feed)
{
	exec_reader_free(TAKE_PTR(((struct exec_feed *)feed)->reader));
}

static void feed_free(struct feed *feed)
{
	free(feed);
}

static const struct feed_ops ops = { .next = next_chunk, .over = is_over, .end = response_over, .free = feed_free };

bool exec_feed_start(struct req *r, struct exec *x, const struct exec_feed_options *o)
{
	struct exec_feed *f = calloc(1, sizeof(*f));
	struct exec_reader_config c = { .after = o->after, .primary = o->primary, .wake = feed_wake, .arg = f };
	struct err e = ERR_INIT;
	int k = f ? exec_reader_new(x, &c, &f->reader, &e) : err_errno(&e, ENOMEM, "exec");

	if (k < 0) {
		free(f);
		req_reply_err(r, &e);
		return false;
	}
	f->feed = FEED_INIT(&ops, r, CHUNK_MAX, o->ndjson);
	f->cut = req_fault(r) ? req_fault(r)->cut : -1;
	f->no_last = req_fault(r) && req_fault(r)->no_last_chunk;
	req_add_header(r, "X-Exec-Id", exec_id(x));
	if (exec_reader_over(f->reader)) {
		exec_reader_free(f->reader);
		free(f);
		req_reply_empty(r, 204);
		return true;
	}
	(void)setsockopt(req_fd(r), SOL_SOCKET, SO_SNDBUF, &(int){ SEND_BUFFER }, sizeof(int));
	if (o->announce && add_announcement(f, MAX(o->after, 1)) < 0)
		f->feed.failed = true;
	feed_start(&f->feed);
	return true;
}
