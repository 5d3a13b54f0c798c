#pragma once
/* The journal: every request and every change of a sandbox's or a command's life, in memory, so that a test can
 * assert on what happened. One in the daemon; bounded by JOURNAL_EVENTS and JOURNAL_BYTES, whichever comes first;
 * then the oldest go. Numbers (seq) only grow, also over journal_forget.
 *
 * No secrets: no token, no query string, no env value, no file content, no command's output. Of a command line
 * only the program's name, unless the one who started the emulator wanted all of it (exec_journal_text). */

#include "emulator/base/err.h"

#define JOURNAL_EVENTS 8192
#define JOURNAL_BYTES (4u << 20)
#define JOURNAL_SLOWEST 5

enum journal_type {
	JOURNAL_REQUEST,
	JOURNAL_SANDBOX_CREATED, /* its row is there */
	JOURNAL_SANDBOX_RUNNING,
	JOURNAL_SANDBOX_PAUSED,
	JOURNAL_SANDBOX_RESUMED,
	JOURNAL_SANDBOX_TERMINATED, /* detail: the reason */
	JOURNAL_SANDBOX_FAILED,	    /* detail: why */
	JOURNAL_EXEC_STARTED,	    /* subject: the exec's id; detail: the command, redacted */
	JOURNAL_EXEC_ENDED,	    /* detail: "exited 0", "oom", ... */
	JOURNAL_NETWORK_BLOCKED,    /* subject: host or address; detail: the rule */
	JOURNAL_FAULT_FIRED,	    /* subject: the rule's id; detail: what it did */
	JOURNAL_CLOCK_MOVED,
	JOURNAL_RESET,
	JOURNAL_SEEDED,
	JOURNAL_TYPES,
};
const char *journal_type_name(enum journal_type t); /* "request", "sandbox.created", ... */

/* NULL: does not apply. What is added is copied; strings beyond 255 bytes are cut. */
struct journal_event {
	enum journal_type type;
	const char *account, *sandbox, *subject, *detail;
	const char *request_id, *method, *path, *code; /* the rest: REQUEST; but FAULT_FIRED has a request_id, too */
	const char *route;			       /* the route's pattern, or NULL */
	unsigned int status;			       /* 0: the client was gone before an answer */
	int64_t duration_us;	      /* from the first byte of the request to the last of the answer */
	uint64_t bytes_in, bytes_out; /* of the bodies */

	uint64_t seq; /* the journal's own: from 1 on */
	int64_t time_ms;
};

struct journal;
int journal_new(struct journal **ret);
void journal_free(struct journal *j); /* NULL is fine; nobody watches any more */

/* j NULL: does nothing. Out of memory an event is lost, and counts as one that is too old. */
void journal_add(struct journal *j, const struct journal_event *ev);

/* The next event behind seq `after`: borrowed until the next journal_add. *ret_missed: how many were between that
 * are no longer kept. False: there is none. */
bool journal_next(const struct journal *j, uint64_t after, struct journal_event *ret, uint64_t *ret_missed);
uint64_t journal_last(const struct journal *j); /* the newest seq; 0: none ever */

/* Forgets an account's events up to this one, or with NULL everybody's. What is forgotten is not missed by who reads
 * on. */
void journal_forget(struct journal *j, const char *account, uint64_t up_to);

/* wake(arg) after each journal_add, from inside of it: it may only take note. */
struct journal_watch {
	struct journal_watch *prev, *next;
	void (*wake)(void *arg);
	void *arg;
};
void journal_watch(struct journal *j, struct journal_watch *w);
void journal_unwatch(struct journal *j, struct journal_watch *w);

/* The slowest requests to the cloud's API since the start, the slowest first. Their number. */
struct journal_slow {
	char method[12], path[160];
	unsigned int status;
	int64_t duration_us;
};
size_t journal_slowest(const struct journal *j, struct journal_slow ret[static JOURNAL_SLOWEST]);
