#pragma once
/* The egress process: resolver and relay. It lives in the gateway's network namespace, where sandboxes'
 * connections arrive with their original destinations, and makes the real connections with *blank sockets of
 * the host's network*, which a small dialer process hands out. So each connection is decided, recorded and
 * counted one by one, and the two networks never touch.
 *
 * It is started by the keeper and outlives the daemon: policy goes on while a daemon is away. Single-threaded,
 * epoll; splice(2) between the sockets; every buffer bounded. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "netpolicy/gateway.h"
#include "netpolicy/policy.h"

struct egress_config {
	const struct gateway_sockets *sockets;
	int control; /* SOCK_SEQPACKET to the daemon: egress_msg */
	int dialer;  /* SOCK_SEQPACKET to the dialer: one byte 4/6/'d'... asks for a batch of blank sockets */
	char nameservers[3][64]; /* the host's, as text with optional #port; "" = none */
};

/* Whether an EGRESS_MAP's text makes sense: 0 or -EINVAL. For who sends it: egress answers nothing. */
int egress_map_check(const char *text);
/* The same for an EGRESS_FAULT's host: a name, "*.NAME" or "*". */
int name_fault_check(const char *host);

/* Never returns. */
_noreturn_ void egress_main(const struct egress_config *c);

/* The dialer: stays in the host's network namespace; sends blank non-blocking sockets (TCP and UDP, IPv4 and
 * IPv6) on demand, until its peer is gone. It can do nothing else. Never returns. */
_noreturn_ void dialer_main(int sock);

/* --- messages on the control socket; fixed size, checked by the receiver --- */

enum egress_msg_type {
	/* to egress */
	EGRESS_ADD = 1, /* a sandbox: index, mode, flags; clears what was known of it */
	EGRESS_ALLOW,	/* one more rule for index: text */
	EGRESS_REMOVE,	/* index: connections end */
	EGRESS_MAP,	/* text: "HOST[:PORT]=ADDR:PORT"; value 1 = add, 0 = remove all */
	EGRESS_ZONE,	/* text: "NAME=ADDR": the built-in zone; "" removes all */
	EGRESS_FAULT,	/* text: "flt_1 HOST": questions for it fail, value times (0: always), those of index or of
			 * EGRESS_ALL; "" removes all */
	/* value 1: from here to value 0 all that there is is said again, maps and zone included. Nothing else happens
	 * meanwhile; who is not named is removed, who is keeps its connections and its names. */
	EGRESS_RESTATE,
	EGRESS_NOTED, /* token: the event with it was taken in; its refusal may go out */
	EGRESS_SYNC,  /* index, token: answered with EGRESS_SYNCED behind the events of all that was sent before */
	/* from egress */
	EGRESS_EVENT,  /* a struct egress_event, by itself */
	EGRESS_SYNCED, /* the same struct, of which only index and token count */
};

#define EGRESS_ALL UINT32_MAX
#define EGRESS_FAULT_RULE "fault-injected:" /* and the id: the rule of such an event */
#define EGRESS_ALLOW_PRIVATE 1u
#define EGRESS_BUILTIN_LIST 2u

struct egress_msg {
	uint32_t magic, type, index, mode, flags;
	int32_t value;
	uint64_t token;
	char text[POLICY_RULE_MAX + 64];
};

enum egress_verdict { EGRESS_ALLOWED, EGRESS_BLOCKED, EGRESS_FAILED /* allowed, but the network said no */ };
enum egress_kind {
	EGRESS_DNS,
	EGRESS_TCP,
	EGRESS_UDP,
	EGRESS_OTHER,
	EGRESS_CLOSED /* the end of a TCP/UDP flow: bytes */
};

struct egress_event {
	uint32_t magic, type, index;
	uint32_t verdict, kind;
	uint64_t flow; /* the same for a flow's start and end */
	/* Not 0: a refusal that is held back until EGRESS_NOTED says that it was taken in (or EGRESS_HOLD_MS have
	 * passed), so that whose it was can be found out while its socket is still there. */
	uint64_t token;
	int64_t time_ms;
	struct in6_addr address;
	uint16_t port, from_port;
	uint8_t proto;
	uint64_t bytes_out, bytes_in;
	char host[POLICY_NAME_MAX]; /* the name, where one is known */
	char rule[POLICY_RULE_MAX]; /* which rule allowed or refused it */
};
#define EGRESS_MAGIC 0x6f6b6532u /* "oke2" */
#define EGRESS_HOLD_MS 100
