#pragma once
/* The least one can do for a sandbox: one clone3 with every namespace, an id map, an overlay, /proc,
 * pivot_root, exec, wait. No daemon, no limits, no seccomp: what the kernel alone costs.
 *
 * Lower is /usr (where /usr is merged, a whole root: /bin/true and its libraries are in it), since an
 * overlay's upper may not lie below its lower. */

#include "emulator/base/err.h"

/* Makes dir/{u,w,m} for one run. Not part of what is timed. */
int floor_prepare(const char *dir, struct err *e);
void floor_remove(const char *dir);

/* Runs argv in it and waits. ERR_UNSUPPORTED with the step the kernel refused. */
int floor_run(const char *dir, char *const argv[], struct err *e);
