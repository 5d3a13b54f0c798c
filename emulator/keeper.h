#pragma once
/* The keeper: parent of every sandbox's init, owner of the mount namespace they are cloned from. It is
 * small, single-threaded and outlives the daemon. This header is the daemon's side and the launcher's.
 *
 * A sandbox's kernel objects carry the name of its *slot* ("s-" and a ULID in lower case), chosen before
 * the sandbox exists: the cgroup, disk/s/<slot>/{u,w}, the keeper's table. A row names its slot.
 *
 * Wire between daemon and keeper: SOCK_SEQPACKET, fixed-size typed messages (emulator/proto.h). */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/cgroup.h"
#include "emulator/idmap.h"
#include "netpolicy/policy.h"

#define KEEPER_SLOT_SIZE 32
#define KEEPER_LABEL_SIZE 96
#define KEEPER_POSITIONS_SIZE ((size_t)4 << 20)
#define KEEPER_NOTE_MAX 1400u

struct keeper; /* the daemon's connection */

struct keeper_config {
	const struct idmap *idmap;
	struct cgroup_root *cgroups;
	int state_fd;	    /* the state dir; the keeper mounts its "disk" folder */
	bool shared_layers; /* the state dir lies in another one, whose layers it has (emulator/keeper_share.h) */
	bool network;	    /* make the gateway (netpolicy/gateway.h) */
	/* The launcher's own (lock, listening sockets, port file): not for a process that outlives it. -1 is skipped. */
	const int *not_inherited;
	size_t n_not_inherited;
};

struct keeper_started {
	pid_t pid;
	int userns_fd;
	int sock;	      /* for keeper_connect */
	int egress;	      /* the egress process's control socket (netpolicy/egress.h), or -1 */
	char no_network[200]; /* why there is no gateway: a sentence; "" when there is one */
	int positions;	      /* a memfd for the daemon's own use, which outlives it: KEEPER_POSITIONS_SIZE */
	bool adopted;	      /* it is of an earlier run, and keeps that run's sandboxes */
};

/* Launcher: starts the keeper in a new user namespace. Changes the current folder to the state dir. A host on
 * which the gateway can't be made still gets a keeper; no_network then says why. */
int keeper_start(const struct keeper_config *c, struct keeper_started *ret, struct err *e);

/* Launcher, instead of keeper_start, under the state dir's lock: takes over the keeper of an earlier run, if
 * one listens in this state dir. Returns 1 when it did (then as keeper_start), 0 when there is none. One that
 * can't be taken over (another version, another id map, another cgroup backend) is ended with everything it
 * keeps, which is logged; then 0 as well. c->cgroups must be prepared. */
int keeper_adopt(const struct keeper_config *c, struct keeper_started *ret, struct err *e);

/* If a keeper still listens in this state dir, whose lock the caller holds, ends it with everything it keeps.
 * *ret_ended (may be NULL): how many inits. 0 also when there is none. */
int keeper_end_stale(int state_fd, unsigned int *ret_ended, struct err *e);

/* Whether one listens there. The caller holds the lock. */
bool keeper_is_there(int state_fd);

/* Daemon. Events arrive on the libuv loop; the callbacks run from there, never from inside a call. */
struct uv_loop_s;
struct keeper_events {
	/* An init was reaped; its whole process tree is gone. status: as from waitpid(2). */
	void (*died)(void *arg, const char *slot, int status);
	/* The keeper itself is gone: every sandbox died with it. */
	void (*lost)(void *arg);
	/* The egress process had ended: sock (the callee's) is another one's, which knows nothing yet; or -1: there is
	 * no network any more, why (borrowed) says the reason. May be NULL. */
	void (*egress)(void *arg, int sock, const char *why);
	void *arg;
};
int keeper_connect(struct uv_loop_s *loop, int sock, const struct keeper_events *ev, struct keeper **ret,
		   struct err *e);

/* Makes an init for slot: namespaces, id map, attached to the cgroup of that name (which must exist;
 * NULL backend: none), network off. done() is called once: on success with the control socket and, where
 * there is a gateway, the netlink socket that hears of refused packets (else -1), both now the callee's, and
 * the init's pid on the host. The init waits there for INIT_CONFIGURE (emulator/init.h). */
typedef void (*keeper_spawned_fn)(void *arg, const struct err *e, int ctl_sock, int refused_sock, pid_t pid);
int keeper_spawn(struct keeper *k, const char *slot, keeper_spawned_fn done, void *arg, struct err *e);

/* Connects a sandbox that was spawned and not configured yet to the gateway under this number, or changes the
 * mode of a connected one. done() is called once. */
typedef void (*keeper_done_fn)(void *arg, const struct err *e);
int keeper_attach(struct keeper *k, const char *slot, uint32_t index, enum net_mode mode, keeper_done_fn done,
		  void *arg, struct err *e);
int keeper_set_mode(struct keeper *k, const char *slot, uint32_t index, enum net_mode mode, keeper_done_fn done,
		    void *arg, struct err *e);

/* What a later daemon will need of this sandbox and can't ask its init for, which may be frozen: its root
 * and its reports (init_reports; both stay the caller's) and a short text. Sent before its row says that it runs. */
int keeper_hold(struct keeper *k, const char *slot, int root_fd, int reports_fd, const char *label, struct err *e);

/* Start-up, before the loop runs: everything the keeper has. The fds (-1: none) are fn's. Blocks, at most 10 s. */
struct keeper_kept {
	char slot[KEEPER_SLOT_SIZE];
	pid_t pid;
	int ctl, refused, root, reports; /* the last two: both or none */
	int index;			 /* in the gateway, or -1 */
	enum net_mode mode;
	char label[KEEPER_LABEL_SIZE];
};

/* A command, as keeper_exec gave it. */
struct keeper_exec {
	char slot[KEEPER_SLOT_SIZE];
	uint64_t id;
	int fds[3]; /* the daemon's ends of stdin, stdout, stderr; -1: none */
	bool lingers;
	const void *note;
	size_t note_len;
};

struct keeper_list {
	int (*kept)(void *arg, const struct keeper_kept *s);
	int (*exec)(void *arg, const struct keeper_exec *x); /* after its sandbox; fds and a copy of note are fn's */
	void *arg;
};
int keeper_list(struct keeper *k, const struct keeper_list *l, struct err *e);

/* The keeper holds copies of a command's pipes (or terminal), so that a daemon's death is none of the command's
 * business, and a note (at most KEEPER_NOTE_MAX bytes) for the next daemon. The fds stay the caller's. */
int keeper_exec(struct keeper *k, const struct keeper_exec *x, struct err *e);
/* It has ended, others still write to its pipes; its stdin is closed, or about to be; all of it is over. */
void keeper_exec_lingers(struct keeper *k, const char *slot, uint64_t id);
void keeper_exec_no_stdin(struct keeper *k, const char *slot, uint64_t id);
void keeper_exec_over(struct keeper *k, const char *slot, uint64_t id);

/* SIGKILL to the init of slot, and so to its tree; died() follows. 0 also if it is gone already. */
int keeper_kill(struct keeper *k, const char *slot);

/* Asks the keeper to end everything and itself, and waits for it (bounded: 5 s, then SIGKILL). */
void keeper_stop(struct keeper *k);
void keeper_free(struct keeper *k);
