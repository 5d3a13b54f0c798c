#pragma once
/* The folder snapshots are in, and who may use one up. Several emulators may share a folder (serve --snapshot-dir):
 *
 *   <id>.json                       a snapshot that is nobody's: whoever renames it first has it
 *   .claim-<id>-<holder>.json       one that <holder> is resuming or ending
 *   .holder-<holder>                locked (flock(2)) as long as that emulator lives
 *   .trash-<ulid>                   on its way out
 *
 * A rename within a folder is atomic, so of two that want a snapshot one gets it. A claim whose holder is gone is
 * put back by the next one who looks: the processes that would have made it obsolete never came to be, for the
 * claim goes before the sandbox is told to run. Holders hold their lock in the daemon and in the keeper (the fd is
 * inherited): only when the last process that could run the sandbox is gone is the claim up for grabs.
 *
 * Files are the emulator's own id's, 0600: those who share must run with the same one. What is in a snapshot has
 * the sandbox's own ids, so their ranges may differ. Called in the daemon, its workers and CLI commands, all in E. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"

#define SNAPSHOT_ID_SIZE 32 /* a sandbox's id */

struct snapshot_dir {
	int dir_fd;
	int state_fd;		     /* the state dir: slots and trash are there */
	bool shared;		     /* other emulators may use it */
	char holder[TEXT_ULID_SIZE]; /* whose claims are made; one of a kind in a shared folder */
};
#define SNAPSHOT_DIR_INIT ((struct snapshot_dir){ .dir_fd = -1, .state_fd = -1 })

/* state_fd: borrowed. shared_fd: a folder of this process's id (taken), or -1 for the state dir's own. holder: from
 * snapshot_hold, or NULL for the state dir's own folder and for those who only look. */
int snapshot_dir_open(int state_fd, int shared_fd, const char *holder, struct snapshot_dir *ret, struct err *e);
void snapshot_dir_close(struct snapshot_dir *d);

/* Before the keeper is started, with the caller's rights: this state dir's name among the holders (made once, kept
 * in it as "holder") and the lock. *ret_fd: keep it open. Files are given to uid, gid. */
int snapshot_hold(int state_fd, int shared_fd, uid_t uid, gid_t gid, char ret_holder[static TEXT_ULID_SIZE],
		  int *ret_fd, struct err *e);

bool snapshot_id_valid(const char *id);

/* From now on it is this emulator's alone. 0 also when it is already. ERR_NOT_FOUND: it is not there (any more). */
int snapshot_claim(const struct snapshot_dir *d, const char *id, struct err *e);

/* Puts a claimed one back. */
int snapshot_unclaim(const struct snapshot_dir *d, const char *id, struct err *e);

/* Is it there, nobody's? */
bool snapshot_available(const struct snapshot_dir *d, const char *id);

/* Moves it to the trash (tree_empty_trash and snapshot_empty_trash give the space back) with what a killed worker
 * left of it; 0 also when there is none. One that somebody else has claimed stays. */
int snapshot_discard(const struct snapshot_dir *d, const char *id, struct err *e);

/* For who holds nothing (CLI): removes one that is nobody's at once; blocks. ERR_NOT_FOUND. */
int snapshot_remove(const struct snapshot_dir *d, const char *id, struct err *e);

/* Calls fn with the id of each that is nobody's. Claims of the dead are put back first. 1: somebody else claims one
 * now, and may die, which the folder's time does not tell. */
int snapshot_each(const struct snapshot_dir *d, void (*fn)(void *arg, const char *id), void *arg, struct err *e);

enum snapshot_fate {
	SNAPSHOT_KEEP,	  /* one that may be resumed: this emulator's claim on it is given up */
	SNAPSHOT_STRANGE, /* nothing is known of it here */
	SNAPSHOT_OVER,	  /* it is of no use any more */
};

/* Start-up, first: what an earlier run of this holder claimed is given back, or (SNAPSHOT_OVER) moved to the trash. */
int snapshot_reclaim(const struct snapshot_dir *d, enum snapshot_fate (*fate)(void *arg, const char *id), void *arg,
		     struct err *e);

/* Start-up: does that and moves to the trash what is of no use: what is
 * over, halves of snapshots, and, in a folder of its own, all that is strange. Skipped while an import is at work. */
int snapshot_sweep(const struct snapshot_dir *d, enum snapshot_fate (*fate)(void *arg, const char *id), void *arg,
		   struct err *e);

/* Blocks: for a worker. Only what snapshot_discard could not move to the state dir's trash is here. */
int snapshot_empty_trash(const struct snapshot_dir *d, struct err *e);

/* For snapshot.c and those who bring snapshots in: no sweep meanwhile. An fd that holds the lock. */
int snapshot_dir_lock(const struct snapshot_dir *d, struct err *e);

#define SNAPSHOT_NAME_SIZE (SNAPSHOT_ID_SIZE + 64)
#define SNAPSHOT_TAR_SUFFIX ".tar.zst"
void snapshot_names(const char *id, char tar[static SNAPSHOT_NAME_SIZE], char manifest[static SNAPSHOT_NAME_SIZE]);
void snapshot_claim_name(const struct snapshot_dir *d, const char *id, char ret[static SNAPSHOT_NAME_SIZE]);
