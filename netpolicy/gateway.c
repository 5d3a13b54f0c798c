#include "netpolicy/gateway.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <netlink/route/route.h>
#include <netlink/route/rule.h>
#include <nftables/libnftables.h>
#include <sched.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "netpolicy/nflog.h"
#include "netpolicy/nfqueue.h"

/* Theory of operation
 *
 * A packet of a sandbox comes in at its veth's gateway end. The prerouting chain sees it first: a source that
 * is not the sandbox's is dropped (fib: the way back must be the interface it came from); port 53 goes to the
 * resolver's sockets and the rest of TCP and UDP to the relay's, by tproxy, which changes no address, so the
 * sockets can tell the original destination; what is neither is refused with an ICMP and logged, but for ICMP
 * errors, which a kernel sends by itself: they are nobody's attempt, and dropped. tproxy needs the marked
 * packets routed locally: one rule and one route. Input accepts what was marked, forward nothing.
 *
 * A mode is the interface's *group* (ip-link(8)), so that another mode is one netlink message and no rule
 * changes: 1 restricted (no UDP but DNS), 2 open, 3 off.
 *
 * The rules are nft(8) text, loaded by libnftables once at start and once for each sandbox that is off. The
 * library is opened only here, so that an emulator without network sandboxes does not carry it. */

#define PORT_TCP 15001
#define PORT_UDP 15002
#define PORT_DNS 15053
#define FWMARK 1
#define ROUTE_TABLE 100

struct nft_library {
	void *handle;
	struct nft_ctx *(*ctx_new)(uint32_t flags);
	void (*ctx_free)(struct nft_ctx *ctx);
	int (*buffer_error)(struct nft_ctx *ctx);
	const char *(*get_error)(struct nft_ctx *ctx);
	int (*run)(struct nft_ctx *ctx, const char *text);
};

struct gateway {
	struct gateway_sockets s;
	struct nft_library nft;
	int netns; /* the gateway's own, to come back to */
	bool v6;
};

/* "asking" comes first. What it hands to the egress process comes back with a mark; what nobody answers for (no
 * listener, too many waiting) goes on to "leaving" without one, and is decided there as if nobody could be asked. */
#define GATEWAY_RULES(set, rule)                                                                                       \
	"table inet orkestr {\n" set "  chain ask {\n"                                                                 \
	"  }\n"                                                                                                        \
	"  chain asking {\n"                                                                                           \
	"    type filter hook prerouting priority mangle - 1; policy accept;\n"                                        \
	"    iifname \"lo\" accept\n"                                                                                  \
	"    meta l4proto ipv6-icmp accept\n"                                                                          \
	"    meta l4proto { tcp, udp } th dport 53 accept\n"                                                           \
	"    fib saddr . iif oif missing drop\n"                                                                       \
	"    icmp type { destination-unreachable, time-exceeded, parameter-problem } drop\n"                           \
	"    meta l4proto tcp tcp flags & (syn | ack) == syn jump ask\n"                                               \
	"    meta l4proto tcp accept\n"                                                                                \
	"    iifgroup 2 meta l4proto udp accept\n"                                                                     \
	"    jump ask\n"                                                                                               \
	"  }\n"                                                                                                        \
	"  set never4 { type ipv4_addr; flags interval; elements = { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, "            \
	"240.0.0.0/4 "                                                                                                 \
	"} }\n"                                                                                                        \
	"  chain leaving {\n"                                                                                          \
	"    type filter hook prerouting priority mangle; policy accept;\n"                                            \
	"    iifname \"lo\" accept\n"                                                                                  \
	"    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept\n"                        \
	"    icmpv6 type { nd-router-solicit, mld2-listener-report, mld-listener-report } drop\n"                      \
	"    fib saddr . iif oif missing drop\n"                                                                       \
	"    icmp type { destination-unreachable, time-exceeded, parameter-problem } drop\n"                           \
	"    icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } drop\n"         \
	"    meta l4proto { tcp, udp } th dport 53 jump dns\n"                                                         \
	"    meta mark 2 jump refuse_told\n"                                                                           \
	"    ip daddr @never4 jump refuse_address\n"                                                                   \
	"    iifgroup 1 meta l4proto udp jump refuse_udp\n"                                                            \
	"    iifgroup 3 jump refuse_off\n"                                                                             \
	"    meta l4proto tcp meta nfproto ipv4 tproxy ip to :15001 meta mark set 1 accept\n"                          \
	"    meta l4proto udp meta nfproto ipv4 tproxy ip to :15002 meta mark set 1 accept\n"                          \
	"    meta l4proto tcp meta nfproto ipv6 tproxy ip6 to :15001 meta mark set 1 accept\n"                         \
	"    meta l4proto udp meta nfproto ipv6 tproxy ip6 to :15002 meta mark set 1 accept\n"                         \
	"    log prefix \"protocol\" group 1 snaplen 256\n"                                                            \
	"    reject with icmpx admin-prohibited\n"                                                                     \
	"  }\n"                                                                                                        \
	"  chain dns {\n" rule "    meta l4proto tcp meta nfproto ipv4 tproxy ip to :15053 meta mark set 1 accept\n"   \
	"    meta l4proto udp meta nfproto ipv4 tproxy ip to :15053 meta mark set 1 accept\n"                          \
	"    meta l4proto tcp meta nfproto ipv6 tproxy ip6 to :15053 meta mark set 1 accept\n"                         \
	"    meta l4proto udp meta nfproto ipv6 tproxy ip6 to :15053 meta mark set 1 accept\n"                         \
	"  }\n"                                                                                                        \
	"  chain refuse_told {\n"                                                                                      \
	"    meta l4proto tcp reject with tcp reset\n"                                                                 \
	"    reject with icmpx admin-prohibited\n"                                                                     \
	"  }\n"                                                                                                        \
	"  chain refuse_address {\n"                                                                                   \
	"    log prefix \"address\" group 1 snaplen 256\n"                                                             \
	"    meta l4proto tcp reject with tcp reset\n"                                                                 \
	"    reject with icmpx admin-prohibited\n"                                                                     \
	"  }\n"                                                                                                        \
	"  chain refuse_udp {\n"                                                                                       \
	"    log prefix \"udp-not-allowed\" group 1 snaplen 256\n"                                                     \
	"    reject with icmpx admin-prohibited\n"                                                                     \
	"  }\n"                                                                                                        \
	"  chain refuse_off {\n"                                                                                       \
	"    log prefix \"network-off\" group 1 snaplen 256\n"                                                         \
	"    meta l4proto tcp reject with tcp reset\n"                                                                 \
	"    reject with icmpx admin-prohibited\n"                                                                     \
	"  }\n"                                                                                                        \
	"  chain arriving {\n"                                                                                         \
	"    type filter hook input priority filter; policy drop;\n"                                                   \
	"    iifname \"lo\" accept\n"                                                                                  \
	"    meta mark 1 accept\n"                                                                                     \
	"    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept\n"                        \
	"  }\n"                                                                                                        \
	"  chain forwarded { type filter hook forward priority filter; policy drop; }\n"                               \
	"}\n"

/* One datagram socket answers every sandbox, and its buffer holds some hundred questions: one that floods it must not
 * crowd out the others. Its own surplus is dropped, as it would be on any network. */
#define FAIR_SET "  set asks { type iface_index; size 4096; flags dynamic,timeout; timeout 10s; }\n"
#define FAIR_RULE "    meta l4proto udp add @asks { iif limit rate over 1000/second burst 150 packets } drop\n"

/* The second is for a kernel without limits in sets. */
static const char *const gateway_rules[] = { GATEWAY_RULES(FAIR_SET, FAIR_RULE), GATEWAY_RULES("", "") };

/* In a sandbox that is off. Its loopback works; all else is refused at once. TCP by a reset: an ICMP error that
 * comes back within connect(2) itself is only a soft one, and the connect would wait (tcp_v4_err). Once a pair is
 * attached, the gateway decides about what leaves by it: taking these rules away again would cost more than the
 * rest of the attach (closing an nftables socket waits for the kernel's RCU). */
static const char off_rules[] = "table inet orkestr {\n"
				"  chain leaving {\n"
				"    type filter hook output priority filter; policy accept;\n"
				"    oifname \"eth0\" accept\n"
				"    ip daddr 127.0.0.0/8 accept\n"
				"    ip6 daddr ::1 accept\n"
				"    fib daddr type local accept\n"
				"    log prefix \"network-off\" group 1 snaplen 256\n"
				"    meta l4proto tcp reject with tcp reset\n"
				"    meta nfproto ipv4 reject with icmp net-unreachable\n"
				"    reject with icmpv6 no-route\n"
				"  }\n"
				"}\n";

/* --- libnftables --- */

static int nft_open(struct nft_library *n, struct err *e)
{
	n->handle = dlopen("libnftables.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!n->handle)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "network_unavailable",
			       "libnftables is missing; install it: apt-get install libnftables1");
	n->ctx_new = (struct nft_ctx * (*)(uint32_t)) dlsym(n->handle, "nft_ctx_new");
	n->ctx_free = (void (*)(struct nft_ctx *))dlsym(n->handle, "nft_ctx_free");
	n->buffer_error = (int (*)(struct nft_ctx *))dlsym(n->handle, "nft_ctx_buffer_error");
	n->get_error = (const char *(*)(struct nft_ctx *))dlsym(n->handle, "nft_ctx_get_error_buffer");
	n->run = (int (*)(struct nft_ctx *, const char *))dlsym(n->handle, "nft_run_cmd_from_buffer");
	if (!n->ctx_new || !n->ctx_free || !n->buffer_error || !n->get_error || !n->run)
		return err_set(e, ERR_UNAVAILABLE, ENOSYS, "network_unavailable",
			       "this libnftables is not the one we know");
	return 0;
}

/* A context has a netlink socket of the namespace it is made in, so each run makes its own. */
static int nft_run(const struct nft_library *n, const char *text, struct err *e)
{
	struct nft_ctx *ctx = n->ctx_new(0);
	int r = 0;

	if (!ctx)
		return err_errno(e, ENOMEM, "nftables");
	(void)n->buffer_error(ctx);
	if (n->run(ctx, text) != 0) {
		const char *why = n->get_error(ctx);

		r = err_set(e, ERR_UNAVAILABLE, EIO, "network_unavailable", "nftables: %.*s",
			    why ? (int)strcspn(why, "\n") : 0, why ? why : "");
	}
	n->ctx_free(ctx);
	return r;
}

/* --- addresses --- */

#define V4_BASE 0x64400000u /* 100.64.0.0, RFC 6598 */

static void addresses(uint32_t index, uint32_t host, struct in_addr *v4, struct in6_addr *v6)
{
	uint32_t n = index * 4 + host;

	v4->s_addr = htonl(V4_BASE + n);
	memset(v6, 0, sizeof(*v6));
	v6->s6_addr[0] = 0xfd;
	v6->s6_addr[1] = 0x6f;
	v6->s6_addr[2] = 0x72;
	v6->s6_addr[3] = 0x6b;
	v6->s6_addr32[3] = htonl(n);
}

int gateway_index_of(const struct in6_addr *a)
{
	struct in6_addr v6;
	struct in_addr v4;
	uint32_t n;

	if (IN6_IS_ADDR_V4MAPPED(a)) {
		n = ntohl(a->s6_addr32[3]) - V4_BASE;
	} else {
		addresses(0, 0, &v4, &v6);
		if (memcmp(a->s6_addr, v6.s6_addr, 12) != 0)
			return -1;
		n = ntohl(a->s6_addr32[3]);
	}
	return n < GATEWAY_MAX * 4 && n % 4 == 2 ? (int)(n / 4) : -1;
}

/* --- rtnetlink --- */

static void sockp(struct nl_sock **s)
{
	if (*s)
		nl_socket_free(*s);
}
#define _cleanup_nl_ _cleanup_(sockp)

static int nl_open(struct nl_sock **ret, struct err *e)
{
	_cleanup_nl_ struct nl_sock *s = nl_socket_alloc();
	int r;

	if (!s)
		return err_errno(e, ENOMEM, "netlink");
	r = nl_connect(s, NETLINK_ROUTE);
	if (r < 0)
		return err_set(e, ERR_IO, EIO, NULL, "netlink: %s", nl_geterror(r));
	*ret = TAKE_PTR(s);
	return 0;
}

static int nl_result(int r, struct err *e, const char *what)
{
	if (r >= 0 || r == -NLE_EXIST)
		return 0;
	return err_set(e, ERR_IO, EIO, NULL, "%s: %s", what, nl_geterror(r));
}

static int add_address(struct nl_sock *s, int ifindex, int family, const void *bytes, size_t n, int prefix,
		       struct err *e)
{
	struct nl_addr *local = nl_addr_build(family, bytes, n);
	struct rtnl_addr *a = rtnl_addr_alloc();
	int r = -NLE_NOMEM;

	if (local && a) {
		nl_addr_set_prefixlen(local, prefix);
		rtnl_addr_set_ifindex(a, ifindex);
		r = rtnl_addr_set_local(a, local);
		if (family == AF_INET6) /* no neighbour to collide with: usable at once (RFC 4862, 5.4) */
			rtnl_addr_set_flags(a, IFA_F_NODAD);
		if (r >= 0)
			r = rtnl_addr_add(s, a, 0);
	}
	rtnl_addr_put(a);
	nl_addr_put(local);
	return nl_result(r, e, "adding an address");
}

/* A default route. via NULL: to the interface itself; from loopback's own address, as there may be no other and a
 * packet from 0.0.0.0 could not even be refused. table 0: the main one. */
static int add_route(struct nl_sock *s, int ifindex, int family, const void *via, size_t via_len, uint32_t table,
		     uint8_t type, bool replace, struct err *e)
{
	static const unsigned char zero[16];
	static const unsigned char lo4[4] = { 127, 0, 0, 1 }, lo6[16] = { [15] = 1 };
	struct nl_addr *dst = nl_addr_build(family, zero, family == AF_INET ? 4 : 16), *gw = NULL, *from = NULL;
	struct rtnl_nexthop *hop = rtnl_route_nh_alloc();
	struct rtnl_route *r = rtnl_route_alloc();
	int n = -NLE_NOMEM;

	if (via)
		gw = nl_addr_build(family, via, via_len);
	else if (type == RTN_UNICAST)
		from = family == AF_INET ? nl_addr_build(family, lo4, sizeof(lo4))
					 : nl_addr_build(family, lo6, sizeof(lo6));
	if (dst && hop && r && (gw || !via)) {
		nl_addr_set_prefixlen(dst, 0);
		(void)rtnl_route_set_dst(r, dst);
		(void)rtnl_route_set_family(r, (uint8_t)family);
		if (table)
			rtnl_route_set_table(r, table);
		(void)rtnl_route_set_type(r, type);
		rtnl_route_set_scope(r, type == RTN_LOCAL ? RT_SCOPE_HOST : via ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK);
		rtnl_route_nh_set_ifindex(hop, ifindex);
		if (gw)
			rtnl_route_nh_set_gateway(hop, gw);
		if (from)
			(void)rtnl_route_set_pref_src(r, from);
		rtnl_route_add_nexthop(r, TAKE_PTR(hop)); /* now the route's */
		n = rtnl_route_add(s, r, replace ? NLM_F_REPLACE : 0);
	}
	if (hop)
		rtnl_route_nh_free(hop);
	if (r)
		rtnl_route_put(r);
	nl_addr_put(from);
	nl_addr_put(gw);
	nl_addr_put(dst);
	return nl_result(n, e, "adding a route");
}

static int add_mark_rule(struct nl_sock *s, int family, struct err *e)
{
	struct rtnl_rule *r = rtnl_rule_alloc();
	int n = -NLE_NOMEM;

	if (r) {
		rtnl_rule_set_family(r, family);
		rtnl_rule_set_mark(r, FWMARK);
		rtnl_rule_set_table(r, ROUTE_TABLE);
		rtnl_rule_set_action(r, FR_ACT_TO_TBL);
		n = rtnl_rule_add(s, r, NLM_F_CREATE);
		rtnl_rule_put(r);
	}
	return nl_result(n, e, "adding a routing rule");
}

static int link_up(struct nl_sock *s, int ifindex, struct err *e)
{
	struct rtnl_link *have = rtnl_link_alloc(), *want = rtnl_link_alloc();
	int r = -NLE_NOMEM;

	if (have && want) {
		rtnl_link_set_ifindex(have, ifindex);
		rtnl_link_set_flags(want, IFF_UP);
		r = rtnl_link_change(s, have, want, 0);
	}
	rtnl_link_put(have);
	rtnl_link_put(want);
	return nl_result(r, e, "bringing an interface up");
}

/* --- the namespace itself --- */

static int transparent_socket(int family, int type, uint16_t port, struct err *e)
{
	_cleanup_close_ int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT };
	struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	const int on = 1;
	int r = 0;

	if (fd < 0)
		return err_errno(e, errno, "socket of the gateway");
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (family == AF_INET6) {
		r |= setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &on, sizeof(on));
		r |= setsockopt(fd, SOL_IPV6, IPV6_TRANSPARENT, &on, sizeof(on));
		if (type == SOCK_DGRAM)
			r |= setsockopt(fd, SOL_IPV6, IPV6_RECVORIGDSTADDR, &on, sizeof(on));
		if (r == 0)
			r = bind(fd, (struct sockaddr *)&a6, sizeof(a6));
	} else {
		r |= setsockopt(fd, SOL_IP, IP_TRANSPARENT, &on, sizeof(on));
		if (type == SOCK_DGRAM)
			r |= setsockopt(fd, SOL_IP, IP_RECVORIGDSTADDR, &on, sizeof(on));
		if (r == 0)
			r = bind(fd, (struct sockaddr *)&a4, sizeof(a4));
	}
	if (r == 0 && type == SOCK_STREAM)
		r = listen(fd, 4096);
	return r < 0 ? err_errno(e, errno, "transparent socket on port %u", port) : TAKE_FD(fd);
}

static int open_sockets(struct gateway *g, struct err *e)
{
	const struct {
		int *fd, type;
		uint16_t port;
	} all[] = {
		{ g->s.tcp, SOCK_STREAM, PORT_TCP },
		{ g->s.udp, SOCK_DGRAM, PORT_UDP },
		{ g->s.dns_tcp, SOCK_STREAM, PORT_DNS },
		{ g->s.dns_udp, SOCK_DGRAM, PORT_DNS },
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (int f = 0; f < (g->v6 ? 2 : 1); f++) {
			all[i].fd[f] = transparent_socket(f ? AF_INET6 : AF_INET, all[i].type, all[i].port, e);
			if (all[i].fd[f] < 0)
				return all[i].fd[f];
		}
	g->s.nflog = nflog_open(GATEWAY_NFLOG, e);
	if (g->s.nflog < 0)
		return g->s.nflog;
	/* Without it a refusal comes a moment later, from the relay. */
	if (nfqueue_add_rule("orkestr", "ask") == 0)
		g->s.queue = nfqueue_open(NULL);
	return 0;
}

static int set_up_namespace(struct gateway *g, struct err *e)
{
	_cleanup_nl_ struct nl_sock *s = NULL;
	int r = nl_open(&s, e), lo = (int)if_nametoindex("lo");

	if (r >= 0)
		r = link_up(s, lo, e);
	for (int f = 0; r >= 0 && f < (g->v6 ? 2 : 1); f++) {
		int family = f ? AF_INET6 : AF_INET;

		r = add_mark_rule(s, family, e);
		if (r >= 0)
			r = add_route(s, lo, family, NULL, 0, ROUTE_TABLE, RTN_LOCAL, false, e);
	}
	if (r >= 0)
		r = nft_run(&g->nft, gateway_rules[0], NULL) < 0 ? nft_run(&g->nft, gateway_rules[1], e) : 0;
	return r;
}

int gateway_new(struct gateway **ret, struct err *e)
{
	struct gateway *g = calloc(1, sizeof(*g));
	int r;

	if (!g)
		return err_errno(e, ENOMEM, "the gateway");
	g->s = (struct gateway_sockets){ { -1, -1 }, { -1, -1 }, { -1, -1 }, { -1, -1 }, -1, -1 };
	g->netns = -1;
	g->v6 = access("/proc/sys/net/ipv6", F_OK) == 0;
	r = nft_open(&g->nft, e);
	if (r >= 0 && unshare(CLONE_NEWNET) < 0)
		r = err_errno(e, errno, "making the gateway's network namespace");
	if (r >= 0) {
		g->netns = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
		if (g->netns < 0)
			r = err_errno(e, errno, "opening the gateway's network namespace");
	}
	if (r >= 0)
		r = set_up_namespace(g, e);
	if (r >= 0)
		r = open_sockets(g, e);
	if (r < 0) {
		gateway_free(g);
		return r;
	}
	*ret = g;
	return 0;
}

void gateway_free(struct gateway *g)
{
	if (!g)
		return;
	for (int f = 0; f < 2; f++) {
		closep(&g->s.tcp[f]);
		closep(&g->s.udp[f]);
		closep(&g->s.dns_tcp[f]);
		closep(&g->s.dns_udp[f]);
	}
	closep(&g->s.nflog);
	closep(&g->s.queue);
	closep(&g->netns);
	if (g->nft.handle)
		(void)dlclose(g->nft.handle);
	free(g);
}

const struct gateway_sockets *gateway_sockets(const struct gateway *g)
{
	return &g->s;
}

/* --- sandboxes --- */

static int group_of(enum net_mode mode)
{
	return mode == NET_RESTRICTED ? 1 : mode == NET_OPEN ? 2 : 3;
}

static int make_pair(struct nl_sock *s, uint32_t index, pid_t pid, enum net_mode mode, struct err *e)
{
	struct rtnl_link *link = rtnl_link_veth_alloc(), *peer;
	char name[16];
	int r;

	if (!link)
		return err_errno(e, ENOMEM, "a veth pair");
	peer = rtnl_link_veth_get_peer(link);
	(void)snprintf(name, sizeof(name), "v%u", index);
	rtnl_link_set_name(link, name);
	rtnl_link_set_group(link, (uint32_t)group_of(mode));
	rtnl_link_set_name(peer, "eth0");
	rtnl_link_set_ns_pid(peer, pid);
	rtnl_link_set_flags(link, IFF_UP); /* the peer can't be yet: veth_open wants both ends there */
	r = rtnl_link_add(s, link, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_link_put(peer);
	rtnl_link_put(link);
	return r < 0 ? err_set(e, ERR_IO, EIO, NULL, "making a veth pair: %s", nl_geterror(r)) : 0;
}

/* One side's addresses, and for the sandbox its default routes. */
static int configure(struct gateway *g, struct nl_sock *s, const char *name, uint32_t index, bool inside, struct err *e)
{
	int ifindex = (int)if_nametoindex(name), r;
	struct in_addr v4, gw4;
	struct in6_addr v6, gw6;

	if (ifindex <= 0)
		return err_errno(e, ENODEV, "%s", name);
	addresses(index, 1, &gw4, &gw6);
	addresses(index, inside ? 2 : 1, &v4, &v6);
	r = add_address(s, ifindex, AF_INET, &v4, sizeof(v4), 30, e);
	if (r >= 0 && g->v6)
		r = add_address(s, ifindex, AF_INET6, &v6, sizeof(v6), 126, e);
	if (r >= 0 && inside)
		r = link_up(s, ifindex, e);
	if (r >= 0 && inside)
		r = add_route(s, ifindex, AF_INET, &gw4, sizeof(gw4), 0, RTN_UNICAST, true, e);
	if (r >= 0 && inside && g->v6)
		r = add_route(s, ifindex, AF_INET6, &gw6, sizeof(gw6), 0, RTN_UNICAST, true, e);
	return r;
}

/* Runs fn in the network namespace of the sandbox and comes back. Not coming back would leave the keeper in a
 * sandbox's network: that ends it. */
static int inside(struct gateway *g, pid_t pid, int (*fn)(struct gateway *g, void *arg, struct err *e), void *arg,
		  struct err *e)
{
	_cleanup_close_ int ns = -1;
	char path[64];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0 || setns(ns, CLONE_NEWNET) < 0)
		return err_errno(e, errno, "entering the sandbox's network namespace");
	r = fn(g, arg, e);
	if (setns(g->netns, CLONE_NEWNET) < 0)
		abort();
	return r;
}

static int configure_inside(struct gateway *g, void *arg, struct err *e)
{
	_cleanup_nl_ struct nl_sock *s = NULL;
	int r = nl_open(&s, e);

	return r < 0 ? r : configure(g, s, "eth0", *(uint32_t *)arg, true, e);
}

int gateway_attach(struct gateway *g, uint32_t index, pid_t init_pid, enum net_mode mode, struct err *e)
{
	_cleanup_nl_ struct nl_sock *s = NULL;
	char name[16];
	int r;

	if (index >= GATEWAY_MAX)
		return err_set(e, ERR_CAPACITY, EAGAIN, NULL, "no more than %u sandboxes can have a network",
			       GATEWAY_MAX);
	r = nl_open(&s, e);
	if (r >= 0)
		r = make_pair(s, index, init_pid, mode, e);
	(void)snprintf(name, sizeof(name), "v%u", index);
	if (r >= 0)
		r = configure(g, s, name, index, false, e);
	return r < 0 ? r : inside(g, init_pid, configure_inside, &index, e);
}

int gateway_set_mode(struct gateway *g, uint32_t index, enum net_mode mode, struct err *e)
{
	struct rtnl_link *have = rtnl_link_alloc(), *want = rtnl_link_alloc();
	_cleanup_nl_ struct nl_sock *s = NULL;
	char name[16];
	int r = nl_open(&s, e), n = -NLE_NOMEM;
	(void)g;

	(void)snprintf(name, sizeof(name), "v%u", index);
	if (r >= 0 && have && want) {
		rtnl_link_set_ifindex(have, (int)if_nametoindex(name));
		rtnl_link_set_group(want, (uint32_t)group_of(mode));
		n = rtnl_link_change(s, have, want, 0);
	}
	rtnl_link_put(have);
	rtnl_link_put(want);
	return r < 0 ? r : nl_result(n, e, "changing the network mode");
}

static int notice_inside(struct gateway *g, void *arg, struct err *e)
{
	_cleanup_nl_ struct nl_sock *s = NULL;
	_cleanup_close_ int log = -1;
	int lo = (int)if_nametoindex("lo"), r = nl_open(&s, e);

	if (r >= 0)
		r = link_up(s, lo, e);
	if (r >= 0)
		r = add_route(s, lo, AF_INET, NULL, 0, 0, RTN_UNICAST, true, e);
	if (r >= 0 && g->v6)
		r = add_route(s, lo, AF_INET6, NULL, 0, 0, RTN_UNICAST, true, e);
	if (r >= 0)
		r = nft_run(&g->nft, off_rules, e);
	if (r >= 0)
		r = log = nflog_open(GATEWAY_NFLOG, e);
	if (r < 0)
		return r;
	*(int *)arg = TAKE_FD(log);
	return 0;
}

int gateway_notice(struct gateway *g, pid_t init_pid, int *ret_nflog, struct err *e)
{
	return inside(g, init_pid, notice_inside, ret_nflog, e);
}
