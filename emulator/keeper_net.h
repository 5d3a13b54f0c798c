#pragma once
/* The gateway's process, a child of the keeper's: it alone has the gateway's network namespace and
 * libnftables, so the keeper, which every init is a copy of, stays small. The keeper asks, one question at a
 * time, and waits for the answer (a millisecond or two; 5 s at most, then the network counts as gone). */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "netpolicy/policy.h"

struct keeper_net;

/* Forks it, by it the egress process, and the dialer (netpolicy/egress.h), which alone stays in the host's
 * network; the gateway is made before this returns, or e says why it can't be. Call before the host's files are
 * out of reach: it opens a library and reads /etc/resolv.conf. close_fd: an fd of the keeper's not for it, or -1.
 * *ret_egress: the daemon's end of the egress process's control socket, now the callee's. */
int keeper_net_start(int close_fd, struct keeper_net **ret, int *ret_egress, struct err *e);

/* The egress process has ended, maybe because the dialer has: another one of each, on the same gateway. It knows
 * no sandbox, so it refuses everything until it is told. Fails when the gateway process is gone: what it made is
 * gone with it, and can't be made again from here. */
int keeper_net_restart(struct keeper_net *n, int *ret_egress, struct err *e);

void keeper_net_free(struct keeper_net *n); /* ends all of it */

/* As gateway_notice; *ret_nflog is the callee's. */
int keeper_net_notice(struct keeper_net *n, pid_t init_pid, int *ret_nflog, struct err *e);

/* As gateway_attach and gateway_set_mode. */
int keeper_net_attach(struct keeper_net *n, uint32_t index, pid_t init_pid, enum net_mode mode, struct err *e);
int keeper_net_set_mode(struct keeper_net *n, uint32_t index, enum net_mode mode, struct err *e);
