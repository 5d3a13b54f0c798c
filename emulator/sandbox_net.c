/* A sandbox's network as the daemon sees it: packets that were refused, heard on the netlink socket the keeper
 * opened in the sandbox's namespace. */

#include <errno.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/sandbox-internal.h"
#include "netpolicy/gateway.h"

static void on_refused(void *arg, const struct gateway_refused *r)
{
	struct sandbox *sb = arg;
	struct blocked_entry en = { .at_us = clock_mono_us(), .address = r->to, .port = r->port, .proto = r->proto };

	/* What a kernel says by itself (router and multicast chatter) is no attempt of anybody's. */
	if (IN6_IS_ADDR_MULTICAST(&r->to) || r->proto == IPPROTO_ICMPV6)
		return;
	(void)snprintf(en.host, sizeof(en.host), "%s", r->name);
	(void)snprintf(en.rule, sizeof(en.rule), "%s", r->rule);
	(void)blocked_add(&sb->blocked, &en);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
	struct sandbox *sb = h->data;
	(void)events;

	if (status < 0 || gateway_read_refused(sb->refused_sock, on_refused, sb) < 0)
		(void)uv_poll_stop(h);
}

static void on_closed(uv_handle_t *h)
{
	free(h);
}

void sandbox_net_start(struct sandbox *sb)
{
	sb->refused_sock = TAKE_FD(sb->slot->refused_sock);
	if (sb->refused_sock < 0)
		return;
	sb->refused_poll = calloc(1, sizeof(*sb->refused_poll));
	if (!sb->refused_poll || uv_poll_init(sb->m->c.loop, sb->refused_poll, sb->refused_sock) < 0) {
		free(TAKE_PTR(sb->refused_poll));
		closep(&sb->refused_sock);
		return;
	}
	sb->refused_poll->data = sb;
	(void)uv_poll_start(sb->refused_poll, UV_READABLE, on_readable);
}

size_t sandbox_net_blocked(struct sandbox *sb, int64_t since_us, void (*fn)(void *arg, const struct blocked_entry *en), void *arg)
{
	/* The kernel queued it before the program heard of it; the loop may just not have come round to it. */
	if (sb->refused_sock >= 0)
		(void)gateway_read_refused(sb->refused_sock, on_refused, sb);
	return blocked_each(sb->blocked, since_us, fn, arg);
}

void sandbox_net_stop(struct sandbox *sb)
{
	if (sb->refused_sock < 0)
		return;
	/* Closed while the fd is still its own: libuv takes the number out of the epoll set, whoever has it then. */
	uv_close((uv_handle_t *)TAKE_PTR(sb->refused_poll), on_closed);
	closep(&sb->refused_sock);
}
