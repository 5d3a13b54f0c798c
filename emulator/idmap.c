#include "emulator/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

/* Theory of operation
 *
 * user_namespaces(7): a process that unshares gets all capabilities in the new namespace but is nobody
 * there until somebody writes its map. With more than the caller's own id in it, that somebody must be
 * privileged in the parent: root itself, or newuidmap(1), setuid root, which allows what /etc/subuid
 * lists. So the child unshares and waits, the parent writes, the child goes on as id 0.
 *
 * Started by root, the range is a fixed one above systemd's container range (524288..1879048191,
 * systemd.io/UIDS-GIDS) and below 2^31. It must not vary: files in the state dir carry it. */
#define ROOT_RANGE_FIRST 0x71000000u

/* True when the ids first..first+n-1 exist in our own user namespace (we may be root in a container). */
static bool ids_exist(const char *proc_map, uint64_t first, uint64_t n)
{
	_cleanup_fclose_ FILE *f = fopen(proc_map, "re");
	unsigned long long inside, outside, count;

	while (f && fscanf(f, "%llu %llu %llu", &inside, &outside, &count) == 3)
		if (first >= inside && first + n <= inside + count)
			return true;
	return false;
}

/* The first range of at least IDMAP_SANDBOX_IDS that the file gives to the user, by name or by number. */
static bool subid_range(const char *file, const char *name, uid_t uid, uint32_t *ret_first)
{
	_cleanup_fclose_ FILE *f = fopen(file, "re");
	char line[256], number[16];

	(void)snprintf(number, sizeof(number), "%u", uid);
	while (f && fgets(line, sizeof(line), f)) {
		char *save, *who = strtok_r(line, ":\n", &save);
		char *first = strtok_r(NULL, ":\n", &save), *count = strtok_r(NULL, ":\n", &save);
		uint64_t a, n;

		if (!who || !first || !count || (strcmp(who, name) != 0 && strcmp(who, number) != 0))
			continue;
		if (text_parse_u64(first, 1, UINT32_MAX, &a) < 0 || text_parse_u64(count, 1, UINT32_MAX, &n) < 0)
			continue;
		if (n >= IDMAP_SANDBOX_IDS) {
			*ret_first = (uint32_t)a;
			return true;
		}
	}
	return false;
}

static void choose_single(struct idmap *m, const char *why)
{
	m->kind = IDMAP_SINGLE;
	m->own_uid = m->caller_uid;
	m->own_gid = m->caller_gid;
	m->first_uid = m->caller_uid;
	m->first_gid = m->caller_gid;
	(void)snprintf(m->why_single, sizeof(m->why_single), "%s", why);
}

void idmap_choose(struct idmap *ret)
{
	struct idmap m = { .caller_uid = geteuid(), .caller_gid = getegid() };
	const struct passwd *pw;

	if (m.caller_uid == 0) {
		m.own_uid = m.own_gid = ROOT_RANGE_FIRST;
		m.first_uid = m.first_gid = ROOT_RANGE_FIRST + 1;
		m.kind = IDMAP_ROOT;
		if (!ids_exist("/proc/self/uid_map", m.own_uid, IDMAP_SANDBOX_IDS + 1) ||
		    !ids_exist("/proc/self/gid_map", m.own_gid, IDMAP_SANDBOX_IDS + 1))
			choose_single(&m, "this root is inside a user namespace without the ids for a range");
		*ret = m;
		return;
	}
	pw = getpwuid(m.caller_uid);
	m.kind = IDMAP_SUBUID;
	m.own_uid = m.caller_uid;
	m.own_gid = m.caller_gid;
	if (!subid_range("/etc/subuid", pw ? pw->pw_name : "", m.caller_uid, &m.first_uid) ||
	    !subid_range("/etc/subgid", pw ? pw->pw_name : "", m.caller_uid, &m.first_gid))
		choose_single(&m, "no range of 65536 ids in /etc/subuid and /etc/subgid");
	else if (access("/usr/bin/newuidmap", X_OK) < 0 || access("/usr/bin/newgidmap", X_OK) < 0)
		choose_single(&m, "newuidmap is missing (package uidmap)");
	*ret = m;
}

/* Runs newuidmap/newgidmap PID 0 own 1 1 first 65536. */
static int run_newidmap(const char *program, pid_t pid, uint32_t own, uint32_t first, struct err *e)
{
	char pid_s[16], own_s[16], first_s[16], count_s[16];
	char *const argv[] = { (char *)(uintptr_t)program,
			       pid_s,
			       (char[]){ "0" },
			       own_s,
			       (char[]){ "1" },
			       (char[]){ "1" },
			       first_s,
			       count_s,
			       NULL };
	char *const env[] = { NULL };
	int status, r;
	pid_t child;

	(void)snprintf(pid_s, sizeof(pid_s), "%d", pid);
	(void)snprintf(own_s, sizeof(own_s), "%u", own);
	(void)snprintf(first_s, sizeof(first_s), "%u", first);
	(void)snprintf(count_s, sizeof(count_s), "%u", IDMAP_SANDBOX_IDS);
	r = posix_spawn(&child, program, NULL, NULL, argv, env);
	if (r != 0)
		return err_errno(e, r, "%s", program);
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(e, errno, "waiting for %s", program);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(e, ERR_UNAVAILABLE, EPERM, "idmap",
			       "%s refused the range %u:%u; check /etc/subuid and /etc/subgid", program, first,
			       IDMAP_SANDBOX_IDS);
	return 0;
}

static int write_map(pid_t pid, const char *file, uint32_t own, uint32_t first, bool single, struct err *e)
{
	char path[64], map[96];
	int r;

	(void)snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	if (single)
		(void)snprintf(map, sizeof(map), "0 %u 1\n", own);
	else
		(void)snprintf(map, sizeof(map), "0 %u 1\n1 %u %u\n", own, first, IDMAP_SANDBOX_IDS);
	r = fd_write_file(AT_FDCWD, path, map);
	if (r < 0)
		return err_errno(e, -r, "writing %s", file);
	return 0;
}

static int write_maps(const struct idmap *m, pid_t pid, struct err *e)
{
	bool single = m->kind == IDMAP_SINGLE;
	char path[64];
	int r;

	if (m->kind == IDMAP_SUBUID) {
		r = run_newidmap("/usr/bin/newuidmap", pid, m->own_uid, m->first_uid, e);
		return r < 0 ? r : run_newidmap("/usr/bin/newgidmap", pid, m->own_gid, m->first_gid, e);
	}
	if (single && m->caller_uid != 0) {
		/* user_namespaces(7): an unprivileged gid_map needs setgroups(2) given up first. */
		(void)snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
		r = fd_write_file(AT_FDCWD, path, "deny");
		if (r < 0)
			return err_errno(e, -r, "writing setgroups");
	}
	r = write_map(pid, "uid_map", m->own_uid, m->first_uid, single, e);
	return r < 0 ? r : write_map(pid, "gid_map", m->own_gid, m->first_gid, single, e);
}

/* The last step of both ways in: id 0, no other groups. */
static int become_zero(bool single, struct err *e)
{
	if (setgroups(0, NULL) < 0 && !single)
		return err_errno(e, errno, "setgroups");
	if (setresgid(0, 0, 0) < 0)
		return err_errno(e, errno, "setresgid");
	if (setresuid(0, 0, 0) < 0)
		return err_errno(e, errno, "setresuid");
	/* A change of ids makes a process undumpable, and its /proc files root's; the keeper must write its
	 * children's uid_map (proc(5), "dumpable"). */
	(void)prctl(PR_SET_DUMPABLE, 1);
	return 0;
}

static int refused(struct err *e, int errnum)
{
	char on[8] = "";

	if (fd_read_file(AT_FDCWD, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", on, sizeof(on)) > 0 &&
	    on[0] == '1')
		return err_set(e, ERR_UNAVAILABLE, errnum, "userns",
			       "AppArmor keeps ordinary users from user namespaces on this host; run `orkestr-emulator "
			       "doctor` "
			       "for the profile, or: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0");
	return err_set(e, ERR_UNAVAILABLE, errnum, "userns",
		       "this host refuses user namespaces (%s); see user.max_user_namespaces and "
		       "kernel.unprivileged_userns_clone in sysctl",
		       strerror(errnum));
}

struct spawn_sync {
	int to_child, from_child;
};

static _noreturn_ void spawned_child(const struct idmap *m, struct spawn_sync s, int (*fn)(void *), void *arg)
{
	struct err e = ERR_INIT;
	int errnum = 0;
	char go;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		errnum = errno;
	if (fd_write_all(s.from_child, &errnum, sizeof(errnum)) < 0 || errnum != 0)
		_exit(127);
	if (fd_read_all(s.to_child, &go, 1) != 1)
		_exit(127);
	(void)close(s.to_child);
	errnum = 0;
	if (become_zero(m->kind == IDMAP_SINGLE, &e) < 0)
		errnum = e.errnum;
	/* Nothing mounted here may reach the host (mount_namespaces(7), "Shared subtrees"). */
	else if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		errnum = errno;
	if (fd_write_all(s.from_child, &errnum, sizeof(errnum)) < 0 || errnum != 0)
		_exit(127);
	(void)close(s.from_child);
	_exit(fn(arg));
}

/* The parent's half of the hand-shake with a forked child. */
static int spawn_parent(const struct idmap *m, pid_t pid, struct spawn_sync s, int *ret_userns_fd, struct err *e)
{
	_cleanup_close_ int ns = -1;
	char path[64];
	int errnum, r;

	if (fd_read_all(s.from_child, &errnum, sizeof(errnum)) != sizeof(errnum))
		return err_set(e, ERR_INTERNAL, EIO, NULL, "the process for the user namespace died at once");
	if (errnum != 0)
		return refused(e, errnum);
	r = write_maps(m, pid, e);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0)
		return err_errno(e, errno, "opening the user namespace");
	r = fd_write_all(s.to_child, "g", 1);
	if (r < 0)
		return err_errno(e, -r, "starting the process in the user namespace");
	if (fd_read_all(s.from_child, &errnum, sizeof(errnum)) != sizeof(errnum) || errnum != 0)
		return refused(e, errnum > 0 ? errnum : EPERM);
	if (ret_userns_fd)
		*ret_userns_fd = TAKE_FD(ns);
	return 0;
}

int idmap_spawn(const struct idmap *m, int (*fn)(void *arg), void *arg, pid_t *ret_pid, int *ret_userns_fd,
		struct err *e)
{
	int down[2], up[2], r, status;
	pid_t pid;

	if (pipe2(down, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	if (pipe2(up, O_CLOEXEC) < 0) {
		r = err_errno(e, errno, "pipe");
		(void)close(down[0]);
		(void)close(down[1]);
		return r;
	}
	pid = fork();
	if (pid == 0) {
		(void)close(down[1]);
		(void)close(up[0]);
		spawned_child(m, (struct spawn_sync){ .to_child = down[0], .from_child = up[1] }, fn, arg);
	}
	r = pid < 0 ? err_errno(e, errno, "fork") : 0;
	(void)close(down[0]);
	(void)close(up[1]);
	if (pid > 0) {
		r = spawn_parent(m, pid, (struct spawn_sync){ .to_child = down[1], .from_child = up[0] }, ret_userns_fd,
				 e);
		if (r < 0) {
			(void)kill(pid, SIGKILL);
			while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
				;
		}
	}
	(void)close(down[1]);
	(void)close(up[0]);
	if (r >= 0)
		*ret_pid = pid;
	return r;
}

int idmap_enter(const struct idmap *m, int userns_fd, struct err *e)
{
	if (setns(userns_fd, CLONE_NEWUSER) < 0)
		return err_errno(e, errno, "entering the user namespace");
	return become_zero(m->kind == IDMAP_SINGLE, e);
}

const char *idmap_sandbox_map(const struct idmap *m)
{
	return m->kind == IDMAP_SINGLE ? "0 0 1\n" : "0 1 65536\n";
}

uid_t idmap_sandbox_uid(const struct idmap *m, uid_t id)
{
	return m->kind == IDMAP_SINGLE ? 0 : id + 1;
}
