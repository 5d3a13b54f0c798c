#pragma once
/* One run of an emulator for one command (cmd_exec.c): a state dir of its own within the user's, a supervisor that
 * outlives whoever started it, and the audit of what was left behind. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/idmap.h"

struct exec_run {
	struct idmap idmap;
	char base[4096];  /* the user's state dir */
	char state[4096]; /* the run's, in it */
	char dir[64];	  /* the run's files: port, summary, log */
	char port_file[96], summary_file[96], log_file[96];
	int base_fd, state_fd;
	int summary_fd, log_fd; /* of those files, which the supervisor removes */
	int leash;		/* while it is open, the emulator runs */
	int report;		/* the supervisor's last word comes here */
	pid_t supervisor;
	uint16_t port;
};
#define EXEC_RUN_INIT                                                                                                  \
	((struct exec_run){ .base_fd = -1, .state_fd = -1, .summary_fd = -1, .log_fd = -1, .leash = -1, .report = -1 })

/* What was left once the emulator had stopped. */
struct exec_report {
	int status;		/* the emulator's, as from waitpid(2) */
	unsigned int processes; /* that had to be killed */
	unsigned int mounts, cgroups;
	bool removed; /* the run's state dir is gone */
};

/* The state dir (NULL: the default one) has templates: makes the run's state dir with them, and its files.
 * ERR_NOT_FOUND says how to get templates. */
int exec_run_prepare(struct exec_run *x, const char *state_dir, struct err *e);

/* Starts `serve` with these further arguments and waits until it answers. ERR_UNAVAILABLE: it did not start; its
 * log is what log_fd has. */
int exec_run_start(struct exec_run *x, char *const *args, size_t n_args, struct err *e);

/* Ends it and waits until everything is gone. */
int exec_run_end(struct exec_run *x, struct exec_report *ret, struct err *e);
void exec_run_close(struct exec_run *x);
