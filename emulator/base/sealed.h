#pragma once
/* The program's own file, out of a sandbox's reach (CVE-2019-5736 is what happened where it wasn't).
 *
 * A sandbox can execute /proc/self/exe, or a script whose interpreter that is: init's child is then this very program,
 * running with the sandbox's libraries, and whoever looks at /proc/PID/exe holds the host's file. Where a sandbox's
 * root is the user who owns the file (a single-id map), it could be written to, and would be run on the host the next
 * time. So what starts foreign code first executes itself again from a sealed copy in memory, which nobody can write. */

#include "emulator/base/err.h"

/* Executes the program again from a sealed memfd_create(2), unless it runs from one. For main(), before anything is
 * opened: on success it does not return the first time, and is 0 the second. ERR_UNAVAILABLE says what to do. */
int sealed_run(char **argv, struct err *e);
