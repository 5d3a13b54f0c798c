#pragma once
/* Asks systemd for a delegated cgroup: a transient scope (StartTransientUnit, Delegate=yes) with the
 * calling process in it, from the user's systemd or, as root, from the system's. libsystemd is loaded
 * only here and only then, so it costs start-up nothing elsewhere. Launcher only; blocks at most 5 s. */

#include "emulator/base/err.h"

/* True if systemd is this host's init, sd_booted(3). */
bool delegate_systemd_runs(void);

/* `unit`: the scope's name with ".scope"; `mount`: where the cgroup v2 hierarchy is mounted. If a scope of that
 * name is alive (an earlier run's), the calling process joins the group "daemon" in it. On success the caller
 * is in the scope's group or in its "daemon" child; /proc/self/cgroup tells which. */
int delegate_scope(const char *unit, const char *mount, struct err *e);
