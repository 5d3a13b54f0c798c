#pragma once
/* DNS messages (RFC 1035, 6891): a small strict parser and a builder. Pure; every input is hostile.
 *
 * Names are text: lower case, dots between labels, no dot at the end ("" is the root). A label may hold any
 * printable ASCII but '.' and '\\'; whether a name is a *host* name is policy_normalise's business. */

#include <netinet/in.h>
#include <sys/types.h>

#include "emulator/base/util.h"
#include "netpolicy/policy.h"

#define DNS_HEADER 12
#define DNS_MAX 65535
#define DNS_UDP_MAX 1232 /* what we announce and never exceed over UDP (DNS flag day 2020) */
#define DNS_CHAIN_MAX 8
#define DNS_ADDR_MAX 32

enum dns_type {
	DNS_A = 1,
	DNS_CNAME = 5,
	DNS_SOA = 6,
	DNS_AAAA = 28,
	DNS_SRV = 33,
	DNS_OPT = 41,
	DNS_SVCB = 64,
	DNS_HTTPS = 65,
	DNS_META_FIRST = 128, /* TKEY ... ANY: transfers and other meta types */
	DNS_ANY = 255,
};
#define DNS_CLASS_IN 1

enum dns_rcode { DNS_NOERROR, DNS_FORMERR, DNS_SERVFAIL, DNS_NXDOMAIN, DNS_NOTIMP, DNS_REFUSED };

struct dns_query {
	uint16_t id;
	uint8_t opcode;
	bool rd, edns;
	uint16_t type, class;
	uint16_t udp_size; /* what the client takes over UDP, 512..DNS_UDP_MAX */
	char name[POLICY_NAME_MAX];
	uint8_t question[POLICY_NAME_MAX + 6]; /* as on the wire: an answer echoes it, capitals and all */
	size_t question_len;
};

/* One question, no answers, at most an OPT and nothing after it. 0, -EBADMSG (answer FORMERR: ret->id is set
 * if there were 12 bytes), or -EPROTO: not even a query (too short, or an answer): say nothing. */
int dns_parse_query(const uint8_t *p, size_t n, struct dns_query *ret);

struct dns_answer {
	enum dns_rcode rcode;
	uint32_t ttl; /* seconds: the least of what is used */
	size_t n_chain, n_addr;
	char chain[DNS_CHAIN_MAX][POLICY_NAME_MAX]; /* asked name -> chain[0] -> chain[1] ... */
	struct in6_addr addr[DNS_ADDR_MAX];	    /* of the last name in the chain; IPv4 as v4-mapped */
};

/* What an upstream said to a query of ours. Records of other names than the asked one's CNAME chain are
 * ignored. -EBADMSG: malformed, or not an answer to this. -EMSGSIZE: truncated, ask over TCP. */
int dns_parse_answer(const uint8_t *p, size_t n, uint16_t id, const char *name, uint16_t type, struct dns_answer *ret);

/* The same checks; *ret_len is where the answer section ends. For types that are passed on as they are. */
int dns_check_answer(const uint8_t *p, size_t n, uint16_t id, const char *name, uint16_t type, size_t *ret_len,
		     enum dns_rcode *ret_rcode);

/* Builders: the length, or -EMSGSIZE / -EINVAL. An answer that does not fit in cap is sent empty with TC. */
ssize_t dns_build_query(uint8_t *buf, size_t cap, uint16_t id, const char *name, uint16_t type);
ssize_t dns_build_answer(uint8_t *buf, size_t cap, const struct dns_query *q, const struct dns_answer *a);

/* Header and question come from q, the answer section from the upstream's message p, n bytes (dns_check_answer). */
ssize_t dns_build_passed(uint8_t *buf, size_t cap, const struct dns_query *q, const uint8_t *p, size_t n);
