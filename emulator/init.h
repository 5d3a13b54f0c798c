#pragma once
/* The daemon's side of a sandbox's init (PID 1): configure it, start commands, hear of exits.
 * pid1.c is the other side, in the sandbox; proto.h the messages between them. Everything that
 * arrives is checked as if an attacker had sent it. */

#include <sys/types.h>

#include "emulator/base/err.h"

#define INIT_MAX_WAITING 1024

struct uv_loop_s;
struct init; /* one connection; owned by the sandbox */

/* What a sandbox is made of. Strings are borrowed for the call. */
struct init_config {
	const char *slot;
	const char *const *layers; /* folder names under disk/l, the topmost first */
	size_t n_layers;
	uint32_t cpus; /* CPUs its processes may see: ceil(cpu), at least 1 */
	const char *hostname;
	uint64_t memory_bytes; /* for what it is shown where no cgroup says so */
	uint32_t pids_max;     /* rlimit stand-in where there is no cgroup */
	bool no_cgroup_view;   /* backend "none": nothing to mount at /sys/fs/cgroup */
};

struct init_exec {
	uint64_t id;		 /* chosen by the caller, unique in the sandbox */
	const char *const *argv; /* NULL-terminated; argv[0] is looked up in env's PATH */
	const char *const *env;	 /* "K=V", NULL-terminated: the whole environment */
	const char *cwd;	 /* absolute, inside the sandbox */
	int stdio[3];		 /* the command's 0, 1, 2; stay the caller's */
	bool pty;		 /* stdio[0] is a terminal of the sandbox's: becomes the controlling one */
	bool tell_start;	 /* started() is wanted */
};

enum init_exit_kind { INIT_EXIT_CODE, INIT_EXIT_SIGNAL, INIT_EXIT_NOT_STARTED };

struct init_exit {
	enum init_exit_kind kind;
	int value; /* exit code, signal number, or the errno that kept the command from starting */
	uint64_t duration_us;
	int background; /* processes it left behind; -1: unknown */
};

struct init_events {
	/* Once: the root is in place and commands may start (root_fd: O_PATH of the sandbox's /, the callee's),
	 * or e says which isolation step failed. */
	void (*ready)(void *arg, const struct err *e, int root_fd);
	/* Before exited(), for those that asked, unless it could not be started. pid: as the sandbox sees it. Both return
	 * whether it was news: one who tells a thousand times what is none is lost. */
	bool (*started)(void *arg, uint64_t exec_id, pid_t pid);
	bool (*exited)(void *arg, uint64_t exec_id, const struct init_exit *x);
	/* The socket closed or the other side broke the protocol: the sandbox must be ended. */
	void (*lost)(void *arg, const char *why);
	void *arg;
};

/* Takes ctl_sock. Sends the configuration; ready() follows. */
int init_connect(struct uv_loop_s *loop, int ctl_sock, const struct init_config *c, const struct init_events *ev,
		 struct init **ret, struct err *e);

/* Takes ctl_sock and reports (init_reports), of an init that an earlier daemon configured: no ready() follows. It may be
 * frozen: nothing waits for it. */
int init_adopt(struct uv_loop_s *loop, int ctl_sock, int reports, const struct init_events *ev, struct init **ret,
	       struct err *e);

/* The pipe from which it is heard, for a daemon that takes over; stays init's. -1 before ready(). */
int init_reports(const struct init *i);

/* The fds of x stay the caller's. When init's socket is full the message waits here (up to INIT_MAX_WAITING;
 * then ERR_BUSY) and goes before any later one. */
int init_start(struct init *i, const struct init_exec *x, struct err *e);

/* Sends sig to the command (tree: and to every process that it or a descendant started, even one that made
 * a session of its own; then also after the command itself has ended). */
int init_signal(struct init *i, uint64_t exec_id, int sig, bool tree);

/* Asks for what became of a command that an earlier daemon started: started() or exited() follows, maybe after
 * another one that was under way. For one it never heard of: INIT_EXIT_NOT_STARTED, ESRCH. */
int init_recall(struct init *i, uint64_t exec_id);

void init_free(struct init *i); /* closes; does not end the sandbox */
