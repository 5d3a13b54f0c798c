#include "api/conns.h"

#include <poll.h>
#include <utlist.h>

#define SWEEP_MS 500

struct conn {
	struct conn *prev, *next;
	struct conns *all;
	struct MHD_Connection *mhd;
	int fd;
	bool busy;
};

static void sweep(struct conns *cs)
{
	_cleanup_free_ struct pollfd *fds = calloc(cs->n, sizeof(*fds));
	_cleanup_free_ struct MHD_Connection **who = calloc(cs->n, sizeof(*who));
	struct conn *c;
	nfds_t n = 0;

	if (!fds || !who)
		return;
	DL_FOREACH(cs->list, c)
	{
		if (c->busy)
			continue;
		who[n] = c->mhd;
		fds[n++] = (struct pollfd){ .fd = c->fd, .events = POLLRDHUP };
	}
	if (n == 0 || poll(fds, n, 0) <= 0)
		return;
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR))
			cs->left(cs->arg, who[i]);
}

static void on_timer(uv_timer_t *t)
{
	struct conns *cs = t->data;

	if (cs->n > 0)
		sweep(cs);
	else
		(void)uv_timer_stop(t);
}

int conns_init(struct conns *cs, struct uv_loop_s *loop, void (*left)(void *arg, struct MHD_Connection *c), void *arg)
{
	*cs = (struct conns){ .left = left, .arg = arg };
	cs->timer.data = cs;
	return uv_timer_init(loop, &cs->timer);
}

void conns_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
		  enum MHD_ConnectionNotificationCode code)
{
	struct conns *cs = cls;
	const union MHD_ConnectionInfo *info;
	struct conn *c;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		c = TAKE_PTR(*socket_context);
		if (c) {
			DL_DELETE(cs->list, c);
			cs->n--;
		}
		free(c);
		return;
	}
	info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
	c = info ? calloc(1, sizeof(*c)) : NULL;
	if (!c)
		return; /* not watched: the idle time-out is still there */
	*c = (struct conn){ .all = cs, .mhd = mhd, .fd = info->connect_fd };
	*socket_context = c;
	DL_APPEND(cs->list, c);
	if (cs->n++ == 0)
		(void)uv_timer_start(&cs->timer, on_timer, SWEEP_MS, SWEEP_MS);
}

void conns_set_busy(struct MHD_Connection *mhd, bool busy)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct conn *c = info ? info->socket_context : NULL;

	if (c)
		c->busy = busy;
}
