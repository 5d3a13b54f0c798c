/* The system calls a sandbox may make: what programs, compilers, databases and package managers use. What
 * is not named answers ENOSYS, as an older kernel would, so libraries fall back; what exists but is not
 * for a sandbox answers EPERM, so people see why. The default of Docker's profile was the yardstick for
 * completeness (moby/profiles, seccomp/default.json). */

#include <errno.h>
#include <linux/filter.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/isolate.h"

static const char *const allowed[] = {
	/* files */
	"access",
	"chdir",
	"chmod",
	"chown",
	"close",
	"close_range",
	"copy_file_range",
	"creat",
	"dup",
	"dup2",
	"dup3",
	"faccessat",
	"faccessat2",
	"fadvise64",
	"fallocate",
	"fchdir",
	"fchmod",
	"fchmodat",
	"fchmodat2",
	"fchown",
	"fchownat",
	"fcntl",
	"fdatasync",
	"fgetxattr",
	"flistxattr",
	"flock",
	"fremovexattr",
	"fsetxattr",
	"fstat",
	"fstatfs",
	"fsync",
	"ftruncate",
	"futimesat",
	"getcwd",
	"getdents",
	"getdents64",
	"getxattr",
	"ioctl",
	"lchown",
	"lgetxattr",
	"link",
	"linkat",
	"listxattr",
	"llistxattr",
	"lremovexattr",
	"lseek",
	"lsetxattr",
	"lstat",
	"mkdir",
	"mkdirat",
	"mknod",
	"mknodat",
	"name_to_handle_at",
	"newfstatat",
	"open",
	"openat",
	"openat2",
	"pipe",
	"pipe2",
	"pread64",
	"preadv",
	"preadv2",
	"pwrite64",
	"pwritev",
	"pwritev2",
	"read",
	"readahead",
	"readlink",
	"readlinkat",
	"readv",
	"removexattr",
	"rename",
	"renameat",
	"renameat2",
	"rmdir",
	"sendfile",
	"setxattr",
	"splice",
	"stat",
	"statfs",
	"statx",
	"symlink",
	"symlinkat",
	"sync",
	"sync_file_range",
	"syncfs",
	"tee",
	"truncate",
	"umask",
	"unlink",
	"unlinkat",
	"utime",
	"utimensat",
	"utimes",
	"vmsplice",
	"write",
	"writev",
	"cachestat",
	"inotify_add_watch",
	"inotify_init",
	"inotify_init1",
	"inotify_rm_watch",
	"chroot",
	/* memory */
	"brk",
	"madvise",
	"membarrier",
	"memfd_create",
	"mincore",
	"mlock",
	"mlock2",
	"mlockall",
	"mmap",
	"mprotect",
	"mremap",
	"msync",
	"munlock",
	"munlockall",
	"munmap",
	"pkey_alloc",
	"pkey_free",
	"pkey_mprotect",
	"process_madvise",
	"process_mrelease",
	"remap_file_pages",
	"memfd_secret",
	"map_shadow_stack",
	/* processes and threads */
	"arch_prctl",
	"execve",
	"execveat",
	"exit",
	"exit_group",
	"fork",
	"futex",
	"futex_waitv",
	"futex_wake",
	"futex_wait",
	"futex_requeue",
	"get_robust_list",
	"get_thread_area",
	"getcpu",
	"getpgid",
	"getpgrp",
	"getpid",
	"getpriority",
	"getrlimit",
	"getrusage",
	"getsid",
	"gettid",
	"getppid",
	"kill",
	"landlock_add_rule",
	"landlock_create_ruleset",
	"landlock_restrict_self",
	"pidfd_getfd",
	"pidfd_open",
	"pidfd_send_signal",
	"prctl",
	"prlimit64",
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"kcmp",
	"restart_syscall",
	"rseq",
	"rt_sigaction",
	"rt_sigpending",
	"rt_sigprocmask",
	"rt_sigqueueinfo",
	"rt_sigreturn",
	"rt_sigsuspend",
	"rt_sigtimedwait",
	"rt_tgsigqueueinfo",
	"sched_get_priority_max",
	"sched_get_priority_min",
	"sched_getaffinity",
	"sched_getattr",
	"sched_getparam",
	"sched_getscheduler",
	"sched_rr_get_interval",
	"sched_setaffinity",
	"sched_setattr",
	"sched_setparam",
	"sched_setscheduler",
	"sched_yield",
	"seccomp",
	"set_robust_list",
	"set_thread_area",
	"set_tid_address",
	"setpgid",
	"setpriority",
	"setrlimit",
	"setsid",
	"sigaltstack",
	"tgkill",
	"tkill",
	"vfork",
	"wait4",
	"waitid",
	"capget",
	"capset",
	"getegid",
	"geteuid",
	"getgid",
	"getgroups",
	"getresgid",
	"getresuid",
	"getuid",
	"setfsgid",
	"setfsuid",
	"setgid",
	"setgroups",
	"setregid",
	"setresgid",
	"setresuid",
	"setreuid",
	"setuid",
	"ioprio_get",
	"ioprio_set",
	"alarm",
	"pause",
	"uname",
	"sysinfo",
	"times",
	/* time and events */
	"clock_getres",
	"clock_gettime",
	"clock_nanosleep",
	"adjtimex",
	"clock_adjtime",
	"epoll_create",
	"epoll_create1",
	"epoll_ctl",
	"epoll_ctl_old",
	"epoll_pwait",
	"epoll_pwait2",
	"epoll_wait",
	"epoll_wait_old",
	"eventfd",
	"eventfd2",
	"getitimer",
	"gettimeofday",
	"nanosleep",
	"poll",
	"ppoll",
	"pselect6",
	"select",
	"setitimer",
	"signalfd",
	"signalfd4",
	"time",
	"timer_create",
	"timer_delete",
	"timer_getoverrun",
	"timer_gettime",
	"timer_settime",
	"timerfd_create",
	"timerfd_gettime",
	"timerfd_settime",
	"getrandom",
	"io_cancel",
	"io_destroy",
	"io_getevents",
	"io_pgetevents",
	"io_setup",
	"io_submit",
	/* sockets and System V IPC, of its own namespaces */
	"accept",
	"accept4",
	"bind",
	"connect",
	"getpeername",
	"getsockname",
	"getsockopt",
	"listen",
	"recvfrom",
	"recvmmsg",
	"recvmsg",
	"sendmmsg",
	"sendmsg",
	"sendto",
	"setsockopt",
	"shutdown",
	"socketpair",
	"mq_getsetattr",
	"mq_notify",
	"mq_open",
	"mq_timedreceive",
	"mq_timedsend",
	"mq_unlink",
	"msgctl",
	"msgget",
	"msgrcv",
	"msgsnd",
	"semctl",
	"semget",
	"semop",
	"semtimedop",
	"shmat",
	"shmctl",
	"shmdt",
	"shmget",
};

/* TIOCSTI and its like need no rule: no terminal of the host's is ever open in a sandbox. */

/* Exists, and is for the host's administrator: EPERM says so. */
static const char *const refused[] = {
	"acct",
	"add_key",
	"bpf",
	"clock_settime",
	"delete_module",
	"fanotify_init",
	"finit_module",
	"fsconfig",
	"fsmount",
	"fsopen",
	"fspick",
	"init_module",
	"ioperm",
	"iopl",
	"io_uring_enter",
	"io_uring_register",
	"io_uring_setup",
	"kexec_file_load",
	"kexec_load",
	"keyctl",
	"lookup_dcookie",
	"mbind",
	"migrate_pages",
	"mount",
	"mount_setattr",
	"move_mount",
	"move_pages",
	"nfsservctl",
	"open_by_handle_at",
	"open_tree",
	"perf_event_open",
	"pivot_root",
	"quotactl",
	"quotactl_fd",
	"reboot",
	"request_key",
	"set_mempolicy",
	"setdomainname",
	"setns",
	"sethostname",
	"settimeofday",
	"stime",
	"swapoff",
	"swapon",
	"syslog",
	"umount",
	"umount2",
	"unshare",
	"uselib",
	"userfaultfd",
	"ustat",
	"vhangup",
	"_sysctl",
	"get_mempolicy",
};

static int rules_by_name(scmp_filter_ctx ctx, uint32_t action, const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int nr = seccomp_syscall_resolve_name(names[i]), r;

		if (nr == __NR_SCMP_ERROR || nr < 0)
			continue; /* unknown to this libseccomp or to this architecture */
		r = seccomp_rule_add(ctx, action, nr, 0);
		if (r < 0 && r != -EEXIST)
			return r;
	}
	return 0;
}

#define NEW_NAMESPACES                                                                                                 \
	((scmp_datum_t)(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET |      \
			CLONE_NEWCGROUP))

static int rules_by_argument(scmp_filter_ctx ctx)
{
	static const int families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK };
	static const scmp_datum_t personas[] = { 0x0, 0x0008, 0x20000, 0x20008, 0xffffffff, 0x40000 };
	int r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				 SCMP_A0(SCMP_CMP_MASKED_EQ, NEW_NAMESPACES, 0));

	for (scmp_datum_t bit = 1; r >= 0 && bit <= NEW_NAMESPACES; bit <<= 1)
		if (bit & NEW_NAMESPACES)
			r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
					     SCMP_A0(SCMP_CMP_MASKED_EQ, bit, bit));
	/* clone3's flags hide behind a pointer: by the default, ENOSYS, the C library falls back to clone(2). */
	/* Packet, vsock, bluetooth and the other families only widen what of the kernel can be reached. */
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(families); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
				     SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i], 0));
	for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(personas); i++)
		r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1,
				     SCMP_A0(SCMP_CMP_EQ, personas[i], 0));
	return r;
}

static int export_program(scmp_filter_ctx ctx, struct isolate_filter *ret, struct err *e)
{
	_cleanup_close_ int fd = memfd_create("seccomp", MFD_CLOEXEC);
	_cleanup_free_ void *p = NULL;
	struct stat st;
	int r;

	if (fd < 0)
		return err_errno(e, errno, "memfd_create");
	r = seccomp_export_bpf(ctx, fd);
	if (r < 0)
		return err_errno(e, -r, "seccomp_export_bpf");
	if (fstat(fd, &st) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return err_errno(e, errno, "reading the filter");
	if (st.st_size <= 0 || (size_t)st.st_size / sizeof(struct sock_filter) > BPF_MAXINSNS)
		return err_set(e, ERR_INTERNAL, E2BIG, NULL, "the system-call filter is too long");
	p = malloc((size_t)st.st_size);
	if (!p)
		return err_errno(e, ENOMEM, "the system-call filter");
	if (fd_read_all(fd, p, (size_t)st.st_size) != st.st_size)
		return err_errno(e, EIO, "reading the filter");
	ret->length = (unsigned short)((size_t)st.st_size / sizeof(struct sock_filter));
	ret->program = TAKE_PTR(p);
	return 0;
}

int isolate_filter_build(struct isolate_filter *ret, struct err *e)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int r;

	if (!ctx)
		return err_errno(e, ENOMEM, "seccomp_init");
	/* A binary search instead of a chain: the cost of a call no longer depends on its place in the list. */
	r = seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (r >= 0)
		r = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
	if (r >= 0)
		r = rules_by_name(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_SIZE(allowed));
	if (r >= 0)
		r = rules_by_argument(ctx);
	if (r >= 0)
		r = rules_by_name(ctx, SCMP_ACT_ERRNO(EPERM), refused, ARRAY_SIZE(refused));
	if (r < 0)
		err_errno(e, -r, "building the system-call filter");
	else
		r = export_program(ctx, ret, e);
	seccomp_release(ctx);
	return r;
}
