#pragma once
/* The server's connections, and those whose client left between requests or in the middle of a head.
 *
 * libmicrohttpd (0.9.75) reads its epoll edges once: when a client's last bytes and its end arrive in one edge and
 * the bytes are not a whole request, the end goes unseen until the idle time-out. So twice a second the sockets
 * that wait for a request, or the rest of one, are asked, all in one poll(2), whether their client has closed. */

#include <microhttpd.h>
#include <uv.h>

#include "emulator/base/util.h"

struct conn;

struct conns {
	struct conn *list;
	size_t n;
	uv_timer_t timer;
	void (*left)(void *arg, struct MHD_Connection *c);
	void *arg;
};

/* left(arg, c): the client of c has closed while no request of it was being answered. From the loop. */
int conns_init(struct conns *cs, struct uv_loop_s *loop, void (*left)(void *arg, struct MHD_Connection *c), void *arg);

/* For MHD_OPTION_NOTIFY_CONNECTION, with the struct conns as closure. */
void conns_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
		  enum MHD_ConnectionNotificationCode code);

/* A request is complete (busy), or its answer is over. */
void conns_set_busy(struct MHD_Connection *mhd, bool busy);
