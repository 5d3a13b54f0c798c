#pragma once
/* The ledger: what one sandbox asked the network for and what became of it, as the egress process reports it
 * (egress.h). Kept by the daemon, in memory; bounded: the oldest entries give way, the counters stay true. */

#include "netpolicy/egress.h"

#define LEDGER_ENTRIES 512

struct ledger;

/* A connection's or flow's start and its end are one entry: `open` until its end has come. */
struct ledger_entry {
	uint64_t seq;		    /* 1, 2, ... within a ledger; never reused */
	int64_t time_ms, closed_ms; /* closed_ms: 0 while open, and for what has no duration */
	enum egress_verdict verdict;
	enum egress_kind kind; /* never EGRESS_CLOSED */
	uint64_t flow;
	struct in6_addr address; /* IPv4 as v4-mapped; all zero: none */
	uint16_t port, from_port;
	uint8_t proto; /* IPPROTO_* */
	bool open;
	uint64_t bytes_out, bytes_in;
	const char *host, *rule; /* never NULL; the ledger's, until its next change */
	const char *owner;	 /* whoever did it, a name of the caller's; "": not known. Likewise */
};

struct ledger_counters {
	uint64_t allowed, blocked, failed; /* entries ever made, by verdict */
	uint64_t bytes_out, bytes_in;	   /* of ended flows */
	uint64_t lost;			   /* entries that gave way */
};

int ledger_new(struct ledger **ret); /* -ENOMEM */
void ledger_free(struct ledger *l);

/* An event as it came from the egress process. owner: a short name, "" if it can't be told. -EBADMSG if it makes no
 * sense, -ENOMEM (counted as lost). */
int ledger_add(struct ledger *l, const struct egress_event *ev, const char *owner);

void ledger_counters(const struct ledger *l, struct ledger_counters *ret);

/* Calls fn for each entry with seq > since, oldest first, until it returns non-zero, which is then returned. */
int ledger_each(const struct ledger *l, uint64_t since, int (*fn)(void *arg, const struct ledger_entry *e), void *arg);

/* The least allowlist that would have let everything through that was asked for (`network learn`): HOST:PORT for
 * connections whose name is known, HOST for names that were only looked up, ADDRESS:PORT for the rest. fn is
 * called with each rule, sorted, without doubles. Returns how many, or -ENOMEM. Several ledgers: one after the
 * other into one list, the caller drops doubles. */
int ledger_learn(const struct ledger *l, void (*fn)(void *arg, const struct policy_rule *r), void *arg);
