/* A ring of pointers to records; a record is one allocation with its strings behind it. Numbers are consecutive, so
 * a record's place follows from its number; a forgotten one leaves a hole. */

#include "emulator/journal.h"

#include <errno.h>
#include <string.h>
#include <utlist.h>

#include "emulator/base/clock.h"

#define STRING_MAX 255

struct record {
	struct journal_event ev;
	size_t size;
	char text[];
};

struct journal {
	struct record *ring[JOURNAL_EVENTS]; /* NULL: forgotten, or lost out of memory */
	uint64_t first, next;		     /* seq of the oldest kept, and of the next one; first == next: none */
	size_t bytes;
	uint64_t forgotten; /* numbers up to this one are gone because somebody wanted it */
	struct journal_watch *watches;
	struct journal_slow slow[JOURNAL_SLOWEST];
	size_t n_slow;
};

static const char *const type_names[JOURNAL_TYPES] = {
	[JOURNAL_REQUEST] = "request",
	[JOURNAL_SANDBOX_CREATED] = "sandbox.created",
	[JOURNAL_SANDBOX_RUNNING] = "sandbox.running",
	[JOURNAL_SANDBOX_PAUSED] = "sandbox.paused",
	[JOURNAL_SANDBOX_RESUMED] = "sandbox.resumed",
	[JOURNAL_SANDBOX_TERMINATED] = "sandbox.terminated",
	[JOURNAL_SANDBOX_FAILED] = "sandbox.failed",
	[JOURNAL_EXEC_STARTED] = "exec.started",
	[JOURNAL_EXEC_ENDED] = "exec.ended",
	[JOURNAL_NETWORK_BLOCKED] = "network.blocked",
	[JOURNAL_FAULT_FIRED] = "fault.fired",
	[JOURNAL_CLOCK_MOVED] = "clock.moved",
	[JOURNAL_RESET] = "reset",
	[JOURNAL_SEEDED] = "seeded",
};

const char *journal_type_name(enum journal_type t)
{
	return (size_t)t < JOURNAL_TYPES ? type_names[t] : "unknown";
}

int journal_new(struct journal **ret)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->first = j->next = 1;
	*ret = j;
	return 0;
}

static struct record **slot(const struct journal *j, uint64_t seq)
{
	return (struct record **)(uintptr_t)&j->ring[seq % JOURNAL_EVENTS];
}

static void drop(struct journal *j, uint64_t seq)
{
	struct record **s = slot(j, seq);

	if (*s)
		j->bytes -= (*s)->size;
	free(*s);
	*s = NULL;
}

void journal_free(struct journal *j)
{
	if (!j)
		return;
	for (uint64_t seq = j->first; seq < j->next; seq++)
		drop(j, seq);
	free(j);
}

/* The members that are strings, in one place. */
static const char **strings_of(struct journal_event *ev, size_t i)
{
	const char **const all[] = { &ev->account, &ev->sandbox, &ev->subject, &ev->detail, &ev->request_id,
				     &ev->method,  &ev->path,	 &ev->code,    &ev->route };

	return i < ARRAY_SIZE(all) ? all[i] : NULL;
}

static struct record *record_of(const struct journal_event *ev)
{
	struct journal_event copy = *ev;
	const char **s;
	struct record *r;
	size_t n = 0, at = 0;

	for (size_t i = 0; (s = strings_of(&copy, i)); i++)
		n += *s ? strnlen(*s, STRING_MAX) + 1 : 0;
	r = malloc(sizeof(*r) + n);
	if (!r)
		return NULL;
	for (size_t i = 0; (s = strings_of(&copy, i)); i++) {
		size_t len = *s ? strnlen(*s, STRING_MAX) : 0;

		if (!*s)
			continue;
		memcpy(r->text + at, *s, len);
		r->text[at + len] = '\0';
		*s = r->text + at;
		at += len + 1;
	}
	r->ev = copy;
	r->size = sizeof(*r) + n;
	return r;
}

static void note_slow(struct journal *j, const struct journal_event *ev)
{
	size_t at = j->n_slow;

	if (ev->type != JOURNAL_REQUEST || !ev->path || strncmp(ev->path, "/_emulator/", 11) == 0)
		return;
	while (at > 0 && j->slow[at - 1].duration_us < ev->duration_us)
		at--;
	if (at == JOURNAL_SLOWEST)
		return;
	j->n_slow = MIN(j->n_slow + 1, (size_t)JOURNAL_SLOWEST);
	memmove(&j->slow[at + 1], &j->slow[at], (j->n_slow - 1 - at) * sizeof(j->slow[0]));
	j->slow[at] = (struct journal_slow){ .status = ev->status, .duration_us = ev->duration_us };
	(void)snprintf(j->slow[at].method, sizeof(j->slow[at].method), "%s", ev->method ? ev->method : "-");
	(void)snprintf(j->slow[at].path, sizeof(j->slow[at].path), "%s", ev->path);
}

void journal_add(struct journal *j, const struct journal_event *ev)
{
	struct journal_watch *w;
	struct record *r;

	if (!j)
		return;
	if (j->next - j->first == JOURNAL_EVENTS)
		drop(j, j->first++);
	r = record_of(ev);
	if (r) {
		r->ev.seq = j->next;
		r->ev.time_ms = clock_now_ms();
		j->bytes += r->size;
	}
	*slot(j, j->next++) = r;
	while (j->bytes > JOURNAL_BYTES && j->first < j->next)
		drop(j, j->first++);
	note_slow(j, ev);
	DL_FOREACH(j->watches, w)
	w->wake(w->arg);
}

bool journal_next(const struct journal *j, uint64_t after, struct journal_event *ret, uint64_t *ret_missed)
{
	uint64_t from = MAX(after, j->forgotten) + 1, seq = MAX(from, j->first);

	*ret_missed = seq > from ? seq - from : 0;
	for (; seq < j->next; seq++) {
		const struct record *r = *slot(j, seq);

		if (!r)
			continue;
		*ret = r->ev;
		return true;
	}
	return false;
}

uint64_t journal_last(const struct journal *j)
{
	return j->next - 1;
}

void journal_forget(struct journal *j, const char *account, uint64_t up_to)
{
	for (uint64_t seq = j->first; seq < j->next && seq <= up_to; seq++) {
		const struct record *r = *slot(j, seq);

		if (r && (!account || (r->ev.account && strcmp(r->ev.account, account) == 0)))
			drop(j, seq);
	}
	if (account)
		return;
	j->first = MAX(j->first, MIN(up_to + 1, j->next));
	j->forgotten = MAX(j->forgotten, j->first - 1);
	j->n_slow = 0;
}

void journal_watch(struct journal *j, struct journal_watch *w)
{
	DL_APPEND(j->watches, w);
}

void journal_unwatch(struct journal *j, struct journal_watch *w)
{
	DL_DELETE(j->watches, w);
}

size_t journal_slowest(const struct journal *j, struct journal_slow ret[static JOURNAL_SLOWEST])
{
	memcpy(ret, j->slow, j->n_slow * sizeof(ret[0]));
	return j->n_slow;
}
