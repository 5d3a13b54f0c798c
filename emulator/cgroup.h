#pragma once
/* Limits and readings of one sandbox's process tree. One interface, three backends (v2, v1/hybrid,
 * none), chosen once at start; a backend's struct of functions lives in cgroup-internal.h.
 *
 * The launcher calls cgroup_prepare with the caller's rights: it makes or is given a subtree and gives it
 * to the emulator's own id. After that the keeper and the daemon work on it by path from inside the
 * emulator's user namespace. A group's name is the sandbox's slot, so a sweep finds what a crash left. */

#include <sys/types.h>

#include "emulator/base/err.h"

struct cgroup_root; /* the emulator's subtree; immutable after prepare, survives fork */

enum cgroup_backend { CGROUP_NONE, CGROUP_V1, CGROUP_V2 };

/* What this host lets us enforce and read; a false is a declared divergence, never silent. */
struct cgroup_features {
	bool cpu, memory, pids; /* limits (and readings) */
	bool freeze, kill;
	bool cpu_reading, memory_reading; /* usage can be read even where no limit can be set */
};

struct cgroup_limits {
	uint32_t cpu_millis;   /* thousandths of a core, >= 10 */
	uint64_t memory_bytes; /* hard limit, swap included */
	uint32_t pids_max;
};

struct cgroup_usage {
	uint64_t cpu_usec;	    /* on-CPU time since the group was made */
	uint64_t memory_bytes;	    /* everything charged */
	uint64_t working_set_bytes; /* memory_bytes less inactive file cache (wire.md, Metrics) */
	uint64_t oom_kills;	    /* processes the kernel killed for memory */
	uint64_t pids;		    /* processes and threads now */
	uint64_t pids_denied;	    /* forks refused by pids_max */
};

/* Makes the subtree for the emulator instance `name` ([a-z0-9-]+, derived from the state dir), owned by
 * uid:gid (host ids). v2: an already delegated group; as a user a transient scope with Delegate=yes from
 * the user's systemd (sd-bus), as root one from the system's systemd or, without systemd, a child of
 * the root group. v1/hybrid: root only. The calling process (and so its later children) is moved into
 * the subtree's "daemon" leaf where v2 needs that. If nothing works the backend is CGROUP_NONE and
 * cgroup_why tells; that is no error. */
int cgroup_prepare(const char *name, uid_t uid, gid_t gid, struct cgroup_root **ret, struct err *e);
void cgroup_root_free(struct cgroup_root *r);

enum cgroup_backend cgroup_root_backend(const struct cgroup_root *r);
const char *cgroup_backend_name(enum cgroup_backend b); /* "v2", "v1", "none" */
const struct cgroup_features *cgroup_root_features(const struct cgroup_root *r);
/* One sentence: why a feature is missing and the command that helps. Empty if nothing is. */
const char *cgroup_why(const struct cgroup_root *r);

/* Makes the group `slot` and sets its limits. -EEXIST if it is there. */
int cgroup_create(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e);
/* Changes the limits of an existing group. */
int cgroup_set_limits(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e);

/* v2: an O_PATH fd for clone3's CLONE_INTO_CGROUP; -ENOTSUP elsewhere (use cgroup_attach). */
int cgroup_open_for_clone(struct cgroup_root *r, const char *slot);
/* Moves a process, before it has children and while it still has the emulator's id. */
int cgroup_attach(struct cgroup_root *r, const char *slot, pid_t pid, struct err *e);

int cgroup_read(struct cgroup_root *r, const char *slot, struct cgroup_usage *ret);
/* oom_kills alone, pids_denied alone, from files held open: for each command's start and end. -ENOTSUP where
 * that isn't counted; *ret is then as it was. */
struct cgroup_counters {
	int oom_fd, denied_fd; /* -1: none */
};
void cgroup_counters_open(struct cgroup_root *r, const char *slot, struct cgroup_counters *ret);
void cgroup_counters_close(struct cgroup_counters *c);
int cgroup_counters_oom_kills(const struct cgroup_counters *c, uint64_t *ret);
int cgroup_counters_pids_denied(const struct cgroup_counters *c, uint64_t *ret);

/* On-CPU time, what is charged, and the part of that which is inactive file cache, from files held open: a reading
 * each second of every sandbox. The cache costs the most. -ENOTSUP where that isn't counted, -ENODEV once the group is
 * gone; *ret is then as it was. (emulator/cgroup_gauge.c) */
struct cgroup_gauge {
	int cpu_fd, memory_fd, stat_fd; /* -1: none */
	bool v2;
};
#define CGROUP_GAUGE_NONE ((struct cgroup_gauge){ -1, -1, -1, false })
void cgroup_gauge_open(struct cgroup_root *r, const char *slot, struct cgroup_gauge *ret);
void cgroup_gauge_close(struct cgroup_gauge *g);
int cgroup_gauge_cpu(const struct cgroup_gauge *g, uint64_t *ret_usec);
int cgroup_gauge_memory(const struct cgroup_gauge *g, uint64_t *ret_bytes);
int cgroup_gauge_cache(const struct cgroup_gauge *g, uint64_t *ret_bytes);

int cgroup_freeze(struct cgroup_root *r, const char *slot, bool freeze, struct err *e);
int cgroup_kill(struct cgroup_root *r, const char *slot); /* SIGKILL to everything inside */

/* Calls fn with the pid (as this process sees it) of each process inside. */
int cgroup_each_pid(struct cgroup_root *r, const char *slot, int (*fn)(void *arg, pid_t pid), void *arg);

/* Removes the group: 0 also if it is gone, -EBUSY while something is inside. */
int cgroup_remove(struct cgroup_root *r, const char *slot);

/* Calls fn with each sandbox group's slot. */
int cgroup_each(struct cgroup_root *r, int (*fn)(void *arg, const char *slot), void *arg);

/* Removes the subtree at the end (launcher's rights are not needed). Best effort, no error. */
void cgroup_destroy_root(struct cgroup_root *r);

/* For a CLI command, with the caller's rights, when no emulator of that name runs: kills and removes what
 * one left that could not clean up behind itself. 0 also when there is nothing. */
int cgroup_sweep(const char *name, struct err *e);
/* How many groups of that name there are, in all hierarchies; 0 where there are no cgroups. */
unsigned int cgroup_count(const char *name);
