#pragma once
/* What the cgroup backends share: the object behind struct cgroup_root, their table of functions, and
 * small helpers over cgroup files. Only emulator/cgroup*.c and its doctor include this. */

#include <limits.h>

#include "emulator/cgroup.h"

#define CGROUP_PREFIX "orkestr-emulator-" /* before the instance's name, wherever a folder or unit is named */
#define CGROUP_NAME_MAX 64
#define CGROUP_SLOT_MAX 63
#define CGROUP_FREEZE_TIMEOUT_MS 10000 /* a process in an uninterruptible write to a slow disk freezes after it */

enum cgroup_controller {
	CGROUP_CPU = 1 << 0,
	CGROUP_CPUACCT = 1 << 1, /* v1 only; v2 counts CPU time in every group */
	CGROUP_MEMORY = 1 << 2,
	CGROUP_PIDS = 1 << 3,
	CGROUP_FREEZER = 1 << 4, /* v1 only */
};

/* Hierarchies one group can live in: v1's cpu, cpuacct, memory, pids, freezer, and the v2 tree. */
#define CGROUP_MAX_TREES 6

/* One hierarchy as this process finds it. */
struct cgroup_mount {
	unsigned int controllers; /* enum cgroup_controller; 0 for the v2 tree */
	bool unified;
	char base[PATH_MAX]; /* where the hierarchy is mounted */
	char own[PATH_MAX];  /* the folder of the calling process's group in it */
};

struct cgroup_layout {
	struct cgroup_mount m[CGROUP_MAX_TREES];
	size_t n;
};

/* One folder of groups: an open directory (not a path: its parents' rights never matter later), the
 * controllers it limits by, and what is needed to take it away again. */
struct cgroup_tree {
	int fd;	    /* the folder whose children are the sandboxes' groups */
	int top_fd; /* the folder that is ours as a whole; -1 where that is `fd` */
	unsigned int controllers;
	bool unified;
	int parent_fd; /* v1, or v2 without systemd: where `top` was made; -1 otherwise */
};

struct cgroup_ops;

struct cgroup_root {
	const struct cgroup_ops *ops;
	struct cgroup_features features;
	char why[512];
	char top[CGROUP_NAME_MAX + sizeof(CGROUP_PREFIX)]; /* the folder's name: CGROUP_PREFIX + name */
	struct cgroup_tree tree[CGROUP_MAX_TREES];
	size_t n_trees;
	int leash; /* held open by every process of the emulator; its end tells the janitor. -1: none */
};

struct cgroup_ops {
	enum cgroup_backend backend;
	int (*set_limits)(struct cgroup_root *r, const char *slot, const struct cgroup_limits *l, struct err *e);
	int (*read)(struct cgroup_root *r, const char *slot, struct cgroup_usage *ret);
	int (*freeze)(struct cgroup_root *r, const char *slot, bool freeze, struct err *e);
	int (*kill)(struct cgroup_root *r, const char *slot);
};

extern const struct cgroup_ops cgroup_v1_ops, cgroup_v2_ops, cgroup_none_ops;

/* Each fills r's trees, features and why, or fails with a sentence in e and leaves r to cgroup_root_free. */
int cgroup_v2_prepare(struct cgroup_root *r, const struct cgroup_layout *l, uid_t uid, gid_t gid, struct err *e);
int cgroup_v1_prepare(struct cgroup_root *r, const struct cgroup_layout *l, uid_t uid, gid_t gid, struct err *e);

/* Where this process's groups are (/proc/self/mountinfo, /proc/self/cgroup). */
int cgroup_layout_read(struct cgroup_layout *ret, struct err *e);
/* The same from given texts, for tests. */
int cgroup_layout_parse(const char *mountinfo, const char *self, struct cgroup_layout *ret);
const struct cgroup_mount *cgroup_layout_unified(const struct cgroup_layout *l); /* or NULL */

/* [a-z0-9-], 1..max long. */
bool cgroup_word_valid(const char *s, size_t max);

/* An fd or a negative errno. */
int cgroup_open_dir(int dirfd, const char *name);
/* mkdirat that takes an existing folder too, then opens it, and holds a shared lock that keeps an earlier run's janitor away from it. */
int cgroup_make_top(int dirfd, const char *name);

/* Gives a group's folder, and the files that delegation needs (or all of them), to uid:gid. */
int cgroup_give(int dirfd, uid_t uid, gid_t gid, bool all_files);
/* As cgroup_give, with all files, for every group directly below dirfd. */
int cgroup_give_children(int dirfd, uid_t uid, gid_t gid);

/* Removes a group and the groups in it. 0 also if it is gone; -EBUSY while something is inside. */
int cgroup_remove_tree(int dirfd, const char *name, unsigned int depth);

int cgroup_read_u64(int dirfd, const char *slot, const char *file, uint64_t *ret);
/* The number behind `key` in a "key number" file. -ENOENT also when the key isn't there. */
int cgroup_read_key(int dirfd, const char *slot, const char *file, const char *key, uint64_t *ret);
/* The file's first word, cut to cap - 1 bytes. */
int cgroup_read_word(int dirfd, const char *slot, const char *file, char *ret, size_t cap);
int cgroup_find_key(const char *text, const char *key, uint64_t *ret);
int cgroup_write(int dirfd, const char *slot, const char *file, const char *text);
int cgroup_write_u64(int dirfd, const char *slot, const char *file, uint64_t v);

/* cgroup.freeze and cgroup.kill of a v2 tree, which v1/hybrid hosts have as well. */
int cgroup_unified_freeze(int dirfd, const char *slot, bool freeze, struct err *e);
int cgroup_unified_kill(int dirfd, const char *slot);

/* The v2 side of a folder that is ours: leaf "daemon" for the emulator's own processes and "sandboxes"
 * for the groups, all given to uid:gid. Returns an fd of "sandboxes". */
int cgroup_unified_make(int top_fd, uid_t uid, gid_t gid, struct err *e);
/* Moves the calling process into the leaf "daemon". */
int cgroup_unified_enter(int top_fd, struct err *e);

/* Starts the janitor (cgroup_janitor.c) over r's trees that have a parent_fd, and fills r->leash. Call it
 * before cgroup_unified_enter: the janitor stays in the caller's first group. */
int cgroup_janitor_start(struct cgroup_root *r, struct err *e);
