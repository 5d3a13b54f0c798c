#pragma once
/* The gateway: a network namespace of the keeper's with no uplink. One veth pair for each sandbox that may
 * have a network; nftables decides what leaves a sandbox; what may, ends in the egress process's sockets.
 * Runs in the keeper, in the emulator's user namespace; nothing of it exists in the host's network.
 *
 * Sandbox number i (0..GATEWAY_MAX-1) has 100.64.0.0/10 + 4i: gateway +1, sandbox +2, /30; and
 * fd6f:726b::4i/126 likewise. Its interface in the gateway is "v<i>", in the sandbox "eth0". */

#include <netinet/in.h>
#include <sys/types.h>

#include "emulator/base/err.h"
#include "netpolicy/policy.h"

#define GATEWAY_MAX 16384u
#define GATEWAY_RESOLVER "100.100.100.53" /* what /etc/resolv.conf names; any port 53 ends at our resolver */
#define GATEWAY_NFLOG 1

struct gateway;

/* Makes the namespace (the calling process moves into it), its table, and the sockets. Nothing is forwarded,
 * ever: TCP and UDP are handed to the sockets below by tproxy (so they keep their original destination),
 * everything else is refused at once and logged to NFLOG group GATEWAY_NFLOG. ERR_UNAVAILABLE where the host
 * lacks nftables or its library. */
int gateway_new(struct gateway **ret, struct err *e);
void gateway_free(struct gateway *g);

/* Transparent sockets for the egress process; owned by the gateway. tcp: listening. udp: with
 * IP_RECVORIGDSTADDR. Index 0: IPv4, 1: IPv6 (-1 where the host has none). dns_*: what port 53 goes to. */
struct gateway_sockets {
	int tcp[2], udp[2], dns_tcp[2], dns_udp[2];
	int nflog; /* netlink socket bound to GATEWAY_NFLOG */
	int queue; /* netlink socket for gateway_read_asked; -1 where the kernel can't ask */
};
const struct gateway_sockets *gateway_sockets(const struct gateway *g);

/* Connects the sandbox whose init is pid: the veth pair, addresses and routes on both sides, and the mode's
 * rules. Replaces what gateway_notice made there. The pair dies with the sandbox's namespace. */
int gateway_attach(struct gateway *g, uint32_t index, pid_t init_pid, enum net_mode mode, struct err *e);

/* Another mode for a connected sandbox: takes effect for the next packet. */
int gateway_set_mode(struct gateway *g, uint32_t index, enum net_mode mode, struct err *e);

/* Mode "off" for the sandbox whose init is pid: nothing but loopback, but an attempt is noticed: a default
 * route to lo and an output rule that refuses at once and logs. *ret_nflog: the netlink socket that hears of it. */
int gateway_notice(struct gateway *g, pid_t init_pid, int *ret_nflog, struct err *e);

/* The number of the sandbox with this (v4-mapped or v6) address, or -1. */
int gateway_index_of(const struct in6_addr *a);

/* A packet an nflog socket reports: what was tried. */
struct gateway_refused {
	struct in6_addr from, to;   /* IPv4 as v4-mapped */
	uint8_t proto;		    /* IPPROTO_TCP, ... */
	uint16_t from_port, port;   /* 0 where the protocol has none */
	char name[POLICY_NAME_MAX]; /* UDP to port 53: the name asked for, lower case; else "" */
	char rule[32];		    /* the log prefix: which rule refused */
};
typedef void (*gateway_refused_fn)(void *arg, const struct gateway_refused *r);
/* Reads what is there (non-blocking, at most 64 datagrams a call), calls fn for each packet that makes sense;
 * returns how many or a negative errno. */
int gateway_read_refused(int nflog, gateway_refused_fn fn, void *arg);

/* What is asked about before it goes on: a connection's first packet, and whatever else the rules don't let through
 * by themselves. Each has to be answered, from any process that has the socket and CAP_NET_ADMIN over the gateway. */
enum gateway_mark {
	GATEWAY_REFUSE = 2, /* reset, or an ICMP error; not logged: who answers has told already */
	GATEWAY_PASS = 3,   /* on to the relay, which decides again when it knows more */
};
typedef void (*gateway_asked_fn)(void *arg, uint32_t id, const struct gateway_refused *r); /* proto 0: makes no sense */
/* As gateway_read_refused. */
int gateway_read_asked(int queue, gateway_asked_fn fn, void *arg);
int gateway_answer(int queue, uint32_t id, enum gateway_mark mark);
