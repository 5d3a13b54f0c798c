#pragma once
/* The emulator's user namespace ("E"): which host ids it has, how it is made, how a process enters it.
 *
 * In E: id 0 is the emulator itself (as a user: the caller's own id; as root: an unprivileged
 * subordinate id), ids 1..65536 are the sandboxes' (a sandbox's id N is E's id N + 1). With one id only
 * (IDMAP_SINGLE: no subordinate range) a sandbox's root is E's 0 and nothing else exists in it.
 * Called by the launcher and by one-shot CLI commands, before anything else was started. */

#include <sys/types.h>

#include "emulator/base/err.h"

#define IDMAP_SANDBOX_IDS 65536u

enum idmap_kind {
	IDMAP_ROOT,   /* started by root: a subordinate range written directly */
	IDMAP_SUBUID, /* started by a user: newuidmap with /etc/subuid */
	IDMAP_SINGLE, /* the caller's own id alone; declared as divergence "single-id" */
};

struct idmap {
	enum idmap_kind kind;
	uid_t caller_uid;
	gid_t caller_gid;
	uid_t own_uid; /* host id of E's 0: who owns the state dir */
	gid_t own_gid;
	uid_t first_uid; /* host id of E's 1; unused when single */
	gid_t first_gid;
	char why_single[128]; /* for a person, when kind is IDMAP_SINGLE */
};

/* Decides the map for the calling user, reading /etc/subuid and /etc/subgid. Never fails: the last
 * resort is IDMAP_SINGLE. */
void idmap_choose(struct idmap *ret);

/* Forks a process that becomes id 0 of a new user namespace E with this map (and a mount namespace of
 * its own) and runs fn(arg) there; its return value is the exit status. The parent gets the pid (its
 * child) and, if wanted, a pidfd-like handle: an fd of the user namespace for idmap_enter.
 * The map is complete before fn runs. ERR_UNAVAILABLE with the command that helps when the host
 * refuses user namespaces. */
int idmap_spawn(const struct idmap *m, int (*fn)(void *arg), void *arg, pid_t *ret_pid, int *ret_userns_fd,
		struct err *e);

/* The calling process joins E as its id 0: all capabilities there, none on the host. One-way. */
int idmap_enter(const struct idmap *m, int userns_fd, struct err *e);

/* The sandbox map, from inside E, for /proc/PID/{uid,gid}_map. */
const char *idmap_sandbox_map(const struct idmap *m);

/* E's id for a sandbox's id (1 + id, or 0 when single): for chown from the daemon. */
uid_t idmap_sandbox_uid(const struct idmap *m, uid_t id);
