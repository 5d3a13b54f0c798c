#include <errno.h>
#include <fcntl.h>

#include "emulator/base/fd.h"
#include "netpolicy/egress-internal.h"

/* The stock of blank sockets. The dialer answers each letter with one message: the letter and up to
 * BLANK_BATCH descriptors; none means that the host can't make them (no IPv6, or out of descriptors). */

/* How the dialer is asked for them. */
static const char BLANK_LETTER[BLANK_KINDS] = { '4', '6', 'd', 'D' };

static void ask(struct egress *eg, enum blank kind)
{
	struct blank_pool *p = &eg->pool[kind];
	unsigned int want = BLANK_KEEP + p->waiting;

	/* A full socket is no loss: every batch that arrives asks again. */
	while (p->n + p->asked + BLANK_BATCH <= want &&
	       fd_send_msg(eg->dialer.fd, &BLANK_LETTER[kind], 1, NULL, 0) == 0)
		p->asked += BLANK_BATCH;
}

void blank_fill(struct egress *eg)
{
	for (size_t i = 0; i < BLANK_KINDS; i++)
		ask(eg, (enum blank)i);
}

void blank_get(struct egress *eg, struct blank_wait *w, enum blank kind,
	       void (*got)(struct egress *eg, struct blank_wait *w, int fd))
{
	struct blank_pool *p = &eg->pool[kind];

	w->kind = kind;
	w->got = got;
	if (p->n > 0 && TAILQ_EMPTY(&p->queue)) {
		int fd = p->fd[--p->n];

		if (p->n < BLANK_KEEP / 2)
			ask(eg, kind);
		got(eg, w, fd);
		return;
	}
	TAILQ_INSERT_TAIL(&p->queue, w, link);
	w->queued = true;
	p->waiting++;
	ask(eg, kind);
}

void blank_cancel(struct egress *eg, struct blank_wait *w)
{
	if (!w->queued)
		return;
	TAILQ_REMOVE(&eg->pool[w->kind].queue, w, link);
	eg->pool[w->kind].waiting--;
	w->queued = false;
}

static void hand_out(struct egress *eg, struct blank_wait *w, int fd)
{
	blank_cancel(eg, w);
	w->got(eg, w, fd);
}

static void arrived(struct egress *eg, enum blank kind, int *fds, size_t n)
{
	struct blank_pool *p = &eg->pool[kind];

	p->asked -= MIN(p->asked, BLANK_BATCH);
	for (size_t i = 0; i < n; i++) {
		if (!TAILQ_EMPTY(&p->queue))
			hand_out(eg, TAILQ_FIRST(&p->queue), fds[i]);
		else if (p->n < ARRAY_SIZE(p->fd))
			p->fd[p->n++] = fds[i];
		else
			(void)close(fds[i]);
	}
	/* Those that asked before this failure would wait for ever. */
	for (unsigned int i = p->waiting; n == 0 && i > 0; i--)
		if (!TAILQ_EMPTY(&p->queue))
			hand_out(eg, TAILQ_FIRST(&p->queue), -1);
	if (n > 0)
		ask(eg, kind);
}

void blank_ready(struct source *s, uint32_t events _unused_)
{
	for (int i = 0; i < LOOP_BATCH; i++) {
		int fds[FD_MSG_MAX_FDS];
		size_t n_fds = 0, kind;
		char letter = 0;
		ssize_t n = fd_recv_msg(s->fd, &letter, 1, fds, ARRAY_SIZE(fds), &n_fds);

		if (n == -EAGAIN || n == -EINTR)
			return;
		if (n <= 0 && n != -EMFILE) { /* that one: none came */
			source_close(s);
			return;
		}
		for (kind = 0; kind < BLANK_KINDS && BLANK_LETTER[kind] != letter; kind++)
			;
		if (kind < BLANK_KINDS)
			arrived(s->eg, (enum blank)kind, fds, n_fds);
		for (size_t k = 0; kind == BLANK_KINDS && k < n_fds; k++)
			(void)close(fds[k]);
	}
}
