#pragma once
/* Workers: one blocking job each, in a child process of the daemon, then gone. The job must only use
 * what survives fork in a single-threaded process; it returns an exit status of 0..255. */

#include "emulator/base/err.h"

struct uv_loop_s;
struct worker;

/* Forks, runs job(job_arg) in the child with the loop's fds left alone but unused, and calls done(arg,
 * status) from the loop: status 0..255, or 128 + signal. Should the daemon die, the worker dies with it. */
int worker_run(struct uv_loop_s *loop, int (*job)(void *job_arg), void *job_arg, void (*done)(void *arg, int status),
	       void *arg, struct err *e);

/* For the job, first thing: closes every fd but 0, 1, 2 and these n, which get new numbers. A worker that
 * runs for long must: a client's connection or a command's stdin closed by the daemon stays open for the
 * other side as long as a copy of it is held here. Negative errno. */
int worker_keep_only(int *fds, size_t n);

/* For the job, then: from here on no path can be opened, made or removed but below dirfd (landlock(7); without
 * a kernel that has it, only the rest), no program run, no more than max_data bytes of memory had, and all
 * capabilities are gone but those over files' owners and modes. Negative errno. */
int worker_confine(int dirfd, uint64_t max_data);
