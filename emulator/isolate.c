#include "emulator/isolate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "netpolicy/gateway.h"

/* Theory of operation
 *
 * The keeper stands on a root of its own: a tmpfs with the disk folder, a device folder, /proc and /sys,
 * and nothing of the host's files. An init is cloned from there, so even before its pivot_root it can
 * see no host file. Copying that small mount table is also what makes clone3(CLONE_NEWNS) cheap.
 *
 * An init mounts in two steps. Staging needs no knowledge of the sandbox (proc, sys, dev, cgroup), so it is
 * done before anybody waits for it. Entering mounts the overlay, moves the staged trees onto it, and
 * pivots. All mounts are made in the sandbox's own user namespace: the overlay works with the sandbox's
 * rights, not the emulator's.
 *
 * /proc and /sys: kernels refuse a fresh mount of either in a user namespace unless one is fully visible
 * already (mount_too_revealing() in fs/namespace.c), hence the keeper's recursive binds of the host's. */

/* mount(2) with the error's context. */
static int do_mount(const char *what, const char *where, const char *type, unsigned long flags, const char *data,
		    struct err *e)
{
	if (mount(what, where, type, flags, data) < 0)
		return err_errno(e, errno, "mount %s on %s", type ? type : what ? what : "flags", where);
	return 0;
}

/* Makes a bind mount read-only without touching the flags the kernel locked (mount_setattr(2)). */
static int set_readonly(const char *path, unsigned int at_flags, struct err *e)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };

	if (mount_setattr(AT_FDCWD, path, at_flags, &attr, sizeof(attr)) < 0)
		return err_errno(e, errno, "making %s read-only", path);
	return 0;
}

static int make_dir(const char *path, mode_t mode, struct err *e)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_errno(e, errno, "mkdir %s", path);
	return 0;
}

static int make_file(const char *path, const char *content, struct err *e)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
	int r;

	if (fd < 0)
		return err_errno(e, errno, "making %s", path);
	r = content ? fd_write_all(fd, content, strlen(content)) : 0;
	return r < 0 ? err_errno(e, -r, "writing %s", path) : 0;
}

/* A clone of a mount tree, put somewhere else (open_tree(2), move_mount(2)). */
static int attach_tree(int dirfd, const char *from, unsigned int flags, const char *to, struct err *e)
{
	_cleanup_close_ int tree = open_tree(dirfd, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);

	if (tree < 0)
		return err_errno(e, errno, "open_tree %s", *from ? from : to);
	if (move_mount(tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_errno(e, errno, "move_mount to %s", to);
	return 0;
}

/* --- the keeper's root --- */

static const char *const devices[] = { "null", "zero", "full", "random", "urandom", "tty" };

static int keeper_dev(struct err *e)
{
	static const struct {
		const char *target, *name;
	} links[] = {
		{ "/proc/self/fd", "fd" },	 { "/proc/self/fd/0", "stdin" }, { "/proc/self/fd/1", "stdout" },
		{ "/proc/self/fd/2", "stderr" }, { "pts/ptmx", "ptmx" },
	};
	static const char *const dirs[] = { "pts", "shm", "mqueue" };
	char from[64], to[64];
	int r;

	/* A mount of its own, so that it can be read-only: every sandbox shares this one tmpfs. */
	r = do_mount("tmpfs", "." ISOLATE_DEV, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k", e);
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(to, sizeof(to), "." ISOLATE_DEV "/%s", dirs[i]);
		r = make_dir(to, 0755, e);
	}
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(links); i++) {
		(void)snprintf(to, sizeof(to), "." ISOLATE_DEV "/%s", links[i].name);
		if (symlink(links[i].target, to) < 0)
			r = err_errno(e, errno, "symlink %s", to);
	}
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(devices); i++) {
		(void)snprintf(from, sizeof(from), "/dev/%s", devices[i]);
		(void)snprintf(to, sizeof(to), "." ISOLATE_DEV "/%s", devices[i]);
		r = make_file(to, NULL, e);
		if (r >= 0)
			r = attach_tree(AT_FDCWD, from, 0, to, e);
	}
	return r < 0 ? r : set_readonly("." ISOLATE_DEV, 0, e);
}

static int keeper_cpu_files(struct err *e)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	char path[64], text[32];
	int r = 0;

	for (long i = 1; r >= 0 && i <= MAX(n, 1); i++) {
		(void)snprintf(path, sizeof(path), "." ISOLATE_CPUS "/%ld", i);
		(void)snprintf(text, sizeof(text), i == 1 ? "0\n" : "0-%ld\n", i - 1);
		r = make_file(path, text, e);
	}
	return r;
}

int isolate_keeper_root(int disk_fd, struct err *e)
{
	static const char *const dirs[] = { "proc", "sys", "dev", "disk", "cpus", "stage", "root" };
	_cleanup_close_ int disk = -1, fs = -1, root = -1;
	int r = 0;

	disk = open_tree(disk_fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
	if (disk < 0)
		return err_errno(e, errno, "cloning the disk folder's mount");
	fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_STRING, "mode", "0711", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "size", "1m", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return err_errno(e, errno, "making the keeper's tmpfs");
	root = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID);
	/* disk/m is an empty folder whose only use is to be covered here, in a namespace nobody else sees. */
	if (root < 0 || move_mount(root, "", disk_fd, "m", MOVE_MOUNT_F_EMPTY_PATH) < 0 || fchdir(root) < 0)
		return err_errno(e, errno, "mounting the keeper's tmpfs");
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(dirs); i++)
		r = make_dir(dirs[i], 0755, e);
	if (r < 0)
		return r;
	if (move_mount(disk, "", AT_FDCWD, "disk", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_errno(e, errno, "mounting the disk folder");
	r = attach_tree(AT_FDCWD, "/proc", AT_RECURSIVE, "proc", e);
	if (r >= 0)
		r = attach_tree(AT_FDCWD, "/sys", AT_RECURSIVE, "sys", e);
	if (r >= 0)
		r = keeper_dev(e);
	if (r >= 0)
		r = keeper_cpu_files(e);
	if (r >= 0)
		r = make_file("." ISOLATE_RESOLV, "nameserver " GATEWAY_RESOLVER "\noptions timeout:2 attempts:2\n", e);
	if (r < 0)
		return r;
	/* pivot_root(2), "pivot_root(".", ".")": the old root ends up on top and goes. */
	r = sys_pivot_root(".", ".");
	if (r < 0)
		return err_errno(e, -r, "pivot_root of the keeper");
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_errno(e, errno, "leaving the host's root");
	return 0;
}

/* --- a sandbox's mounts --- */

/* Shown empty: they tell about, or act on, the host. */
static const char *const masked_files[] = { "proc/kcore",      "proc/keys",	   "proc/key-users",
					    "proc/timer_list", "proc/sched_debug", "proc/latency_stats",
					    "proc/kmsg",       "proc/kallsyms",	   "proc/kpagecount",
					    "proc/kpageflags", "proc/kpagecgroup" };
static const char *const masked_dirs[] = { "proc/acpi",
					   "proc/scsi",
					   "proc/asound",
					   "sys/firmware",
					   "sys/fs/selinux",
					   "sys/kernel/debug",
					   "sys/kernel/tracing",
					   "sys/kernel/security",
					   "sys/devices/virtual/powercap",
					   "sys/devices/virtual/dmi",
					   "sys/fs/bpf",
					   "sys/fs/pstore" };
static const char *const readonly_paths[] = { "proc/bus",	    "proc/fs",	"proc/irq", "proc/sys",
					      "proc/sysrq-trigger", "proc/mtrr" };

/* The kernel counts these for the user of the host that all sandboxes are in the end, at most 128 of each
 * (inotify(7), fanotify(7)): without a bound of its own, one sandbox leaves none to the others. The namespace's
 * root may not raise it: /proc/sys is read-only to it. */
static int bound_shared(struct err *e)
{
	static const struct {
		const char *file, *most;
	} bounds[] = {
		{ ISOLATE_STAGE "/proc/sys/user/max_inotify_instances", "32" },
		{ ISOLATE_STAGE "/proc/sys/user/max_fanotify_groups", "8" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bounds); i++) {
		int r = fd_write_file(AT_FDCWD, bounds[i].file, bounds[i].most);

		if (r < 0 && r != -ENOENT) /* a kernel without it */
			return err_errno(e, -r, "writing %s", bounds[i].file);
	}
	return 0;
}

static int mask(struct err *e)
{
	char path[96];
	int r = 0;

	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(masked_files); i++) {
		(void)snprintf(path, sizeof(path), ISOLATE_STAGE "/%s", masked_files[i]);
		if (access(path, F_OK) == 0)
			r = attach_tree(AT_FDCWD, ISOLATE_DEV "/null", 0, path, e);
	}
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(masked_dirs); i++) {
		(void)snprintf(path, sizeof(path), ISOLATE_STAGE "/%s", masked_dirs[i]);
		if (access(path, F_OK) == 0)
			r = do_mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
				     "size=0,mode=755,nr_inodes=1", e);
	}
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(readonly_paths); i++) {
		(void)snprintf(path, sizeof(path), ISOLATE_STAGE "/%s", readonly_paths[i]);
		if (access(path, F_OK) != 0)
			continue;
		r = attach_tree(AT_FDCWD, path, 0, path, e);
		if (r >= 0)
			r = set_readonly(path, 0, e);
	}
	return r;
}

/* cgroups(7): one line a hierarchy in /proc/self/cgroup, "ID:controllers:path"; v2's is "0::path".
 * In its new cgroup namespace each mount shows the sandbox its own group as the root. */
static int stage_cgroups_v1(const char *lines, struct err *e)
{
	char copy[2048], path[128], *save, *line;
	int r;

	(void)snprintf(copy, sizeof(copy), "%s", lines);
	r = do_mount("tmpfs", ISOLATE_STAGE "/sys/fs/cgroup", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		     "mode=755,size=16k", e);
	for (line = strtok_r(copy, "\n", &save); r >= 0 && line; line = strtok_r(NULL, "\n", &save)) {
		char *names = strchr(line, ':'), *end = names ? strchr(names + 1, ':') : NULL;

		if (!end)
			continue;
		*end = '\0';
		names++;
		if (strncmp(names, "cpu", 3) != 0 && strcmp(names, "memory") != 0 && strcmp(names, "pids") != 0)
			continue;
		if (strncmp(names, "cpuset", 6) == 0)
			continue;
		r = text_format(path, sizeof(path), ISOLATE_STAGE "/sys/fs/cgroup/%s", names);
		if (r < 0)
			return err_errno(e, -r, "cgroup %s", names);
		r = make_dir(path, 0755, e);
		if (r >= 0)
			r = do_mount("cgroup", path, "cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, names, e);
	}
	return r < 0 ? r : set_readonly(ISOLATE_STAGE "/sys/fs/cgroup", 0, e);
}

static int stage_cgroups(struct err *e)
{
	char lines[2048];
	ssize_t n = fd_read_file(AT_FDCWD, "/proc/thread-self/cgroup", lines, sizeof(lines));

	if (n < 0)
		return err_errno(e, (int)-n, "reading /proc/self/cgroup");
	if (strstr(lines, ":memory:") || strstr(lines, ":pids:"))
		return stage_cgroups_v1(lines, e);
	return do_mount("cgroup2", ISOLATE_STAGE "/sys/fs/cgroup", "cgroup2",
			MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL, e);
}

static int loopback_up(struct err *e)
{
	_cleanup_close_ int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_name = "lo" };

	if (s < 0)
		return err_errno(e, errno, "socket");
	if (ioctl(s, SIOCGIFFLAGS, &ifr) < 0)
		return err_errno(e, errno, "SIOCGIFFLAGS");
	ifr.ifr_flags = (short)(ifr.ifr_flags | IFF_UP | IFF_RUNNING);
	if (ioctl(s, SIOCSIFFLAGS, &ifr) < 0)
		return err_errno(e, errno, "bringing loopback up");
	return 0;
}

#define SHM_FLAGS (MS_NOSUID | MS_NODEV | MS_NOEXEC)
#define SHM_BYTES (UINT64_C(64) << 20)
#define SHM_OPTIONS(size) "mode=1777,nr_inodes=16k,size=" size

/* What is in /dev/shm counts as the sandbox's memory and can't be reclaimed: a full one must not be all of it. */
static int size_shm(uint64_t memory_bytes, struct err *e)
{
	char options[64];

	if (memory_bytes == 0 || memory_bytes / 2 >= SHM_BYTES)
		return 0;
	(void)snprintf(options, sizeof(options), SHM_OPTIONS("%llu"), (unsigned long long)memory_bytes / 2);
	return do_mount("shm", ISOLATE_STAGE "/dev/shm", "tmpfs", SHM_FLAGS | MS_REMOUNT, options, e);
}

static int stage_dev(struct err *e)
{
	int r = attach_tree(AT_FDCWD, ISOLATE_DEV, AT_RECURSIVE, ISOLATE_STAGE "/dev", e);

	if (r >= 0)
		r = do_mount("devpts", ISOLATE_STAGE "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			     "newinstance,ptmxmode=0666,mode=0620", e);
	if (r >= 0)
		r = do_mount("shm", ISOLATE_STAGE "/dev/shm", "tmpfs", SHM_FLAGS, SHM_OPTIONS("64m"), e);
	if (r >= 0)
		r = do_mount("mqueue", ISOLATE_STAGE "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL,
			     e);
	return r;
}

int isolate_stage(bool cgroup_view, struct err *e)
{
	static const char *const dirs[] = { "proc", "sys", "dev" };
	char path[32];
	int r;

	/* A tmpfs of the sandbox's own, for its root can't make folders in the keeper's. */
	r = do_mount("tmpfs", ISOLATE_STAGE, "tmpfs", MS_NOSUID, "mode=700,size=16k", e);
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(dirs); i++) {
		(void)snprintf(path, sizeof(path), ISOLATE_STAGE "/%s", dirs[i]);
		r = make_dir(path, 0755, e);
	}
	if (r >= 0)
		r = do_mount("proc", ISOLATE_STAGE "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, e);
	if (r >= 0)
		r = do_mount("sysfs", ISOLATE_STAGE "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL,
			     e);
	if (r >= 0 && cgroup_view)
		r = stage_cgroups(e);
	if (r >= 0)
		r = stage_dev(e);
	if (r >= 0)
		r = bound_shared(e);
	if (r >= 0)
		r = mask(e);
	return r < 0 ? r : loopback_up(e);
}

static int mount_overlay(const struct isolate_root *r, struct err *e)
{
	char data[4096];
	size_t n;
	int k;

	/* Relative names: the option has one page, and no parent of the disk folder need be readable. */
	if (chdir(ISOLATE_DISK) < 0)
		return err_errno(e, errno, "chdir to the disk folder");
	/* volatile: without it every unmount first syncs the whole file system below (ovl_sync_fs), 10 ms and more.
	 * What has to last is written by a snapshot, not by the sandbox's own fsync. */
	n = (size_t)snprintf(data, sizeof(data), "userxattr,volatile,lowerdir=");
	for (size_t i = 0; i < r->n_layers; i++) {
		k = text_format(data + n, sizeof(data) - n, "%sl/%s", i ? ":" : "", r->layers[i]);
		if (k < 0)
			return err_set(e, ERR_INVALID, -k, NULL, "the template has too many layers");
		n += (size_t)k;
	}
	k = text_format(data + n, sizeof(data) - n, ",upperdir=s/%s/u,workdir=s/%s/w", r->slot, r->slot);
	if (k < 0)
		return err_set(e, ERR_INVALID, -k, NULL, "the template has too many layers");
	return do_mount("overlay", ISOLATE_NEW_ROOT, "overlay", MS_NODEV, data, e);
}

static int move_staged(const char *name, struct err *e)
{
	char from[32], to[32];

	(void)snprintf(from, sizeof(from), ISOLATE_STAGE "/%s", name);
	(void)snprintf(to, sizeof(to), ISOLATE_NEW_ROOT "/%s", name);
	if (mkdir(to, 0755) < 0 && errno != EEXIST)
		return err_errno(e, errno, "making /%s in the template", name);
	if (mount(from, to, NULL, MS_MOVE, NULL) < 0)
		return err_errno(e, errno, "moving /%s into place", name);
	return 0;
}

/* Docker's way: a bind mount, so that no template need know of it and no snapshot carries it. */
static int bind_resolv(struct err *e)
{
	const char *const path = ISOLATE_NEW_ROOT "/etc/resolv.conf";
	struct stat st;
	int r;

	if (lstat(path, &st) < 0 || !S_ISREG(st.st_mode)) {
		/* systemd's link into /run, or nothing at all */
		r = make_dir(ISOLATE_NEW_ROOT "/etc", 0755, e);
		if (r >= 0 && unlink(path) < 0 && errno != ENOENT)
			r = err_errno(e, errno, "replacing /etc/resolv.conf");
		if (r >= 0)
			r = make_file(path, NULL, e);
		if (r < 0)
			return r;
	}
	r = attach_tree(AT_FDCWD, ISOLATE_RESOLV, 0, path, e);
	return r < 0 ? r : set_readonly(path, 0, e);
}

int isolate_enter_root(const struct isolate_root *root, struct err *e)
{
	char cpus[32];
	int r = mount_overlay(root, e);

	if (r < 0)
		return r;
	(void)snprintf(cpus, sizeof(cpus), ISOLATE_CPUS "/%u", root->cpus);
	/* What get_nprocs(3) reads; absent on kernels without it, or when the sandbox sees all CPUs. */
	if (access(cpus, F_OK) == 0 && access(ISOLATE_STAGE "/sys/devices/system/cpu/online", F_OK) == 0)
		r = attach_tree(AT_FDCWD, cpus, 0, ISOLATE_STAGE "/sys/devices/system/cpu/online", e);
	if (r >= 0)
		r = size_shm(root->memory_bytes, e);
	if (r >= 0)
		r = move_staged("proc", e);
	if (r >= 0)
		r = move_staged("sys", e);
	if (r >= 0)
		r = move_staged("dev", e);
	if (r >= 0)
		r = bind_resolv(e);
	if (r < 0)
		return r;
	if (chdir(ISOLATE_NEW_ROOT) < 0)
		return err_errno(e, errno, "chdir to the new root");
	r = sys_pivot_root(".", ".");
	if (r < 0)
		return err_errno(e, -r, "pivot_root");
	if (umount2(".", MNT_DETACH) < 0)
		return err_errno(e, errno, "leaving the keeper's root");
	if (chdir("/") < 0)
		return err_errno(e, errno, "chdir /");
	if (sethostname(root->hostname, strlen(root->hostname)) < 0)
		return err_errno(e, errno, "sethostname");
	return 0;
}

/* --- rights --- */

/* Docker's default set less NET_RAW's company: enough for package managers, servers and su, over the
 * sandbox's own namespaces only. Gone are the ones that reach kernel interfaces: SYS_ADMIN, NET_ADMIN,
 * SYS_PTRACE, SYS_MODULE, SYS_RAWIO, SYS_BOOT, SYS_TIME, BPF, PERFMON, DAC_READ_SEARCH and so on. */
static const int kept_caps[] = {
	CAP_CHOWN,   CAP_DAC_OVERRIDE, CAP_FOWNER,  CAP_FSETID,		  CAP_KILL,	  CAP_SETGID, CAP_SETUID,
	CAP_SETPCAP, CAP_NET_RAW,      CAP_SETFCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT,
};

static int drop_caps(struct err *e)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { 0 };
	uint64_t keep = 0;

	for (size_t i = 0; i < ARRAY_SIZE(kept_caps); i++)
		keep |= UINT64_C(1) << kept_caps[i];
	for (int cap = 0; cap < 64; cap++) {
		if (keep & (UINT64_C(1) << cap))
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL)
				break; /* past the kernel's last one */
			return err_errno(e, errno, "dropping capability %d", cap);
		}
	}
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_errno(e, errno, "clearing ambient capabilities");
	d[0].permitted = d[0].effective = (uint32_t)keep;
	d[1].permitted = d[1].effective = (uint32_t)(keep >> 32);
	if (syscall(SYS_capset, &h, d) < 0)
		return err_errno(e, errno, "capset");
	return 0;
}

#define FILES_SOFT 1024
#define FILES_HARD 65536

static int set_limits(uint32_t pids_max, struct err *e)
{
	const struct {
		int which;
		rlim_t soft, hard;
	} limits[] = {
		{ RLIMIT_CORE, 0, 0 },
		{ RLIMIT_NPROC, pids_max ? pids_max : RLIM_INFINITY, pids_max ? pids_max : RLIM_INFINITY },
		{ RLIMIT_MEMLOCK, 8u << 20, 8u << 20 },
		{ RLIMIT_MSGQUEUE, 819200, 819200 },
		{ RLIMIT_SIGPENDING, 4096, 4096 },
		{ RLIMIT_NICE, 0, 0 },
		{ RLIMIT_RTPRIO, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		struct rlimit have, want = { .rlim_cur = limits[i].soft, .rlim_max = limits[i].hard };

		if (getrlimit((__rlimit_resource_t)limits[i].which, &have) < 0)
			return err_errno(e, errno, "getrlimit %d", limits[i].which);
		/* Only ever downwards: raising a hard limit needs a right over the host. */
		want.rlim_max = MIN(want.rlim_max, have.rlim_max);
		want.rlim_cur = MIN(want.rlim_cur, want.rlim_max);
		if (setrlimit((__rlimit_resource_t)limits[i].which, &want) < 0)
			return err_errno(e, errno, "setrlimit %d", limits[i].which);
	}
	return 0;
}

/* So that nproc(1) and every runtime's default pool size tell what the sandbox was given. The CPUs differ
 * from sandbox to sandbox; the quota is the cgroup's. */
static int set_cpus(uint32_t cpus, struct err *e)
{
	cpu_set_t have, want;
	unsigned int start, n;

	if (sched_getaffinity(0, sizeof(have), &have) < 0)
		return err_errno(e, errno, "sched_getaffinity");
	n = (unsigned int)CPU_COUNT(&have);
	if (cpus >= n)
		return 0;
	text_random(&start, sizeof(start));
	CPU_ZERO(&want);
	for (unsigned int i = 0, seen = 0; i < CPU_SETSIZE && seen < n; i++) {
		if (!CPU_ISSET(i, &have))
			continue;
		if ((seen + n - start % n) % n < cpus)
			CPU_SET(i, &want);
		seen++;
	}
	if (sched_setaffinity(0, sizeof(want), &want) < 0)
		return err_errno(e, errno, "sched_setaffinity");
	return 0;
}

int isolate_limit_files(struct err *e)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return err_errno(e, errno, "getrlimit %d", RLIMIT_NOFILE);
	l.rlim_max = MIN((rlim_t)FILES_HARD, l.rlim_max / 4 * 3);
	l.rlim_cur = MIN((rlim_t)FILES_SOFT, l.rlim_max);
	return setrlimit(RLIMIT_NOFILE, &l) < 0 ? err_errno(e, errno, "setrlimit %d", RLIMIT_NOFILE) : 0;
}

int isolate_drop(const struct isolate_filter *f, uint32_t cpus, uint32_t pids_max, struct err *e)
{
	struct sock_fprog prog = { .len = f->length, .filter = f->program };
	int r = set_limits(pids_max, e);

	if (r >= 0)
		r = set_cpus(cpus, e);
	if (r >= 0)
		r = drop_caps(e);
	if (r < 0)
		return r;
	umask(022);
	/* Nobody in the sandbox may trace PID 1 or read its memory, whatever id it has (ptrace(2)). */
	if (prctl(PR_SET_DUMPABLE, 0) < 0)
		return err_errno(e, errno, "PR_SET_DUMPABLE");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(e, errno, "PR_SET_NO_NEW_PRIVS");
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) < 0)
		return err_errno(e, errno, "seccomp");
	return 0;
}
