/* Pipes that outlive their command: a background child holds the other end and writes to it now and then.
 * What it writes is read and forgotten, so that it neither blocks nor dies of SIGPIPE.
 *
 * A child that writes without end costs the daemon one read of SANDBOX_SCRATCH_SIZE each LINGER_REST_MS: a
 * pipe that filled the buffer rests until the manager's timer wakes all that rest. A sandbox keeps at most
 * SANDBOX_MAX_LINGERS such pipes; the oldest goes first (its writer then gets SIGPIPE). */

#include <errno.h>

#include "emulator/sandbox-internal.h"

#define LINGER_REST_MS 20

struct exec_linger {
	struct exec_linger *prev, *next;
	struct sandbox *sb;
	uv_poll_t poll;
	int fd;
	uint64_t id; /* the command's */
	bool resting;
};

static void on_closed(uv_handle_t *h)
{
	free(h->data);
}

bool linger_has(const struct sandbox *sb, uint64_t id)
{
	const struct exec_linger *l;

	DL_FOREACH(sb->lingers, l)
	{
		if (l->id == id)
			return true;
	}
	return false;
}

static void linger_close(struct exec_linger *l)
{
	struct sandboxes *m = l->sb->m;

	DL_DELETE(l->sb->lingers, l);
	l->sb->n_lingers--;
	if (!linger_has(l->sb, l->id) && m->keeper)
		keeper_exec_over(m->keeper, l->sb->row.slot, l->id);
	uv_close((uv_handle_t *)&l->poll, on_closed);
	closep(&l->fd);
}

static void on_timer(uv_timer_t *t);

static void on_readable(uv_poll_t *h, int status, int events _unused_)
{
	struct exec_linger *l = h->data;
	struct sandboxes *m = l->sb->m;
	ssize_t n;

	if (status < 0) {
		linger_close(l);
		return;
	}
	n = read(l->fd, m->scratch, SANDBOX_SCRATCH_SIZE);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		linger_close(l);
		return;
	}
	if (n > SANDBOX_SCRATCH_SIZE / 2) {
		l->resting = true;
		(void)uv_poll_stop(&l->poll);
		if (!uv_is_active((uv_handle_t *)&m->linger_timer))
			(void)uv_timer_start(&m->linger_timer, on_timer, LINGER_REST_MS, 0);
	}
}

static void on_timer(uv_timer_t *t)
{
	struct sandboxes *m = t->data;
	struct sandbox *sb, *next;
	struct exec_linger *l;

	HASH_ITER(hh, m->by_id, sb, next)
	DL_FOREACH(sb->lingers, l)
	if (l->resting) {
		l->resting = false;
		(void)uv_poll_start(&l->poll, UV_READABLE, on_readable);
	}
}

void linger_add(struct sandbox *sb, int fd, uint64_t id)
{
	struct exec_linger *l = calloc(1, sizeof(*l));

	if (!l || uv_poll_init(sb->m->c.loop, &l->poll, fd) < 0) {
		free(l);
		closep(&fd);
		return;
	}
	l->sb = sb;
	l->fd = fd;
	l->id = id;
	l->poll.data = l;
	if (sb->n_lingers == SANDBOX_MAX_LINGERS)
		linger_close(sb->lingers);
	DL_APPEND(sb->lingers, l);
	sb->n_lingers++;
	(void)uv_poll_start(&l->poll, UV_READABLE, on_readable);
}

void linger_close_all(struct sandbox *sb)
{
	while (sb->lingers)
		linger_close(sb->lingers);
}
