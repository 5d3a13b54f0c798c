/* Readers of a command's output. Each has a cursor in the log; reading takes from the log, waking says that
 * there is something. The primary one is what the command waits for: its pipes are not read while more than
 * UNREAD_HIGH bytes of the log lie before that reader. */

#include <errno.h>

#include "emulator/exec-internal.h"

/* The log's tail holds UNREAD_HIGH, one more read, and what two full pipes give at the end. */
#define UNREAD_HIGH (256u << 10)
#define UNREAD_LOW (128u << 10)

struct exec_reader {
	struct exec_reader *prev, *next;
	struct exec *x;
	struct log_cursor cursor;
	void (*wake)(void *arg);
	void *arg;
	bool end_only, over;
};

/* Positions begin with 1, so that 0 means "nothing yet"; the end's comes after all output. */
static uint64_t id_of(uint64_t pos)
{
	return pos + 1;
}

static uint64_t end_id(const struct exec *x)
{
	return id_of(log_end(&x->log)) + 1;
}

void readers_wake(struct exec *x, bool output)
{
	struct exec_reader *r, *next;

	DL_FOREACH_SAFE(x->readers, r, next)
	{
		if (!output || !r->end_only)
			r->wake(r->arg);
	}
}

void readers_check_pause(struct exec *x)
{
	uint64_t n = x->primary ? log_unread(&x->log, &x->primary->cursor) : 0;

	x->paused = n > (x->paused ? UNREAD_LOW : UNREAD_HIGH);
}

int exec_reader_new(struct exec *x, const struct exec_reader_config *c, struct exec_reader **ret, struct err *e)
{
	bool end_only = c->after == EXEC_AFTER_OUTPUT;
	struct exec_reader *r;

	if (!end_only && c->after > (x->finished ? end_id(x) : id_of(log_end(&x->log))))
		return err_set(e, ERR_INVALID, ERANGE, NULL, "there is no event %llu yet",
			       (unsigned long long)c->after);
	r = calloc(1, sizeof(*r));
	if (!r)
		return err_errno(e, ENOMEM, "a reader");
	*r = (struct exec_reader){ .x = x, .wake = c->wake, .arg = c->arg, .end_only = end_only };
	if (!end_only) {
		r->over = x->finished && c->after == end_id(x);
		r->cursor.pos = MIN(c->after > 0 ? c->after - 1 : 0, log_end(&x->log));
	}
	x->refs++;
	DL_APPEND(x->readers, r);
	if (c->primary && x->spec.streamed && !x->primary && !x->finished)
		x->primary = r;
	*ret = r;
	return 0;
}

struct exec *exec_reader_exec(const struct exec_reader *r)
{
	return r->x;
}

static bool next_output(struct exec_reader *r, struct exec_event *ret)
{
	struct log_piece p;
	enum log_found f = r->end_only ? LOG_NOTHING : log_read(&r->x->log, &r->cursor, &p);

	if (f == LOG_NOTHING)
		return false;
	*ret = (struct exec_event){ .kind = f == LOG_GAP ? EXEC_EVENT_GAP : EXEC_EVENT_OUTPUT,
				    .id = id_of(r->cursor.pos) };
	if (f == LOG_GAP) {
		ret->missed = p.missed;
	} else {
		ret->stream = p.stream;
		ret->p = p.p;
		ret->n = p.n;
	}
	return true;
}

bool exec_reader_next(struct exec_reader *r, struct exec_event *ret)
{
	struct exec *x = r->x;

	if (r->over)
		return false;
	if (next_output(r, ret)) {
		if (x->primary == r && x->paused)
			exec_io_update(x);
		return true;
	}
	if (!x->finished)
		return false;
	r->over = true;
	*ret = (struct exec_event){ .kind = EXEC_EVENT_END, .id = end_id(x), .result = &x->res };
	return true;
}

bool exec_reader_over(const struct exec_reader *r)
{
	return r->over;
}

void exec_reader_free(struct exec_reader *r)
{
	struct exec *x;

	if (!r)
		return;
	x = r->x;
	DL_DELETE(x->readers, r);
	if (x->primary == r) {
		x->primary = NULL;
		if (!x->finished && !x->spec.detach)
			exec_begin_end(x, EXEC_BY_DISCONNECT);
		if (!x->finished)
			exec_io_update(x);
	}
	free(r);
	exec_put(x);
}
