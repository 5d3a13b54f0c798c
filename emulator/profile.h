#pragma once
/* How long the cloud takes for a call, for who wants to feel it (`serve --profile cloud`). Latencies come before the
 * call is carried out and are the emulator's own; what a command takes is its own time in every profile.
 *
 * A boot: the service's documentation says "about 300 ms" (orkestr.eu/docs/sandboxes/templates). The rest is our
 * reading: a resume as a boot, a pause longer (memory and disk are written), any other call one round trip. */

#include "emulator/base/err.h"
#include "emulator/fault.h"

enum profile_call { PROFILE_CREATE, PROFILE_PAUSE, PROFILE_RESUME, PROFILE_OTHER, PROFILE_CALLS };

struct profile {
	const char *name; /* static: "fast", "cloud" */
	bool slow;	  /* any latency is not 0 */
	bool limits;	  /* rate limits are on, and a key without a plan is on the free one */
	struct fault_latency latency[PROFILE_CALLS];
};

/* "fast" or "cloud"; -EINVAL for any other name. */
int profile_get(const char *name, struct profile *ret);

/* "create=normal(300,40)": one of create, pause, resume, other. ERR_INVALID. */
int profile_set_latency(struct profile *p, const char *text, struct err *e);
