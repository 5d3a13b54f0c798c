#pragma once
/* What the sandbox_*.c files and exec.c share. Nobody else includes this.
 *
 * Theory of operation
 *
 * Two kinds of object, with different lives:
 *
 * - A *slot* (sandbox_slot.c) is what the kernel knows: a folder disk/s/<slot>, a cgroup, an init. It is
 *   made with its init parked (waiting for a configuration) and knows how to take itself apart: kill,
 *   wait for the keeper's died(), remove the cgroup, move the folder to the trash. It frees itself.
 * - A *sandbox* (sandbox_create.c, sandbox_end.c) is what a client knows: a row and its state machine.
 *   It takes a slot with a parked init over and turns it into this sandbox (limits, configuration);
 *   it lets go of the slot the moment no process is left in it, and answers its callers then.
 *
 *     creating --ready--> running --terminate, deadline, init lost--> terminating --dead--> terminated
 *         |                  `---------------- init died by itself -----------------------> terminated
 *         `--any step fails--> terminating (in memory: undoing) ---------------------dead--> failed
 *
 *     running --pause--> pausing --frozen, snapshot on disk--> paused --resume--> running
 *     paused, its processes gone --resume--> resuming --new slot, disk unpacked--> running
 *
 *   (sandbox_pause.c, sandbox_cold.c.) A paused one whose processes are gone has no slot.
 *
 * A sandbox is in memory from its row's first write until its last one; after that only the row is left.
 * Every wait has a timer behind it: the create (SANDBOX_CREATE_MS), the kill (SLOT_KILL_MS), the cgroup's
 * removal, the shutdown. Callbacks to callers run from the loop, never from inside a call. */

#include "emulator/base/util.h" /* before uv.h, whose sys/param.h has a MIN of its own */

#include <string.h>
#include <uv.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>
#include <utlist.h>

#include "emulator/exec.h"
#include "emulator/init.h"
#include "emulator/keeper.h"
#include "emulator/sandbox.h"
#include "emulator/vclock.h"
#include "netpolicy/ledger.h"
#include "rootfs/snapshot.h"
#include "rootfs/template.h"

#define SANDBOX_CREATE_MS 30000	  /* a create that isn't ready by then has failed */
#define SANDBOX_SHUTDOWN_MS 40000 /* a shutdown that isn't through by then stops waiting */
#define SANDBOX_MAX_EXECS 256	  /* running commands in one sandbox */
#define SANDBOX_MAX_LINGERS 256	  /* pipes emptied for background children of one sandbox */
#define SANDBOX_SCRATCH_SIZE (64u << 10)

#define SANDBOX_DEAD_ROOTS 64
#define SANDBOX_MAX_JOBS 6 /* workers for snapshots at the same time; more wait in line */

struct sandbox;
struct sandbox_meter;
struct exec_linger;
struct parked;

/* Of a running command, in memory that outlives the daemon (keeper.h): what changes and a next daemon must know. */
struct exec_pos {
	uint64_t bytes[2]; /* of each stream, as far as a reader may have seen */
	int64_t start_us;  /* clock_mono_us, with what it stood still */
	int64_t held_us;   /* since when it stands still; 0: it does not */
	uint64_t by;	   /* enum exec_ender: it is being ended */
	uint64_t unused[3];
};

/* ---- slots ---- */

enum slot_state {
	SLOT_SPAWNING, /* the keeper was asked */
	SLOT_PARKED,   /* an init waits at ctl_sock */
	SLOT_USED,     /* the init belongs to a sandbox */
	SLOT_KILLING,  /* waiting for died() */
	SLOT_REMOVING, /* no process; cgroup and folder on their way out */
};

/* Exactly one of: ready(e), after which the slot is no longer the caller's; ready(NULL) and later dead(); or,
 * when slot_kill came before ready, dead() alone. After dead() the slot is no longer the caller's. */
struct slot_events {
	void (*ready)(void *arg, const struct err *e);
	void (*dead)(void *arg, int status);
	void *arg;
};

struct slot {
	struct sandboxes *m;
	char name[KEEPER_SLOT_SIZE];
	UT_hash_handle hh;
	enum slot_state state;
	struct slot_events ev;
	struct cgroup_limits limits; /* as set on the cgroup */
	int ctl_sock;
	int refused_sock;		 /* or -1 */
	struct cgroup_counters counters; /* opened when first asked for */
	bool counting;
	pid_t pid;
	struct slot_kept *kept; /* what an earlier daemon left of it; NULL once it is taken over */
	uint32_t net_number;	/* connected while parked: its number in the gateway plus one; 0: not so */
	bool spawn_pending;	/* keeper_spawn's answer is due: this memory must stay */
	bool died_early;	/* died() overtook that answer */
	bool closed;		/* the timer's handle is gone */
	uv_timer_t timer;
	unsigned int tries;
};

/* Beyond what every slot has (sandbox_adopt.c). */
struct slot_kept {
	int root_fd, reports_fd; /* or -1 */
	int net_index;		 /* or -1 */
	enum net_mode net_mode;
	char label[KEEPER_LABEL_SIZE]; /* its template's digest */
	struct kept_exec *execs;
};

struct kept_exec { /* a command that an earlier daemon started */
	struct kept_exec *next;
	uint64_t id;
	int fds[3];
	bool lingers;
	size_t note_len;
	char note[];
};
void slot_kept_free(struct slot_kept *k); /* NULL is fine */

void slot_new_name(char ret[static KEEPER_SLOT_SIZE]);

/* Folder, cgroup, parked init. ev.ready follows, unless it fails here and nothing is left. */
int slot_make(struct sandboxes *m, const char *name, const struct cgroup_limits *l, const struct slot_events *ev,
	      struct slot **ret, struct err *e);

/* Gives a parked slot its final limits and hands its init's socket over. */
int slot_use(struct slot *s, const struct cgroup_limits *l, const struct slot_events *ev, int *ret_sock, struct err *e);

/* Its cgroup's. */
const struct cgroup_counters *slot_counters(struct slot *s);

/* One that the keeper has kept since an earlier run: used, with kept filled. Takes k's fds in any case. */
int slot_adopt(struct sandboxes *m, const struct keeper_kept *k, struct err *e);

/* Ends it, from any state but removing. dead() follows from the loop. */
void slot_kill(struct slot *s);

/* As slot_kill, with nobody left who wants to hear of it. */
void slot_discard(struct slot *s);

/* The keeper's events. */
void slot_on_died(struct sandboxes *m, const char *name, int status);
void slot_on_keeper_lost(struct sandboxes *m);

/* ---- the warm pool (sandbox_pool.c) ---- */

/* From now on sandboxes_config.warm slots are kept parked. */
void pool_start(struct sandboxes *m);

/* A parked slot, now the caller's with these events (slot_use comes next), or NULL. networked: it will have a
 * network, and may be connected already (sandbox_net_connect sees to it). */
struct slot *pool_take(struct sandboxes *m, const struct slot_events *ev, bool networked);

/* ---- templates, kept in memory while their file stays the same ---- */

struct template_ref {
	UT_hash_handle hh;
	char name[TEMPLATE_NAME_MAX + 1];
	struct timespec mtime;
	uint64_t ino, size;
	unsigned int refs; /* the cache's own included */
	struct template *t;
};

int template_ref_get(struct sandboxes *m, const char *name, struct template_ref **ret, struct err *e);
void template_ref_put(struct template_ref *r); /* NULL is fine */
void template_refs_free(struct sandboxes *m);

/* ---- sandboxes ---- */

struct waiter {
	struct waiter *next;
	sandbox_done_fn done;
	void *arg;
};

/* A snapshot being written or unpacked in a worker. It outlives its sandbox, if that ends meanwhile. */
struct job_result {
	struct err e;
	volatile bool cancelled;
};

struct job {
	struct job *next; /* while it waits in line */
	struct sandboxes *m;
	struct sandbox *sb;				  /* NULL: it has ended */
	int (*run)(struct job *j);			  /* in the worker; fills shared->e when it fails */
	void (*done)(struct job *j, const struct err *e); /* in the loop; e: NULL when it worked */
	struct job_result *shared;
	char id[SANDBOX_ID_SIZE];
	char slot[KEEPER_SLOT_SIZE];
	char *template_name, *template_digest;
	int64_t paused_ms;
	struct snapshot_info snapshot; /* to be unpacked */
	struct json_object *row;       /* for the manifest */
};

struct sandbox {
	struct sandboxes *m;
	UT_hash_handle hh;
	struct sandbox_row row;
	struct slot *slot; /* NULL once no process is left */
	struct init *init; /* NULL until configured */
	bool init_lost;	   /* nothing more may be sent to it */
	int root_fd;
	struct cgroup_limits limits;
	struct template_ref *template;
	char **env; /* defaults and the sandbox's own: "K=V", NULL-terminated */

	uv_timer_t timer;    /* creating: its limit; running: the deadline */
	int64_t deadline_us; /* clock_now_us */

	struct waiter *creator;
	struct waiter *changer; /* who asked for the pause or resume under way */
	struct waiter *enders;
	struct job *job;
	int64_t held_us;	/* clock_mono_us since when its clocks stand still; 0: they run */
	int64_t held_offset_ms; /* the clock's offset then */
	int64_t end_ms, end_us; /* when its end began: clock_now_ms, clock_mono_us */
	char *template_digest;	/* of what its disk is made on; NULL: not known any more */
	bool snapshot;		/* there may be one in the folder */
	uint64_t looked;	/* the last look that saw it there */
	struct err failure;	/* kind ERR_NONE: none */
	const char *end_reason; /* static; why it is terminating */

	uint64_t oom_seen;		/* the cgroup's count when a command last ended */
	uint64_t oom_last, denied_last; /* the cgroup's counts when last looked at */
	struct sandbox_meter *meter;	/* NULL: it does not run, or the next tick begins it */
	uint64_t next_exec;
	struct exec *execs, *ended; /* running; remembered, the oldest first */
	unsigned int n_execs, n_ended;
	struct exec_linger *lingers;
	unsigned int n_lingers;

	int refused_sock;	 /* hears of refused packets (sandbox_net.c), or -1 */
	uv_poll_t *refused_poll; /* NULL: nobody listens */
	struct ledger *ledger;	 /* or NULL: nothing was tried */
	bool net_pending;	 /* the keeper's answer is due: this memory must stay */
	bool net_abandoned;	 /* and nobody waits for it any more */
	int net_index;		 /* its number in the gateway, or -1 */
	void (*net_done)(struct sandbox *sb, const struct err *e);
	struct waiter *net_changer; /* who waits for another mode */
	enum net_mode net_wanted;   /* and which */
	bool net_strays;	    /* a command left processes behind, so that not all are a running one's */
	int64_t owner_at, owner_us; /* what looking for owners may still cost (sandbox_owner.c) */
};

struct deferred {
	struct deferred *next;
	sandbox_done_fn done;
	void *arg;
	struct sandbox_row row;
};

struct sandboxes {
	struct sandboxes_config c;
	struct keeper *keeper;
	bool keeper_lost;

	struct sandbox *by_id;
	struct slot *slots;
	uv_poll_t egress_poll;
	uv_timer_t sync_timer; /* gives up waiting for EGRESS_SYNCED */
	uint64_t sync_asked, sync_heard, sync_due;
	bool egress_lost, egress_open; /* open: egress_poll is a handle */
	int next_egress;	       /* waits for that handle's end, or -1 */
	char no_network[200];
	struct sandbox **by_net_index; /* GATEWAY_MAX of them, made with the first */
	uint32_t net_hint;	       /* where to look for a free number */

	struct parked *pool;
	uint32_t n_pool;      /* parked or on their way there */
	uint32_t pool_recent; /* a bit for each of the last creates: whether it wanted a network */
	uv_timer_t pool_timer;
	struct template_ref *templates;
	struct exec *ended; /* of all sandboxes: remembered, the oldest first */
	uint64_t ended_bytes;
	uint32_t n_execs;
	uint64_t created, terminated, failed;

	struct exec_pos *positions; /* EXEC_POSITIONS of them, or NULL */
	unsigned char *pos_used;
	uint32_t pos_hint;
	struct exec_pos no_pos; /* for those that got none */

	int null_fd;
	char *scratch; /* SANDBOX_SCRATCH_SIZE bytes, for whoever reads a pipe right now */

	uv_timer_t soon; /* runs `deferred` from the loop */
	struct deferred *deferred;
	uv_timer_t linger_timer, ended_timer;
	uv_timer_t trash_timer;
	struct unsaved *unsaved;
	bool trash_pending, trash_running, stop_trash;
	int dead_roots[SANDBOX_DEAD_ROOTS]; /* of ended sandboxes, for the trash's next worker to close */
	unsigned int n_dead_roots;

	bool stopping, keeping;
	void (*stopped)(void *arg);
	void *stopped_arg;
	uv_timer_t stop_timer;

	struct meter *meter;
	uv_timer_t meter_timer; /* each second while anything runs */
	unsigned int meter_ticks;

	uv_timer_t jobs_timer;
	struct job *jobs_waiting;
	unsigned int n_jobs; /* running workers of jobs */

	uv_timer_t look_timer;
	struct timespec looked_at; /* the snapshots folder's mtime */
	uint64_t looks;

	unsigned int handles; /* open uv handles of this struct */
	bool freeing;
};

/* Into the journal. detail: or NULL. */
static inline void sandbox_tell(const struct sandbox *sb, enum journal_type type, const char *detail)
{
	journal_add(sb->m->c.journal,
		    &(struct journal_event){
			    .type = type, .account = sb->row.account, .sandbox = sb->row.id, .detail = detail });
}

/* The live sandbox of that account, or NULL. */
struct sandbox *sandbox_find(struct sandboxes *m, const struct account *a, const char *id);

/* The running one, or ERR_NOT_FOUND, ERR_NOT_READY as the API reports it. */
int sandbox_find_running(struct sandboxes *m, const struct account *a, const char *id, struct sandbox **ret,
			 struct err *e);

/* A row as the store has it, made true: one that claims to live but isn't in memory has failed. */
int sandbox_stored_row(struct sandboxes *m, const struct account *a, const char *id, struct sandbox_row *ret,
		       struct err *e);

/* Calls done(arg, NULL, row) from the loop. Takes the row's strings on success. */
int sandbox_defer(struct sandboxes *m, sandbox_done_fn done, void *arg, struct sandbox_row *row);

/* Begins the end. reason: static, one of the wire's. failure (may be NULL) makes a create fail with it. */
void sandbox_end(struct sandbox *sb, const char *reason, const struct err *failure);
/* No process is left: row, callers, memory. status: the init's, as from waitpid(2). */
void sandbox_ended(struct sandbox *sb, int status);
/* Frees one that never got as far as having a slot. */
void sandbox_discard(struct sandbox *sb);

/* ---- pause and resume ---- */

/* Its processes exist, frozen or not. */
static inline bool sandbox_has_processes(const struct sandbox *sb)
{
	return sb->row.status == SANDBOX_RUNNING || sb->row.status == SANDBOX_PAUSING ||
	       sb->row.status == SANDBOX_PAUSED;
}

/* sandbox_jobs.c. The job is freed after done(). ERR_CAPACITY. */
struct job *job_new(struct sandbox *sb, struct err *e);
void job_drop(struct job *j); /* one that was not started */
void job_start(struct job *j);
/* Its sandbox has ended: done() is called all the same, with sb NULL. */
void job_leave(struct job *j);

/* Answers whoever waits for the pause or resume. e: NULL when it worked. */
void sandbox_changed(struct sandbox *sb, const struct err *e);
/* "sandbox ... is terminated, not ...". */
int sandbox_not_ready(const char *id, enum sandbox_status status, const char *wanted, struct err *e);
/* May the account have one more at a time? */
int sandbox_check_concurrent(struct sandboxes *m, const struct account *a, struct err *e);
/* The lifetime's clock and those of the commands. */
void sandbox_hold_clocks(struct sandbox *sb);
void sandbox_arm_deadline(struct sandbox *sb);
void sandbox_time_over(struct sandbox *sb);
/* From now on nobody else can resume it. ERR_NOT_READY when somebody has. */
int sandbox_claim(struct sandbox *sb, struct err *e);
/* Moves its snapshot, if any, to the trash. */
void sandbox_drop_snapshot(struct sandbox *sb);

/* sandbox_share.c */
#define SANDBOX_MOVED "moved" /* a termination_reason */
bool sandbox_is_moved(const struct sandbox_row *row);
/* In memory from now on; its row is stored already. */
int sandbox_add_paused(struct sandboxes *m, const struct sandbox_row *row, struct err *e);
void sandboxes_look_start(struct sandboxes *m);
/* At a stop: a paused one's processes end, its snapshot stays. */
void sandbox_let_go(struct sandbox *sb);

/* sandbox_cold.c: the processes of a paused sandbox are gone. */
void sandbox_gone_cold(struct sandbox *sb);
int sandbox_resume_cold(struct sandbox *sb, const struct account *a, struct err *e);
void sandbox_cold_ready(struct sandbox *sb, const struct err *e, int root_fd);
void sandbox_cold_failed(struct sandbox *sb, const struct err *e);
/* Whether there is a whole snapshot of the very pause that the row tells of; else e says why not. */
bool sandbox_has_snapshot(struct sandboxes *m, const struct sandbox_row *row, struct err *e);
/* Start-up: takes over a paused row (copied) whose snapshot is whole. *ret: whether it did. One whose snapshot is
 * somebody else's by now gets the status terminated. */
int sandbox_load_paused(struct sandboxes *m, struct sandbox_row *row, bool *ret, struct err *e);

/* sandbox_adopt.c: start-up, after the slots were listed. Takes over the row (copied) if its slot is there.
 * *ret: whether the row needs nothing more. */
int sandbox_adopt(struct sandboxes *m, const struct sandbox_row *row, bool *ret, struct err *e);
int sandboxes_list_kept(struct sandboxes *m, struct err *e);
void sandboxes_drop_unused(struct sandboxes *m); /* of those listed, what no row names */

/* sandbox_create.c, for sandbox_cold.c and sandbox_adopt.c */
void sandbox_init_events(struct sandbox *sb, struct init_events *ret);
struct sandbox *sandbox_alloc(struct sandboxes *m);
void sandbox_set_limits(struct sandbox *sb);
/* Puts the slot that was made into use: its limits, its init, its network. */
int sandbox_use_slot(struct sandbox *sb, struct err *e);
void sandbox_on_slot_dead(void *arg, int status);

/* sandbox_procs.c: for a manifest; in a worker. Either may be NULL out of memory. */
void sandbox_collect_processes(struct cgroup_root *r, const char *slot, struct json_object **ret_processes,
			       struct json_object **ret_ports);

/* The cgroup's count of memory kills; the last known one if it can't be read. */
uint64_t sandbox_oom_kills(struct sandbox *sb);
uint64_t sandbox_pids_denied(struct sandbox *sb);

/* Ended sandboxes whose rows could not be written, as the disk was full: kept until there is room, which the trash
 * makes. The row of one of them, or NULL. */
const struct sandbox_row *sandboxes_unsaved(const struct sandboxes *m, const char *id);
void sandboxes_save_unsaved(struct sandboxes *m);
void sandboxes_forget_unsaved(struct sandboxes *m);

/* Something was moved to the trash. */
void sandbox_trash_kick(struct sandboxes *m);
/* Takes the root of a sandbox whose processes are gone. Whoever closes it last unmounts its overlay, which takes a second
 * for each hundred thousand files that it has in the cache: not the daemon, where that can be helped. */
void sandbox_leave_root(struct sandboxes *m, int *fd);
void sandboxes_close_roots(struct sandboxes *m);
/* Something ended; a shutdown may be through. */
void sandboxes_check_stopped(struct sandboxes *m);
/* Frees the manager once its last handle and its worker are gone. */
void sandboxes_maybe_free(struct sandboxes *m);

/* A template's build (tmpl.h): real work in real time, and nobody's usage. */
static inline bool sandbox_is_build(const struct sandbox *sb)
{
	return strncmp(sb->row.account, SANDBOX_BUILD_ACCOUNT, strlen(SANDBOX_BUILD_ACCOUNT)) == 0;
}

/* ---- the meter (sandbox_meter.c) ---- */

/* Its row says running and it has a slot; a second call changes nothing. One that nobody tells of is found by the next
 * tick, if sandboxes_meter_start was called. */
void sandbox_meter_begin(struct sandbox *sb);
/* It stops running: a last reading, written at once. Nothing happens if it is not metered. */
void sandbox_meter_end(struct sandbox *sb);
void sandboxes_meter_start(struct sandboxes *m);
/* This process stops and what runs goes on: all of it is charged and written up to now. */
void sandboxes_meter_leave(struct sandboxes *m);
/* Has the account anything left this month? ERR_PLAN "usage_exhausted". */
int sandbox_check_usage(struct sandboxes *m, const struct account *a, struct err *e);

/* ---- network (sandbox_net.c) ---- */

/* Takes the slot's refused_sock and listens. Does nothing where there is none. */
void sandbox_net_start(struct sandbox *sb);
void sandbox_net_stop(struct sandbox *sb);

/* For a network that is not off: a number in the gateway, the veth pair, the rules; done() once it is so. */
int sandbox_net_connect(struct sandbox *sb, void (*done)(struct sandbox *sb, const struct err *e), struct err *e);

/* Connects a parked slot; done() is called unless it fails here. Its number goes with it. */
int slot_connect(struct slot *s, keeper_done_fn done, void *arg);
/* Of one that an earlier daemon connected: its number is not given to anybody until it is gone. */
void slot_reserve(struct slot *s, int index);
void slot_disconnect(struct slot *s); /* gives the number back, if it still has it */

/* May an account of this plan have it, on this host (sandbox_create.c)? */
int sandbox_check_network(struct sandboxes *m, const struct plan *p, const char *network, struct err *e);

/* Start-up: it has this number in the gateway already. -EEXIST, -ENOMEM. */
int sandbox_net_adopt(struct sandbox *sb, int index);

/* The manager's part: the egress process's socket. */
int sandboxes_net_start(struct sandboxes *m, struct err *e);
/* Another egress process in place of the one that has ended, or none (sock -1). */
void sandboxes_net_replace(struct sandboxes *m, int sock, const char *why);
/* Tells the egress process all that there is, in place of what it has. */
int sandboxes_net_restate(struct sandboxes *m, struct err *e);
void sandboxes_net_stop(struct sandboxes *m);

/* A message to the egress process; -EPIPE when there is none. */
struct egress_msg;
int sandboxes_tell_egress(struct sandboxes *m, const struct egress_msg *msg);
/* sandbox_fault.c: the egress process made a question fail. */
void sandbox_fault_hit(const struct sandbox *sb, const char *id, const char *host);
/* A command of a connected sandbox has ended: asks the egress process for what it still has to tell, and calls
 * exec_on_net_synced with this number or a later one when it has, or 50 ms later. 0: there is nothing to wait for. */
uint64_t sandbox_net_sync(struct sandbox *sb);

/* sandbox_owner.c: which command has the socket with this local port, by its id, or "": it can't be told. */
void sandbox_net_owner(struct sandbox *sb, uint8_t proto, uint16_t port, char ret[static EXEC_ID_SIZE]);

/* The number of the newest entry by now (0: none), for sandbox_net_each, which calls ledger_each. */
uint64_t sandbox_net_seq(struct sandbox *sb);
int sandbox_net_each(struct sandbox *sb, uint64_t since_seq, int (*fn)(void *arg, const struct ledger_entry *en),
		     void *arg);

/* ---- execs ---- */

/* Both: whether such a command runs, and this is news. */
bool exec_on_started(struct sandbox *sb, uint64_t id, pid_t pid);
bool exec_on_exited(struct sandbox *sb, uint64_t id, const struct init_exit *ie);
void exec_on_net_synced(struct sandbox *sb, uint64_t token);
/* The id of the command with this number, running or remembered; NULL: forgotten. */
const char *exec_name_of(const struct sandbox *sb, uint64_t id);
/* The sandbox's processes are gone. */
void exec_end_all(struct sandbox *sb);
/* exec_keep.c: start-up; takes over the commands of k, asks init for what became of them. */
void exec_adopt_all(struct sandbox *sb, struct slot_kept *k);
void exec_positions_open(struct sandboxes *m, int fd); /* takes fd; without it positions are lost */
void exec_positions_close(struct sandboxes *m);
/* Their time-outs stand still, and go on with what was left; held_us: how long they stood. */
void exec_hold_all(struct sandbox *sb);
void exec_release_all(struct sandbox *sb, int64_t held_us);

/* exec_env.c: base (may be NULL: the defaults) with the members of a JSON object text (may be NULL) over
 * it, as an array of its own. terminal: the default TERM is one that has escapes. ERR_INVALID for a name or
 * value that no environment can hold. */
int exec_env_build(const char *const *base, const char *json, bool terminal, char ***ret, struct err *e);
void exec_env_free(char **env);

/* exec_output.c: at most EXEC_OUTPUT_MAX bytes of a stream, its beginning and its end. Costs what it holds. */
struct output {
	struct buf head; /* what the result is made in */
	char *tail;	 /* a ring once tail_len == OUTPUT_HALF */
	size_t tail_len, tail_cap, tail_at;
	uint64_t lost;
};
#define OUTPUT_HALF ((size_t)EXEC_OUTPUT_MAX / 2)
void output_init(struct output *o);
void output_add(struct output *o, const char *p, size_t n);
/* Joins head, a line about what is missing, and tail into o->head. Returns whether something is missing. */
bool output_finish(struct output *o);
void output_free(struct output *o);

/* exec_linger.c: empties a pipe that outlived its command. Takes the fd. */
void linger_add(struct sandbox *sb, int fd, uint64_t exec_id);
bool linger_has(const struct sandbox *sb, uint64_t exec_id);
void linger_close_all(struct sandbox *sb);
