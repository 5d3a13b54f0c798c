#pragma once
/* What the policy of one sandbox refused lately: the source of NetworkPolicyError (wire.md, Errors). A ring of
 * a fixed size; the oldest give way. Repeats of the same attempt within a second are one entry. */

#include <netinet/in.h>

#include "netpolicy/policy.h"

#define BLOCKED_MAX 64

struct blocked_entry {
	int64_t at_us; /* clock_mono_us */
	struct in6_addr address; /* IPv4 as v4-mapped */
	uint16_t port;
	uint8_t proto; /* IPPROTO_* */
	char host[POLICY_NAME_MAX]; /* "" if no name is known */
	char rule[32];
};

struct blocked; /* NULL is an empty one for the readers */

/* 0 or -ENOMEM; *b is made when it is NULL. */
int blocked_add(struct blocked **b, const struct blocked_entry *en);

/* Calls fn with the entries of [since_us, now], oldest first; returns how many. */
size_t blocked_each(const struct blocked *b, int64_t since_us, void (*fn)(void *arg, const struct blocked_entry *en), void *arg);

void blocked_free(struct blocked *b);
