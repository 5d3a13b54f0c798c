#pragma once
/* Sandboxes: the state machine between the wire and the kernel. One manager in the daemon; it owns the
 * rows' truth in memory for what lives, writes each change to the store first, drives keeper and init,
 * and ends what its deadline ends.
 *
 * Calls answer at once with 0 or an error, or later through the callback, from the loop, exactly once. */

#include "emulator/account.h"
#include "emulator/base/err.h"
#include "emulator/cgroup.h"
#include "emulator/fault.h"
#include "emulator/idmap.h"
#include "emulator/journal.h"
#include "emulator/meter.h"
#include "emulator/store.h"
#include "netpolicy/policy.h"
#include "rootfs/snapshot_dir.h"

struct uv_loop_s;
struct keeper;
struct sandboxes;

/* What sandboxes may reach, from the command line. Borrowed for the manager's life. */
struct sandboxes_network {
	int egress_sock;	  /* the egress process's control socket, taken; -1: no network on this host */
	const char *why_none;	  /* then the reason */
	const char *const *allow; /* more rules for "restricted", NULL-terminated, or NULL */
	const char *const *map;	  /* "HOST[:PORT]=ADDR:PORT", NULL-terminated, or NULL */
	const char *const *zone;  /* "NAME=ADDR", NULL-terminated, or NULL */
	bool allow_private;
};

struct sandboxes_config {
	struct uv_loop_s *loop;
	struct store *store;
	struct cgroup_root *cgroups;
	const struct idmap *idmap;
	int state_fd;
	struct snapshot_dir snapshots; /* fds borrowed */
	struct sandboxes_network network;
	uint32_t warm;		 /* inits kept parked, so that a create finds one */
	bool strict_resume;	 /* a resume that can't bring the processes back is ERR_NOT_READY "memory_lost" */
	struct journal *journal; /* hears of all that happens; or NULL */
	struct faults *faults;	 /* for those about names; or NULL */
	bool journal_commands;	 /* with whole command lines, which may hold secrets */
	uint32_t max_live;	 /* refuse (ERR_CAPACITY) beyond this many on this host; 0: no limit */
	/* How long a stop waits for nothing but the trash, in ms; 0: 7000. */
	uint32_t stop_trash_ms;
};

/* What POST /v1/sandboxes asks for; already validated by the wire's types, not by the plan. */
struct sandbox_spec {
	const char *template_name;
	const char *size;     /* NULL: not given */
	uint32_t cpu_millis;  /* 0: not given */
	uint32_t memory_mb;   /* 0: not given */
	const char *network;  /* "off", "restricted", "open" */
	uint32_t timeout_s;   /* 0: the default, 600 */
	const char *region;   /* or NULL */
	const char *env;      /* JSON object text */
	const char *metadata; /* JSON object text */
	bool build; /* the emulator's own (tmpl.h): no plan counts it, and whose the template is was checked */
};

int sandboxes_new(const struct sandboxes_config *c, struct sandboxes **ret, struct err *e);

/* Start-up, before the first request and the loop: takes over what an earlier run left and the keeper kept; ends
 * and marks the rest (rows, cgroups, folders). */
int sandboxes_sweep(struct sandboxes *m, struct err *e);

/* The keeper's events go to the manager: keeper_connect with these. */
struct keeper_events;
void sandboxes_keeper_events(struct sandboxes *m, struct keeper_events *ret);
void sandboxes_set_keeper(struct sandboxes *m, struct keeper *k);

/* row: borrowed for the call; NULL with an error. */
typedef void (*sandbox_done_fn)(void *arg, const struct err *e, const struct sandbox_row *row);

/* The first request may come: from now on the warm pool fills. */
void sandboxes_start(struct sandboxes *m);

/* Plan checks, row, kernel objects; done when a command can be run. Errors by reason: size_not_allowed,
 * concurrent_limit, usage_exhausted, network_not_allowed, template_not_found, template_unavailable, network_unavailable. */
int sandbox_create(struct sandboxes *m, const struct account *a, const struct sandbox_spec *s, sandbox_done_fn done,
		   void *arg, struct err *e);

/* May the account make a sandbox of it? A custom one must be its own (ERR_NOT_FOUND "template_not_found") and
 * built (ERR_NOT_READY "template_not_ready"). Whether there is such a template is not asked. */
int sandbox_check_template(struct sandboxes *m, const struct account *a, const char *name, struct err *e);

/* The rows (borrowed) of all that live, paused ones too, and were made of this template, whosoever they are. */
void sandboxes_each_of_template(struct sandboxes *m, const char *name,
				void (*fn)(void *arg, const struct sandbox_row *row), void *arg);

/* Ends every sandbox that is a build's: their accounts begin with this. */
#define SANDBOX_BUILD_ACCOUNT "bld_"
void sandboxes_end_builds(struct sandboxes *m);

/* Something was moved to the trash. */
void sandboxes_kick_trash(struct sandboxes *m);

/* Copies the row (the caller clears it). ERR_NOT_FOUND "sandbox_not_found" also for another account's. */
int sandbox_get(struct sandboxes *m, const struct account *a, const char *id, struct sandbox_row *ret, struct err *e);

/* Ends it; done when no process of it is left. Idempotent: a terminated one answers the same row. */
int sandbox_terminate(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
		      struct err *e);

/* Freezes every process and writes the disk's snapshot; done when that is durable. While it is under way
 * and until the resume the sandbox answers ERR_NOT_READY to all but a terminate; its lifetime, its commands'
 * time-outs and their durations stand still; commands that run stay attached. A paused one answers its row
 * at once. A failure leaves it running. ERR_PLAN "snapshot_cap_reached", ERR_UNSUPPORTED "pause_unsupported"
 * (nothing here can freeze) or "snapshot_unsupported", ERR_FULL, ERR_TIMEOUT. */
int sandbox_pause(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
		  struct err *e);

/* The same processes go on; expires_ms moves by how long it was paused. Where they are gone (a reboot, a keeper
 * that died), the disk alone comes back, and the row says memory_lost. A running one answers its row at
 * once. A failure leaves it paused. ERR_PLAN "concurrent_limit", ERR_UNAVAILABLE "snapshot_damaged",
 * "template_unavailable", ERR_NOT_READY "memory_lost" (strict_resume). */
int sandbox_resume(struct sandboxes *m, const struct account *a, const char *id, sandbox_done_fn done, void *arg,
		   struct err *e);

/* Takes in what happened in the snapshots' folder without this emulator's doing: an import, a removal, and what others
 * who share it did. Calls that name one sandbox do this by themselves; a list wants it before. */
void sandboxes_look(struct sandboxes *m);

/* What of a sandbox is in a snapshot, or was lost when it was resumed from one: the manifest without secrets.
 * *ret_lost: which of the two; *ret NULL: neither. The caller's to put. ERR_NOT_FOUND. */
struct json_object;
int sandbox_snapshot(struct sandboxes *m, const struct account *a, const char *id, struct json_object **ret,
		     bool *ret_lost, struct err *e);

/* O_PATH fd of the running sandbox's root (the caller's, dup'ed): for emulator/files.h.
 * ERR_NOT_READY "sandbox_not_ready" unless it runs. */
int sandbox_root(struct sandboxes *m, const struct account *a, const char *id, struct err *e);

/* ---- its network ---- */

struct ledger;

/* What it asked the network for, as of now. *ret: borrowed until the loop runs again; NULL: nothing was tried.
 * ERR_NOT_FOUND; ERR_NOT_READY once it has ended: a ledger ends with its sandbox. */
int sandbox_network_ledger(struct sandboxes *m, const struct account *a, const char *id, const struct ledger **ret,
			   enum net_mode *ret_mode, struct err *e);

/* Another mode for a running sandbox. A stricter one ends what stands; a wider one lets it stand.
 * ERR_NOT_READY "network_is_off" for one that was created without a network: it has no interface.
 * Plan and host as at create. ERR_BUSY while an earlier change is under way. */
int sandbox_network_set(struct sandboxes *m, const struct account *a, const char *id, enum net_mode mode,
			sandbox_done_fn done, void *arg, struct err *e);

/* One more "HOST[:PORT]=ADDR:PORT" for all sandboxes, as --map; NULL: forget all of them. */
int sandboxes_network_map(struct sandboxes *m, const char *text, struct err *e);

/* The rules of the config's faults that are about names (dns) are told to the egress process, all of them anew: call
 * it after each change. _ready: can this one be? ERR_UNAVAILABLE "network_unavailable", ERR_INVALID
 * "invalid_fault". */
struct fault_rule;
int sandboxes_fault_names_ready(struct sandboxes *m, const struct fault_rule *r, struct err *e);
void sandboxes_fault_names(struct sandboxes *m);

/* Every one that is in memory, of any account. fn ends the walk with anything but 0, which is returned. */
int sandboxes_each(struct sandboxes *m, int (*fn)(void *arg, const struct sandbox_row *row), void *arg);

/* Ends every sandbox of the account, or of all (NULL), with the reason "reset"; when they are gone: forgets rows,
 * idempotency keys and usage of it, its fault rules, its journal. done() is called once, from the loop; e: NULL when
 * it worked. */
struct sandboxes_reset_result {
	uint32_t ended; /* sandboxes that lived */
	uint64_t rows;	/* of sandboxes forgotten */
	size_t faults;
};
typedef void (*sandboxes_reset_fn)(void *arg, const struct err *e, const struct sandboxes_reset_result *r);
int sandboxes_reset(struct sandboxes *m, const char *account, sandboxes_reset_fn done, void *arg, struct err *e);
/* ---- usage ---- */

/* What the account has used this month (UTC, by the emulator's clock), up to a second ago. */
int sandboxes_usage(struct sandboxes *m, const struct account *a, struct usage *ret, struct err *e);
/* Borrowed: to set and forget what is used. */
struct meter *sandboxes_meter(struct sandboxes *m);

struct sandbox_metrics {
	enum sandbox_status status;
	double cores; /* allocated */
	uint64_t limit_bytes;
	bool live; /* it runs; else only what is above and lifetime mean something */
	double used_cores;
	uint64_t used_bytes; /* the working set */
	struct meter_totals lifetime;
	struct meter_sample samples[METER_SAMPLES]; /* the oldest first */
	size_t n_samples;
};
/* since_ms: only samples newer than that; 0: all of the window. ERR_NOT_FOUND. */
int sandbox_metrics(struct sandboxes *m, const struct account *a, const char *id, int64_t since_ms,
		    struct sandbox_metrics *ret, struct err *e);

/* ---- the clock ---- */

struct vclock_listener;

/* Deadlines go by emulator/vclock.h: vclock_listen with this. */
void sandboxes_clock_listener(struct sandboxes *m, struct vclock_listener *ret);
/* The time that was let pass is charged: vclock_listen with this, too. */
void sandboxes_meter_listener(struct sandboxes *m, struct vclock_listener *ret);

/* Calls done, from the loop, once nothing is left of those that are ending now. */
int sandboxes_await_ends(struct sandboxes *m, void (*done)(void *arg), void *arg, struct err *e);

struct sandboxes_counts {
	uint32_t live, execs;
	uint32_t paused; /* of the live ones */
	uint32_t warm;	 /* parked slots: their folders and cgroups belong to no sandbox yet */
	uint64_t created, terminated, failed;
};
void sandboxes_count(const struct sandboxes *m, struct sandboxes_counts *ret);

/* Ends everything ("user" on a clean stop), then calls done once nothing is left and the trash is empty; of a big one
 * the rest is left to the next start. Where the snapshots' folder is shared, paused ones stay paused, without their
 * processes. keep: what runs or is paused stays as it is; what is half way is first brought to its end. */
void sandboxes_shutdown(struct sandboxes *m, bool keep, void (*done)(void *arg), void *arg);
/* No sandbox and no slot is left. */
bool sandboxes_all_ended(const struct sandboxes *m);
void sandboxes_free(struct sandboxes *m);
