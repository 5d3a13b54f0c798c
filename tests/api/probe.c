/* What the root of a sandbox may try, as raw system calls. Built static, put into a sandbox and run there
 * by test_isolation.py; prints one JSON line an attempt: {"name", "ok", "errno"} (or "signal": the attempt
 * runs in a child of its own). It decides nothing; the test knows what must fail and how. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_fsopen
#define SYS_fsopen 430
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif

static long raw(long nr, long a, long b, long c, long d, long e)
{
	return syscall(nr, a, b, c, d, e, 0L);
}

static long try_mount_tmpfs(void)
{
	return mount("none", "/mnt", "tmpfs", 0, NULL);
}
static long try_mount_proc(void)
{
	return mount("proc", "/mnt", "proc", 0, NULL);
}
static long try_mount_bind(void)
{
	return mount("/etc", "/mnt", NULL, MS_BIND, NULL);
}
static long try_mount_remount(void)
{
	return mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL);
}
static long try_mount_propagation(void)
{
	return mount(NULL, "/", NULL, MS_SHARED | MS_REC, NULL);
}
static long try_mount_cgroup2(void)
{
	return mount("cgroup2", "/mnt", "cgroup2", 0, NULL);
}
static long try_mount_cgroup1(void)
{
	return mount("cgroup", "/mnt", "cgroup", 0, "memory");
}
static long try_mount_overlay(void)
{
	return mount("overlay", "/mnt", "overlay", 0, "lowerdir=/etc:/usr");
}
static long try_umount_proc(void)
{
	return umount2("/proc", MNT_DETACH);
}
static long try_umount_root(void)
{
	return umount2("/", MNT_DETACH);
}
static long try_fsopen(void)
{
	return raw(SYS_fsopen, (long)"tmpfs", 0, 0, 0, 0);
}
static long try_open_tree(void)
{
	return raw(SYS_open_tree, AT_FDCWD, (long)"/etc", 1 /* OPEN_TREE_CLONE */, 0, 0);
}
static long try_mount_setattr(void)
{
	return raw(SYS_mount_setattr, AT_FDCWD, (long)"/", 0, 0, 0);
}
static long try_pivot_root(void)
{
	return raw(SYS_pivot_root, (long)"/mnt", (long)"/mnt", 0, 0, 0);
}

static long try_unshare_user(void)
{
	return unshare(CLONE_NEWUSER);
}
static long try_unshare_mount(void)
{
	return unshare(CLONE_NEWNS);
}
static long try_unshare_net(void)
{
	return unshare(CLONE_NEWNET);
}
static long try_unshare_pid(void)
{
	return unshare(CLONE_NEWPID);
}
static long try_unshare_cgroup(void)
{
	return unshare(CLONE_NEWCGROUP);
}
static long try_clone_user(void)
{
	long pid = raw(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		_exit(0);
	return pid;
}
static long try_clone3_user(void)
{
	uint64_t args[11] = { CLONE_NEWUSER };
	long pid;

	args[4] = SIGCHLD; /* exit_signal */
	pid = raw(SYS_clone3, (long)args, sizeof(args), 0, 0, 0);
	if (pid == 0)
		_exit(0);
	return pid;
}
static long setns_of(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -1 : setns(fd, 0);
}
static long try_setns_own_mnt(void)
{
	return setns_of("/proc/self/ns/mnt");
}
static long try_setns_init_user(void)
{
	return setns_of("/proc/1/ns/user");
}

static long try_init_module(void)
{
	return raw(SYS_init_module, (long)"x", 1, (long)"", 0, 0);
}
static long try_finit_module(void)
{
	return raw(SYS_finit_module, 0, (long)"", 0, 0, 0);
}
static long try_delete_module(void)
{
	return raw(SYS_delete_module, (long)"x", 0, 0, 0, 0);
}
static long try_kexec_load(void)
{
	return raw(SYS_kexec_load, 0, 0, 0, 0, 0);
}
#ifdef SYS_kexec_file_load
static long try_kexec_file_load(void)
{
	return raw(SYS_kexec_file_load, 0, 0, 0, 0, 0);
}
#endif
/* CAD_OFF changes nothing that matters should it succeed (in a pid namespace: EINVAL once allowed). */
static long try_reboot(void)
{
	return reboot(RB_DISABLE_CAD);
}
static long try_swapon(void)
{
	return raw(SYS_swapon, (long)"/tmp/x", 0, 0, 0, 0);
}
static long try_swapoff(void)
{
	return raw(SYS_swapoff, (long)"/tmp/x", 0, 0, 0, 0);
}
static long try_acct(void)
{
	return acct("/tmp/acct");
}
static long try_syslog(void)
{
	static char text[4096];

	return raw(SYS_syslog, 3 /* read all */, (long)text, sizeof(text), 0, 0);
}
static long try_bpf(void)
{
	uint32_t attr[32] = { 2 /* array */, 4, 4, 1 };

	return raw(SYS_bpf, 0 /* map create */, (long)attr, sizeof(attr), 0, 0);
}
static long try_perf_event_open(void)
{
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE,
					.size = sizeof(attr),
					.config = PERF_COUNT_SW_TASK_CLOCK };

	return raw(SYS_perf_event_open, (long)&attr, 0, -1, -1, 0);
}
static long try_userfaultfd(void)
{
	return raw(SYS_userfaultfd, O_CLOEXEC | 1, 0, 0, 0, 0);
}
static long try_io_uring_setup(void)
{
	static char params[256];

	return raw(425, 4, (long)params, 0, 0, 0);
}
static long try_add_key(void)
{
	return raw(SYS_add_key, (long)"user", (long)"probe", (long)"x", 1, KEY_SPEC_SESSION_KEYRING);
}
static long try_keyctl(void)
{
	return raw(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_USER_KEYRING, 1, 0, 0);
}
static long try_request_key(void)
{
	return raw(SYS_request_key, (long)"user", (long)"probe", 0, 0, 0);
}
static long try_open_by_handle(void)
{
	static struct {
		struct file_handle h;
		char data[128];
	} handle = { .h = { .handle_bytes = 8, .handle_type = 1 } };

	return open_by_handle_at(AT_FDCWD, &handle.h, O_RDONLY);
}
static long try_ioperm(void)
{
#ifdef SYS_ioperm
	return raw(SYS_ioperm, 0x70, 1, 1, 0, 0);
#else
	errno = ENOSYS;
	return -1;
#endif
}
static long try_iopl(void)
{
#ifdef SYS_iopl
	return raw(SYS_iopl, 3, 0, 0, 0, 0);
#else
	errno = ENOSYS;
	return -1;
#endif
}
static long try_clock_settime(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return clock_settime(CLOCK_REALTIME, &now);
}
static long try_settimeofday(void)
{
	struct timeval now;

	gettimeofday(&now, NULL);
	return settimeofday(&now, NULL);
}
static long try_nice(void)
{
	return setpriority(PRIO_PROCESS, 0, -10);
}
static long try_realtime(void)
{
	struct sched_param p = { .sched_priority = 50 };

	return sched_setscheduler(0, SCHED_FIFO, &p);
}
static long try_raise_rlimit(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) < 0)
		return -1;
	l.rlim_cur = l.rlim_max = l.rlim_max + 1;
	return setrlimit(RLIMIT_NOFILE, &l);
}
static long try_raise_core(void)
{
	struct rlimit l = { 1 << 20, 1 << 20 };

	return setrlimit(RLIMIT_CORE, &l);
}
static long try_mlock_huge(void)
{
	size_t n = (size_t)64 << 30;
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? -1 : mlock(p, n);
}

static long try_ptrace_init(void)
{
	return ptrace(PTRACE_ATTACH, 1, NULL, NULL);
}
static long try_vm_read_init(void)
{
	char byte;
	struct iovec local = { &byte, 1 }, remote = { (void *)0x400000, 1 };

	return process_vm_readv(1, &local, 1, &remote, 1, 0);
}
static long read_of(const char *path)
{
	char byte;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -1 : read(fd, &byte, 1);
}
static long write_of(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd < 0 ? -1 : write(fd, text, strlen(text));
}
static long try_read_init_environ(void)
{
	return read_of("/proc/1/environ");
}
static long try_read_init_mem(void)
{
	return open("/proc/1/mem", O_RDWR | O_CLOEXEC);
}
static long try_open_init_exe(void)
{
	return open("/proc/1/exe", O_WRONLY | O_CLOEXEC);
}
static long try_read_init_exe(void)
{
	return read_of("/proc/1/exe");
}
static long try_list_init_fds(void)
{
	int fd = open("/proc/1/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char buf[1024];

	return fd < 0 ? -1 : syscall(SYS_getdents64, fd, buf, sizeof(buf));
}
static long try_init_root(void)
{
	return open("/proc/1/root/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}
static long try_pidfd_getfd_init(void)
{
	long pidfd = raw(434, 1, 0, 0, 0, 0);

	return pidfd < 0 ? -1 : raw(438, pidfd, 3, 0, 0, 0);
}

static long mknod_and_open(mode_t kind, dev_t dev)
{
	const char *path = "/tmp/probe-node";

	unlink(path);
	if (mknod(path, kind | 0666, dev) < 0)
		return -1;
	return open(path, O_RDWR | O_CLOEXEC);
}
static long try_dev_mem(void)
{
	return mknod_and_open(S_IFCHR, makedev(1, 1));
}
static long try_dev_kmsg(void)
{
	return mknod_and_open(S_IFCHR, makedev(1, 11));
}
static long try_dev_fuse(void)
{
	return mknod_and_open(S_IFCHR, makedev(10, 229));
}
static long try_dev_kvm(void)
{
	return mknod_and_open(S_IFCHR, makedev(10, 232));
}
static long try_dev_tun(void)
{
	return mknod_and_open(S_IFCHR, makedev(10, 200));
}
static long try_dev_loop(void)
{
	return mknod_and_open(S_IFBLK, makedev(7, 0));
}
static long try_dev_sda(void)
{
	return mknod_and_open(S_IFBLK, makedev(8, 0));
}
static long try_dev_vda(void)
{
	return mknod_and_open(S_IFBLK, makedev(254, 0));
}

static long try_write_core_pattern(void)
{
	return write_of("/proc/sys/kernel/core_pattern", "core");
}
static long try_write_hostname(void)
{
	return write_of("/proc/sys/kernel/hostname", "evil");
}
static long try_write_overcommit(void)
{
	return write_of("/proc/sys/vm/overcommit_memory", "0");
}
static long try_write_sysrq(void)
{
	return write_of("/proc/sysrq-trigger", "h");
}
static long try_write_modprobe(void)
{
	return write_of("/proc/sys/kernel/modprobe", "/sbin/modprobe");
}
static long try_write_binfmt(void)
{
	return write_of("/proc/sys/fs/binfmt_misc/register", ":x:M::x::/bin/sh:");
}
static long try_write_uevent_helper(void)
{
	return write_of("/sys/kernel/uevent_helper", "");
}
static long try_read_kcore(void)
{
	return read_of("/proc/kcore");
}
static long try_read_kmsg(void)
{
	return read_of("/proc/kmsg");
}
static long try_read_sched_debug(void)
{
	return read_of("/sys/kernel/debug/sched/debug");
}
static long try_read_keys(void)
{
	return read_of("/proc/keys");
}
static long try_read_firmware(void)
{
	return open("/sys/firmware/acpi", O_RDONLY | O_DIRECTORY);
}
static long try_lower_oom_score(void)
{
	return write_of("/proc/self/oom_score_adj", "-1000");
}

static long try_raw_socket(void)
{
	return socket(AF_INET, SOCK_RAW, 1);
}
static long try_packet_socket(void)
{
	return socket(AF_PACKET, SOCK_RAW, 0);
}
static long try_vsock(void)
{
	return socket(40, SOCK_STREAM, 0);
}
static long try_alg_socket(void)
{
	return socket(38, SOCK_SEQPACKET, 0);
}
static long try_setdomainname(void)
{
	return setdomainname("evil", 4);
}
static long try_chroot(void)
{
	return chroot("/tmp");
}
static long try_personality(void)
{
	return raw(SYS_personality, 0x0400000 /* READ_IMPLIES_EXEC */, 0, 0, 0, 0);
}
static long try_quotactl(void)
{
	return raw(SYS_quotactl, 0, 0, 0, 0, 0);
}
static long try_fanotify(void)
{
	return raw(SYS_fanotify_init, 0, 0, 0, 0, 0);
}
static long try_tiocsti(void)
{
	char c = 'x';

	return raw(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, (long)&c, 0, 0);
}
static long try_set_dumpable_regain_caps(void)
{
	struct __user_cap_header_struct h = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct d[2] = { { ~0u, ~0u, ~0u }, { ~0u, ~0u, ~0u } };

	return raw(SYS_capset, (long)&h, (long)d, 0, 0, 0);
}

/* What must work, so that "everything fails" is not mistaken for isolation. */
static long try_fork(void)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	return pid;
}
static long try_tmp_file(void)
{
	return open("/tmp/probe-file", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
}
static long try_chown(void)
{
	return try_tmp_file() < 0 ? -1 : chown("/tmp/probe-file", 1000, 1000);
}
static long try_setuid(void)
{
	return setuid(1000);
}
static long try_unix_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}
static long try_memfd(void)
{
	return memfd_create("x", 0);
}
static long try_null(void)
{
	return write_of("/dev/null", "x");
}
static long try_urandom(void)
{
	return read_of("/dev/urandom");
}
static long try_own_mem(void)
{
	return open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
}
static long try_ptrace_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	long got = ptrace(PTRACE_ATTACH, pid, NULL, NULL);
	int saved = errno;

	kill(pid, SIGKILL);
	errno = saved;
	return got;
}

#define ATTEMPT(name)                                                                                                  \
	{                                                                                                              \
#name, try_##name                                                                                      \
	}
static const struct {
	const char *name;
	long (*run)(void);
} attempts[] = {
	ATTEMPT(mount_tmpfs),
	ATTEMPT(mount_proc),
	ATTEMPT(mount_bind),
	ATTEMPT(mount_remount),
	ATTEMPT(mount_propagation),
	ATTEMPT(mount_cgroup2),
	ATTEMPT(mount_cgroup1),
	ATTEMPT(mount_overlay),
	ATTEMPT(umount_proc),
	ATTEMPT(umount_root),
	ATTEMPT(fsopen),
	ATTEMPT(open_tree),
	ATTEMPT(mount_setattr),
	ATTEMPT(pivot_root),
	ATTEMPT(unshare_user),
	ATTEMPT(unshare_mount),
	ATTEMPT(unshare_net),
	ATTEMPT(unshare_pid),
	ATTEMPT(unshare_cgroup),
	ATTEMPT(clone_user),
	ATTEMPT(clone3_user),
	ATTEMPT(setns_own_mnt),
	ATTEMPT(setns_init_user),
	ATTEMPT(init_module),
	ATTEMPT(finit_module),
	ATTEMPT(delete_module),
	ATTEMPT(kexec_load),
#ifdef SYS_kexec_file_load
	ATTEMPT(kexec_file_load),
#endif
	ATTEMPT(reboot),
	ATTEMPT(swapon),
	ATTEMPT(swapoff),
	ATTEMPT(acct),
	ATTEMPT(syslog),
	ATTEMPT(bpf),
	ATTEMPT(perf_event_open),
	ATTEMPT(userfaultfd),
	ATTEMPT(io_uring_setup),
	ATTEMPT(add_key),
	ATTEMPT(keyctl),
	ATTEMPT(request_key),
	ATTEMPT(open_by_handle),
	ATTEMPT(ioperm),
	ATTEMPT(iopl),
	ATTEMPT(clock_settime),
	ATTEMPT(settimeofday),
	ATTEMPT(nice),
	ATTEMPT(realtime),
	ATTEMPT(raise_rlimit),
	ATTEMPT(raise_core),
	ATTEMPT(mlock_huge),
	ATTEMPT(ptrace_init),
	ATTEMPT(vm_read_init),
	ATTEMPT(read_init_environ),
	ATTEMPT(read_init_mem),
	ATTEMPT(open_init_exe),
	ATTEMPT(read_init_exe),
	ATTEMPT(list_init_fds),
	ATTEMPT(init_root),
	ATTEMPT(pidfd_getfd_init),
	ATTEMPT(dev_mem),
	ATTEMPT(dev_kmsg),
	ATTEMPT(dev_fuse),
	ATTEMPT(dev_kvm),
	ATTEMPT(dev_tun),
	ATTEMPT(dev_loop),
	ATTEMPT(dev_sda),
	ATTEMPT(dev_vda),
	ATTEMPT(write_core_pattern),
	ATTEMPT(write_hostname),
	ATTEMPT(write_overcommit),
	ATTEMPT(write_sysrq),
	ATTEMPT(write_modprobe),
	ATTEMPT(write_binfmt),
	ATTEMPT(write_uevent_helper),
	ATTEMPT(read_kcore),
	ATTEMPT(read_kmsg),
	ATTEMPT(read_sched_debug),
	ATTEMPT(read_keys),
	ATTEMPT(read_firmware),
	ATTEMPT(lower_oom_score),
	ATTEMPT(raw_socket),
	ATTEMPT(packet_socket),
	ATTEMPT(vsock),
	ATTEMPT(alg_socket),
	ATTEMPT(setdomainname),
	ATTEMPT(chroot),
	ATTEMPT(personality),
	ATTEMPT(quotactl),
	ATTEMPT(fanotify),
	ATTEMPT(tiocsti),
	ATTEMPT(set_dumpable_regain_caps),
	ATTEMPT(fork),
	ATTEMPT(tmp_file),
	ATTEMPT(chown),
	ATTEMPT(setuid),
	ATTEMPT(unix_socket),
	ATTEMPT(memfd),
	ATTEMPT(null),
	ATTEMPT(urandom),
	ATTEMPT(own_mem),
	ATTEMPT(ptrace_child),
};

static void run(const char *name, long (*attempt)(void))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		alarm(10);
		errno = 0;
		long got = attempt();
		int saved = errno;

		if (got >= 0)
			printf("{\"name\": \"%s\", \"ok\": true, \"value\": %ld}\n", name, got);
		else
			printf("{\"name\": \"%s\", \"ok\": false, \"errno\": \"%s\"}\n", name, strerrorname_np(saved));
		fflush(stdout);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		printf("{\"name\": \"%s\", \"ok\": false, \"errno\": \"NOT-RUN\"}\n", name);
	else if (WIFSIGNALED(status))
		printf("{\"name\": \"%s\", \"ok\": false, \"signal\": %d}\n", name, WTERMSIG(status));
}

/* Eats memory until something stops it. */
static int hog(void)
{
	for (;;) {
		char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return 3;
		memset(p, 1, 1 << 20);
	}
}

/* Forks until something stops it, and stays; prints how far it came. */
static int forks(void)
{
	int n = 0;
	pid_t pid;

	while ((pid = fork()) > 0 && n < 200000)
		n++;
	if (pid == 0) {
		pause();
		_exit(0);
	}
	printf("%d %s\n", n, pid < 0 ? strerrorname_np(errno) : "none");
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "hog") == 0)
		return hog();
	if (argc > 1 && strcmp(argv[1], "forks") == 0)
		return forks();
	if (argc > 1 && strcmp(argv[1], "crash") == 0)
		raise(SIGSEGV);
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
		run(attempts[i].name, attempts[i].run);
	return 0;
}
