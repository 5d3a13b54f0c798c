#pragma once
/* A helper program as a child: its standard output is read like a file, its standard error is kept as
 * lines for a person. Used by the template builder only (CLI), never by the daemon. Blocking.
 *
 * The child has no other fd than 0, 1, 2, an empty signal mask, and dies with its parent. */

#include <sys/types.h>

#include "emulator/base/err.h"

#define PROC_TAIL 4096
#define PROC_LINE 256

struct proc_spec {
	const char *const *argv; /* argv[0] is looked up in the PATH of env */
	const char *const *env;
	int stdin_fd;	    /* -1: /dev/null */
	uint32_t timeout_s; /* 0: none; SIGKILL at the end of it */
	/* Each line of standard error, cut at PROC_LINE; the last one again each second nothing comes. */
	void (*line)(void *arg, const char *line);
	void *line_arg;
	/* In the child after 0, 1, 2 are in place, before other fds are closed. Below 0: exits 125, having
	 * said why on standard error. sync_fd: read one byte there to wait for the parent's hook. */
	int (*child)(void *arg, int sync_fd);
	/* In the parent once the child wrote one byte to its sync_fd. Only with a child hook that does. */
	int (*parent)(void *arg, pid_t pid, struct err *e);
	void *hook_arg;
};

struct proc {
	const struct proc_spec *spec;
	const char *name; /* argv[0] */
	pid_t pid;
	int out, errfd;
	bool timed_out;
	int64_t deadline_us;
	char tail[PROC_TAIL]; /* the last of standard error, printable, NUL-terminated */
	size_t tail_len;
	char line[PROC_LINE], last_line[PROC_LINE];
	size_t line_len;
};

/* The spec must outlive the proc. On failure nothing is left running. */
int proc_start(struct proc *p, const struct proc_spec *s, struct err *e);

/* The next bytes of standard output: a count, 0 at its end, or -ETIMEDOUT / another negative errno. */
ssize_t proc_read(struct proc *p, void *buf, size_t n);

/* Reads what is left (standard output is thrown away), reaps. 0 when it exited with 0; else ERR_IO with
 * the last of its standard error; *ret_status, if wanted, is the exit status (128 + signal). */
int proc_finish(struct proc *p, int *ret_status, struct err *e);

/* Kills and reaps; nothing to do when it was finished. For cleanup. */
void proc_end(struct proc *p);

#define PROC_INIT ((struct proc){ .pid = -1, .out = -1, .errfd = -1 })
#define _cleanup_proc_ _cleanup_(proc_end)

struct buf;
/* Start, collect standard output (bounded by out's maximum), finish. out: NULL throws it away. */
int proc_run(const struct proc_spec *s, struct buf *out, struct err *e);
