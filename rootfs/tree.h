#pragma once
/* Folder trees of a state dir: made, thrown away and removed, without recursion limits and without ever
 * following a symlink. Blocking: large trees are for a worker process or a CLI command. */

#include <sys/types.h>

#include "emulator/base/err.h"

/* Makes the state dir's folders (disk, disk/l, disk/s, disk/m, disk/trash, disk/b, templates, snapshots) where missing. */
int tree_prepare_state(int state_fd, struct err *e);

/* disk/s/<slot>/{u,w}: the upper (owned by uid, 0755) and the work folder of a sandbox's overlay. */
int tree_make_slot(int state_fd, const char *slot, uid_t uid, struct err *e);

/* Moves disk/s/<slot> into disk/trash (one rename; the space comes back with tree_empty_trash). 0 if gone. */
int tree_trash_slot(int state_fd, const char *slot, struct err *e);

/* Removes everything in disk/trash. */
int tree_empty_trash(int state_fd, struct err *e);

/* Removes dirfd/name with all below it: files of any id and mode of the emulator's, immutable depth. */
int tree_remove(int dirfd, const char *name, struct err *e);

/* Calls fn with the name of each slot folder. */
int tree_each_slot(int state_fd, int (*fn)(void *arg, const char *slot), void *arg);
