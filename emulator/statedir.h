#pragma once
/* The state dir: found or made, checked, given to the emulator's own id, locked, named.
 *
 * statedir_open is the launcher's (or a CLI command's), before it gives its rights up: a folder below a
 * caller's 0700 folder works, because everything after uses the fd. A folder is only ever taken if it
 * carries our marker file or is empty, and is the emulator's or the caller's; nothing in another one is
 * touched. Errors say what to do. */

#include "emulator/base/err.h"
#include "emulator/idmap.h"

#define STATEDIR_MARKER "orkestr-state" /* its one line names the format's version */
#define STATEDIR_LOCK "lock"

/* path NULL: the default (root: /var/lib/orkestr-emulator; else $XDG_STATE_HOME/orkestr-emulator or
 * ~/.local/state/orkestr-emulator). Makes it and missing parents; its mode becomes 0700 and its owner
 * m->own_uid. *ret_fd: O_RDONLY directory, good for fchdir. ret_path: absolute and resolved, for people
 * and statedir_name. A symlink as the last component is followed (once) only if it is the caller's own.
 * ERR_DENIED another user's, ERR_EXISTS a folder with something else in it, ERR_UNSUPPORTED newer format. */
int statedir_open(const char *path, const struct idmap *m, int *ret_fd, char *ret_path, size_t cap, struct err *e);

/* The same checks without making or changing anything: ERR_NOT_FOUND when there is none, ERR_EXISTS for
 * an empty folder too. */
int statedir_open_existing(const char *path, const struct idmap *m, int *ret_fd, char *ret_path, size_t cap,
			   struct err *e);

/* A folder for snapshots that several emulators may share, made where missing (its parent must be there). It must be
 * m->own_uid's, or empty and the caller's, who then gives it away; its mode becomes 0700. *ret_fd: O_RDONLY directory.
 * make: or it must be there. ERR_DENIED, ERR_NOT_FOUND. */
int statedir_open_snapshots(const char *path, const struct idmap *m, bool make, int *ret_fd, struct err *e);

/* Takes the lock; returns the fd to hold. A second one gets ERR_BUSY with the first one's pid. It is a
 * flock(2): a child that inherits the fd keeps it locked, and whoever dies lets it go. Works with the
 * caller's rights and inside E alike. */
int statedir_lock(int state_fd, struct err *e);

/* A short name of this instance, from its resolved path: 12 hex digits. */
#define STATEDIR_NAME_SIZE 16
void statedir_name(const char *path, char ret[static STATEDIR_NAME_SIZE]);
