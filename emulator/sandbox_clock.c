/* What a move of the clock (emulator/vclock.h) means for sandboxes: deadlines that have come end them, in their
 * order; the others' timers, which run by the host's clock, are set anew. */

#include <errno.h>

#include "emulator/base/clock.h"
#include "emulator/exec-internal.h"
#include "emulator/sandbox-internal.h"

static bool goes_by_the_clock(const struct sandbox *sb)
{
	return sb->row.status == SANDBOX_RUNNING && !sandbox_is_build(sb);
}

/* The running sandbox whose deadline comes first, or NULL. */
static struct sandbox *first_to_end(struct sandboxes *m)
{
	struct sandbox *sb, *next, *first = NULL;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		if (goes_by_the_clock(sb) && (!first || sb->deadline_us < first->deadline_us))
			first = sb;
	}
	return first;
}

static int64_t next_deadline(void *arg)
{
	const struct sandbox *sb = first_to_end(arg);
	int64_t left_us;

	if (!sb)
		return INT64_MAX;
	/* After the deadline, never before what the row names, whatever part of a millisecond the two clocks are apart:
	 * one that is not quite over when the clock stands there would be left to the end of the advance. The one in
	 * milliseconds is read last, so that time that passes in between is added. One that is over already stays the
	 * moment it is, which is how the advance knows that nobody could end that sandbox. */
	left_us = sb->deadline_us - clock_now_us();
	return clock_now_ms() + (left_us + 999) / 1000 + 1;
}

static void end_due(void *arg)
{
	struct sandboxes *m = arg;
	struct sandbox *sb;

	while ((sb = first_to_end(m)) && sb->deadline_us <= clock_now_us())
		sandbox_time_over(sb);
}

static void rearm(void *arg)
{
	struct sandboxes *m = arg;
	struct sandbox *sb, *next;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		if (goes_by_the_clock(sb))
			sandbox_arm_deadline(sb);
	}
	registry_expire(m);
}

void sandboxes_clock_listener(struct sandboxes *m, struct vclock_listener *ret)
{
	*ret = (struct vclock_listener){ .next = next_deadline, .due = end_due, .moved = rearm, .arg = m };
}

/* ---- waiting for those that are ending ---- */

struct gathering {
	size_t left;
	void (*done)(void *arg);
	void *arg;
};

static void leave(struct gathering *g)
{
	if (--g->left > 0)
		return;
	g->done(g->arg);
	free(g);
}

static void on_ended(void *arg, const struct err *e _unused_, const struct sandbox_row *row _unused_)
{
	leave(arg);
}

int sandboxes_await_ends(struct sandboxes *m, void (*done)(void *arg), void *arg, struct err *e)
{
	struct gathering *g = calloc(1, sizeof(*g));
	struct sandbox_row none = { 0 };
	struct sandbox *sb, *next;

	if (!g)
		return err_errno(e, ENOMEM, "can't wait for sandboxes to end");
	*g = (struct gathering){ .left = 1, .done = done, .arg = arg };
	/* One place of its own, given back from the loop: the caller is never called from in here. */
	if (sandbox_defer(m, on_ended, g, &none) < 0) {
		free(g);
		return err_errno(e, ENOMEM, "can't wait for sandboxes to end");
	}
	HASH_ITER(hh, m->by_id, sb, next)
	{
		struct waiter *w = sb->row.status == SANDBOX_TERMINATING ? calloc(1, sizeof(*w)) : NULL;

		if (!w)
			continue; /* out of memory: that one is not waited for */
		*w = (struct waiter){ .done = on_ended, .arg = g };
		LL_APPEND(sb->enders, w);
		g->left++;
	}
	return 0;
}
