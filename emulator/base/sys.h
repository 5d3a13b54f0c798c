#pragma once
/* System calls that glibc 2.36 does not wrap, or wraps awkwardly. Each returns a value >= 0 or a
 * negative errno, and says its man page. */

#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/types.h>

#include "emulator/base/util.h"

/* clone3(2). Returns 0 in the child. Only for single-threaded processes: no atfork handlers run. */
pid_t sys_clone3(struct clone_args *args);

/* openat2(2). resolve: RESOLVE_* bits; O_CLOEXEC is always added. */
int sys_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);

int sys_pidfd_open(pid_t pid);		       /* pidfd_open(2) */
int sys_pidfd_send_signal(int pidfd, int sig); /* pidfd_send_signal(2) */
int sys_pivot_root(const char *new_root, const char *put_old);

/* By a new child: it is killed when the parent that forked it ends (PR_SET_PDEATHSIG(2const)), and ends here if that
 * happened before. A change of ids takes it back. */
void sys_die_with(pid_t parent);

int sys_close_range(unsigned int first, unsigned int last, unsigned int flags); /* close_range(2) */
