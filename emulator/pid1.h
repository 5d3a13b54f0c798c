#pragma once
/* PID 1 of a sandbox: the other end of emulator/init.h. Runs in the process the keeper cloned. */

#include "emulator/base/util.h"
#include "emulator/isolate.h"

/* Every process of command `id` has this and id as its soft RLIMIT_LOCKS (pid1.c), unless it changed that. Far from
 * what anybody sets with ulimit -x. */
#define PID1_MARK_BASE (UINT64_C(1) << 40)

struct pid1_config {
	int ctl_sock;
	const struct isolate_filter *filter;
	bool cgroup_view;
	bool single_id;
};

/* Waits for INIT_GO, stages, waits for INIT_CONFIGURE, becomes the sandbox, serves. Never returns. */
_noreturn_ void pid1_main(const struct pid1_config *c);
