#pragma once
/* A process and all its descendants, as /proc tells them: for where no cgroup says what is inside. */

#include <sys/types.h>

/* Calls fn with the pid of each, root first, until it gives something else than 0: that is returned. At most 512
 * processes are visited, and of each at most 256 threads are asked for children; what is made or loses its parent
 * meanwhile may be missed. -ENOMEM; -ENOTSUP without /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN). */
int proctree_each(pid_t root, int (*fn)(void *arg, pid_t pid), void *arg);
