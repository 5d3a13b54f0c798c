#pragma once
/* The gateway's process, a child of the keeper's: it alone has the gateway's network namespace and
 * libnftables, so the keeper, which every init is a copy of, stays small. The keeper asks, one question at a
 * time, and waits for the answer (a millisecond or two; 5 s at most, then the network counts as gone). */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "netpolicy/policy.h"

struct keeper_net;

/* Forks it; the gateway is made before this returns, or e says why it can't be. Call before the host's files
 * are out of reach: it opens a library. close_fd: an fd of the keeper's not for it, or -1. */
int keeper_net_start(int close_fd, struct keeper_net **ret, struct err *e);

/* As gateway_notice; *ret_nflog is the callee's. */
int keeper_net_notice(struct keeper_net *n, pid_t init_pid, int *ret_nflog, struct err *e);
