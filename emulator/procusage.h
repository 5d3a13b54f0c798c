#pragma once
/* What a process and all its descendants use, told by /proc: the stand-in where no cgroup counts. An estimate: CPU time
 * in clock ticks and without that of children nobody waited for; memory is what is resident and not of a file, pages
 * shared by a fork counted once for each process, files in a tmpfs not at all. */

#include <sys/types.h>

#include "emulator/base/util.h"

/* Bounds and errors as for proctree_each; -ESRCH if root is gone. */
int procusage_read(pid_t root, uint64_t *ret_cpu_usec, uint64_t *ret_bytes);
