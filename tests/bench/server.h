#pragma once
/* The server under test: started as a user would start it, looked at through /proc, stopped with SIGTERM. */

#include <sys/types.h>

#include "emulator/base/err.h"

struct server {
	pid_t pid; /* the process started; 0: none */
	uint16_t port;
	const char *port_file; /* its processes have it among their arguments */
};

struct server_config {
	const char *program, *state_dir;
	const char *port_file, *log_file; /* in a folder of ours */
	const char *map;		  /* --map */
	const char *warm;		  /* serve --warm, or NULL for its default */
	const char *snapshot_dir;	  /* serve --snapshot-dir, or NULL */
};

/* Starts `serve --auth any` on a free port. *ret_ready_us: from the start to the first 200 of
 * /_emulator/health. */
int server_start(const struct server_config *c, struct server *ret, double *ret_ready_us, struct err *e);

/* SIGTERM, and waits for the end. Fails when it does not end well within 30 s. */
int server_stop(struct server *s, double *ret_us, struct err *e);

struct server_memory {
	size_t inits;
	double init_pss_kib, init_pss_max_kib; /* mean and maximum; 0 when not readable as this user */
	double daemon_rss_kib, keeper_rss_kib, others_rss_kib;
};

/* Which process is which, from the outside: an init is process 1 of a PID namespace of its own; the
 * keeper is the inits' parent; the daemon is the process that was started; others may have left its tree. */
int server_memory(const struct server *s, struct server_memory *ret, struct err *e);

/* Starts argv (stdin, stdout and stderr to /dev/null, or stdout and stderr to log_fd) without waiting. */
int server_spawn(char *const argv[], int log_fd, pid_t *ret, struct err *e);
