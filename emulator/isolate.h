#pragma once
/* What makes a sandbox a sandbox: the keeper's bare root, the sandbox's mounts, and the rights it ends up
 * with. Every step that fails, fails the create. Runs in the keeper (keeper_root, seccomp_build) and in
 * init before it is anybody's PID 1 (the rest); nothing here may allocate much or touch the daemon. */

#include "emulator/base/err.h"

/* Paths in the keeper's root, which every init starts from. */
#define ISOLATE_DISK "/disk"	      /* the state dir's disk folder */
#define ISOLATE_DEV "/dev"	      /* the device folder every sandbox gets a read-only copy of */
#define ISOLATE_RESOLV "/resolv.conf" /* names the gateway's resolver; bound over every sandbox's own */
#define ISOLATE_CPUS "/cpus"	      /* files "1", "2", ...: what /sys/devices/system/cpu/online shows */
#define ISOLATE_STAGE "/stage"	      /* mounts made ahead: proc, sys, dev */
#define ISOLATE_NEW_ROOT "/root"      /* where the overlay goes */

/* Keeper: replaces the mount namespace's root by a tmpfs that holds just the above plus /proc and /sys
 * (which the kernel wants to see before it lets a child mount its own). disk_fd: the disk folder. */
int isolate_keeper_root(int disk_fd, struct err *e);

/* The seccomp filter as BPF, built once by the keeper and inherited. */
struct isolate_filter {
	void *program; /* struct sock_filter[] */
	unsigned short length;
};
int isolate_filter_build(struct isolate_filter *ret, struct err *e);

/* Init, step 1 (before it knows which sandbox it will be): proc, sys, dev, cgroup view, loopback. */
int isolate_stage(bool cgroup_view, struct err *e);

struct isolate_root {
	const char *slot;
	const char (*layers)[40];
	size_t n_layers;
	uint32_t cpus;
	const char *hostname;
	uint64_t memory_bytes; /* its limit: /dev/shm may have half of it */
};

/* Init, step 2: the overlay, the staged mounts on it, pivot_root; the host is out of reach after it. */
int isolate_enter_root(const struct isolate_root *r, struct err *e);

/* Init, step 3: rlimits, CPUs, capabilities, no_new_privs, seccomp. */
int isolate_drop(const struct isolate_filter *f, uint32_t cpus, uint32_t pids_max, struct err *e);

/* Init, step 4, when it has sent its last descriptor: how many files a process may have open. Fewer than init had until
 * now, and than the daemon and the keeper have, on purpose: so many a user may also have in flight, all processes of
 * that id together (unix(7), ETOOMANYREFS), and every sandbox's root is the same one. A sandbox that fills its measure
 * must not keep the next one's init from saying that it is ready. */
int isolate_limit_files(struct err *e);
