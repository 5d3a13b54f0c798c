/* Chunks are encoded when output arrives, so the queue holds bytes that are ready to be sent. Above
 * QUEUE_HIGH the command's pipes are not read, below QUEUE_LOW they are again; one output() call may go
 * over by what it brought, so the buffer's own maximum is larger.
 *
 * A character that is split between two reads waits in `tail` for its rest; at the end what is left there
 * becomes U+FFFD. After the last chunk nothing is queued any more. A chunk that could not be queued breaks
 * the response off: no end is made up. */

#include "api/exec_feed.h"
#include "api/req.h"

#include <signal.h>
#include <string.h>

#include "api/json_text.h"
#include "emulator/base/log.h"

#define QUEUE_HIGH (256u << 10)
#define QUEUE_LOW (128u << 10)
#define QUEUE_MAX (8u << 20)
#define CHUNK_MAX (16u << 10) /* bytes of output in one chunk */
#define TAIL_MAX 4
#define KEEP_ALIVE_MS 15000

struct exec_feed {
	struct req *req;   /* NULL once the response is over */
	struct exec *exec; /* NULL before it started and once it is over */
	struct buf queue;
	size_t sent; /* bytes at the queue's head that were handed out */
	char tail[2][TAIL_MAX];
	size_t tail_len[2];
	uint64_t next_id;
	uv_timer_t timer;
	bool ndjson, detach;
	bool paused;   /* output() said no */
	bool finished; /* the last chunk is queued */
	bool failed;
};

static const char *const stream_names[] = { [EXEC_STDOUT] = "stdout", [EXEC_STDERR] = "stderr" };

void exec_signal_name(int sig, char ret[static EXEC_SIGNAL_NAME_SIZE])
{
	const char *name = sigabbrev_np(sig);

	if (name)
		(void)snprintf(ret, EXEC_SIGNAL_NAME_SIZE, "SIG%s", name);
	else
		(void)snprintf(ret, EXEC_SIGNAL_NAME_SIZE, "SIG%d", sig);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct exec_feed *f = handle->data;

	buf_free(&f->queue);
	free(f);
}

static void feed_release(struct exec_feed *f)
{
	if (!f->req && !f->exec && !uv_is_closing((uv_handle_t *)&f->timer))
		uv_close((uv_handle_t *)&f->timer, on_timer_closed);
}

static size_t queued(const struct exec_feed *f)
{
	return f->queue.len - f->sent;
}

/* ---- the response ---- */

static ssize_t on_pull(void *arg, char *p, size_t cap)
{
	struct exec_feed *f = arg;
	size_t n = MIN(cap, queued(f));

	if (n == 0 && f->failed)
		return -2;
	if (n == 0)
		return f->finished ? -1 : 0;
	memcpy(p, f->queue.p + f->sent, n);
	f->sent += n;
	if (queued(f) == 0) {
		buf_reset(&f->queue);
		f->sent = 0;
	}
	if (f->paused && queued(f) < QUEUE_LOW) {
		f->paused = false;
		if (f->exec)
			exec_more(f->exec);
	}
	return (ssize_t)n;
}

static void on_response_over(void *arg)
{
	struct exec_feed *f = arg;
	bool paused = f->paused;

	f->req = NULL;
	f->paused = false;
	(void)uv_timer_stop(&f->timer);
	buf_free(&f->queue);
	f->sent = 0;
	if (f->exec && !f->detach)
		exec_abandon(TAKE_PTR(f->exec));
	else if (f->exec && paused)
		exec_more(f->exec);
	feed_release(f);
}

static void on_keep_alive(uv_timer_t *timer)
{
	struct exec_feed *f = timer->data;

	if (!f->req || f->finished || queued(f) > 0)
		return;
	if (buf_puts(&f->queue, ": keep-alive\n\n") == 0)
		req_wake(f->req);
}

/* ---- chunks ---- */

static void feed_break(struct exec_feed *f, size_t len)
{
	if (f->queue.p) {
		f->queue.len = len;
		f->queue.p[len] = '\0';
	}
	if (!f->failed)
		log_warn("%s: a chunk of a streamed exec could not be queued", req_id(f->req));
	f->failed = true;
	req_wake(f->req);
}

static int chunk_begin(struct exec_feed *f, enum exec_stream s)
{
	int r = 0;

	if (!f->ndjson)
		r = buf_printf(&f->queue, "id: %llu\ndata: ", (unsigned long long)f->next_id);
	return r < 0 ? r : buf_printf(&f->queue, "{\"stream\":\"%s\",\"data\":", stream_names[s]);
}

static const char *chunk_end(const struct exec_feed *f)
{
	return f->ndjson ? "}\n" : "}\n\n";
}

/* One chunk of at most CHUNK_MAX bytes; *ret_used of them were valid or are replaced. */
static int add_chunk(struct exec_feed *f, enum exec_stream s, const char *p, size_t n, bool final, size_t *ret_used)
{
	size_t old = f->queue.len;
	int r = chunk_begin(f, s);

	*ret_used = 0;
	if (r >= 0)
		r = json_text_string(&f->queue, p, n, final, ret_used);
	if (r >= 0)
		r = buf_printf(&f->queue, ",\"is_final\":false%s", chunk_end(f));
	if (r < 0 || *ret_used == 0) {
		f->queue.len = old;
		if (f->queue.p)
			f->queue.p[old] = '\0';
		return r;
	}
	f->next_id++;
	return 0;
}

static int add_output(struct exec_feed *f, enum exec_stream s, const char *p, size_t n, bool final)
{
	char piece[CHUNK_MAX + TAIL_MAX];

	while (n > 0 || (final && f->tail_len[s] > 0)) {
		size_t old = f->tail_len[s], len = MIN(n, (size_t)CHUNK_MAX), used;
		int r;

		memcpy(piece, f->tail[s], old);
		if (len > 0)
			memcpy(piece + old, p, len);
		r = add_chunk(f, s, piece, old + len, final, &used);
		if (r < 0)
			return r;
		/* At most three bytes are left: the beginning of one character. */
		f->tail_len[s] = MIN(old + len - used, (size_t)TAIL_MAX);
		memcpy(f->tail[s], piece + used, f->tail_len[s]);
		p += len;
		n -= len;
	}
	return 0;
}

static bool on_output(void *arg, enum exec_stream s, const char *p, size_t n)
{
	struct exec_feed *f = arg;
	size_t old;

	if (!f->req || f->failed)
		return true; /* nobody reads; the pipes are emptied all the same */
	if (f->sent >= QUEUE_LOW) {
		buf_consume(&f->queue, f->sent);
		f->sent = 0;
	}
	old = f->queue.len;
	if (add_output(f, s, p, n, false) < 0) {
		feed_break(f, old);
		return true;
	}
	if (f->queue.len > old)
		req_wake(f->req);
	f->paused = queued(f) > QUEUE_HIGH;
	return !f->paused;
}

static int add_final(struct exec_feed *f, const struct exec_result *x)
{
	char name[EXEC_SIGNAL_NAME_SIZE];
	int r = add_output(f, EXEC_STDOUT, NULL, 0, true);

	if (r >= 0)
		r = add_output(f, EXEC_STDERR, NULL, 0, true);
	if (r >= 0)
		r = chunk_begin(f, EXEC_STDOUT);
	if (r >= 0)
		r = buf_printf(
			&f->queue,
			"\"\",\"is_final\":true,\"exit_code\":%d,\"duration_ms\":%llu,\"reason\":\"%s\",\"signal\":",
			x->exit_code, (unsigned long long)x->duration_ms, exec_reason_name(x->reason));
	if (x->signal != 0)
		exec_signal_name(x->signal, name);
	if (r >= 0 && x->signal != 0)
		r = buf_printf(&f->queue, "\"%s\"", name);
	else if (r >= 0)
		r = buf_puts(&f->queue, "null");
	return r < 0 ? r : buf_puts(&f->queue, chunk_end(f));
}

static void on_done(void *arg, const struct exec_result *x)
{
	struct exec_feed *f = arg;
	size_t old = f->queue.len;

	f->exec = NULL;
	if (f->req && !f->failed) {
		if (add_final(f, x) < 0)
			feed_break(f, old);
		f->finished = true;
		req_wake(f->req);
	}
	feed_release(f);
}

/* ---- its life ---- */

struct exec_feed *exec_feed_new(struct req *r, bool ndjson, bool detach)
{
	struct exec_feed *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->req = r;
	f->ndjson = ndjson;
	f->detach = detach;
	f->queue = BUF_INIT(QUEUE_MAX);
	f->next_id = 1;
	(void)uv_timer_init(req_loop(r), &f->timer);
	f->timer.data = f;
	return f;
}

void exec_feed_events(struct exec_feed *f, struct exec_events *ret)
{
	*ret = (struct exec_events){ .output = on_output, .done = on_done, .arg = f };
}

void exec_feed_begin(struct exec_feed *f, struct exec *x)
{
	struct req *r = f->req;

	f->exec = x;
	if (!f->ndjson)
		(void)uv_timer_start(&f->timer, on_keep_alive, KEEP_ALIVE_MS, KEEP_ALIVE_MS);
	req_add_header(r, "X-Exec-Id", exec_id(x));
	req_add_header(r, "Cache-Control", "no-store");
	req_reply_stream(r, 200, f->ndjson ? "application/x-ndjson" : "text/event-stream", on_pull, on_response_over,
			 f);
}

void exec_feed_discard(struct exec_feed *f)
{
	f->req = NULL;
	feed_release(f);
}
