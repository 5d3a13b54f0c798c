#pragma once
/* The kernel's side of gateway_read_asked: packets that wait for an answer (linux/netfilter/nfnetlink_queue.h). */

#include "emulator/base/err.h"

/* Bound to queue 0 of the current network namespace; non-blocking. When more wait than it holds, the kernel lets
 * the rest go on to the next chain. The fd or a negative errno. */
int nfqueue_open(struct err *e);

/* Adds to a chain of an inet table of this namespace the rule that hands every packet to queue 0 (or on to the next
 * chain, while nobody listens there). nft's own statement needs a kernel option that not every kernel has, so it is
 * xtables' target, which libnftables can't write. -EOPNOTSUPP and the like where the kernel has neither. */
int nfqueue_add_rule(const char *table, const char *chain);
