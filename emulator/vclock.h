#pragma once
/* The virtual clock: moves the emulator's clock (clock_now_ms, base/clock.h) forward, so that what takes an hour
 * or a month happens now, and in the order in which it would have happened.
 *
 * Theory of operation: an advance goes from one due moment to the next. Each listener says when the next thing of
 * it is due; the clock is set to the earliest of these, every listener does what is due by then, and so on until
 * the target is reached. So a sandbox that ends by its deadline ends at its deadline, with everything before that
 * counted, whatever the step. What is looked at only when it is needed (the expiry of a key, a bucket of a rate
 * limit, an idempotency key) needs no listener.
 *
 * The clock only goes forward, but for vclock_reset. The offset is kept in the store, written before the clock
 * moves: rows that carry its times mean the same after a restart. Daemon only; nothing here blocks. */

#include "emulator/base/err.h"

struct store;
struct vclock;

/* Each may be NULL. None of them may advance the clock itself. */
struct vclock_listener {
	/* When the next thing is due, as clock_now_ms; INT64_MAX: nothing waits for the clock. What due() has done
	 * must not be told again. */
	int64_t (*next)(void *arg);
	/* Do what is due by clock_now_ms(). */
	void (*due)(void *arg);
	/* The advance is over: timers that run by the host's clock are to be set anew. */
	void (*moved)(void *arg);
	void *arg;
};

/* Takes up the offset that an earlier run has left. The store is borrowed; NULL: nothing is kept. */
int vclock_new(struct store *s, struct vclock **ret, struct err *e);
void vclock_free(struct vclock *c);

/* Asked in the order in which they were added; at most 16. The struct is copied. */
int vclock_listen(struct vclock *c, const struct vclock_listener *l);

/* To that moment (clock_now_ms). ERR_INVALID for one that is past or beyond CLOCK_OFFSET_MAX_MS; a failure of the
 * store leaves the clock as it was. */
int vclock_advance_to(struct vclock *c, int64_t ms, struct err *e);
/* By so many milliseconds, exactly. */
int vclock_advance_by(struct vclock *c, int64_t ms, struct err *e);

/* Back to the host's time. For a reset: the caller has seen to it that nothing lives that has times of its own. */
int vclock_reset(struct vclock *c, struct err *e);
