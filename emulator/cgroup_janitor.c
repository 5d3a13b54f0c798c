/* The janitor: who removes the emulator's cgroup folders when nobody of the emulator is left.
 *
 * The folder that holds our subtree lies in a directory the emulator's own id has no right to (v1, and v2
 * without systemd), and on v2 the emulator's processes stay inside until they die. So neither the daemon,
 * nor anyone after a kill -9, could take it away. The janitor can: it is forked while the launcher still
 * has the caller's rights, and all it ever does is wait for the end of a pipe ("leash") whose other end
 * every process of the emulator holds, then rmdir, then exit. It reads no input, keeps one capability
 * (CAP_DAC_OVERRIDE, as the folders inside belong to another id by then) and never kills anything.
 *
 * Another emulator may start with the same name meanwhile and adopt the folder. It holds a shared lock on
 * it (cgroup_make_top); the janitor removes only what it can lock exclusively. */

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "emulator/base/sys.h"
#include "emulator/cgroup-internal.h"

#define JANITOR_TRIES 100 /* with pauses from 1 to 200 ms between them: about 17 s */

/* 0 when the tree is gone; -EBUSY while something is inside or another emulator has it. The lock of a
 * process that is just dying counts too: the kernel may close the leash before it lets go of the lock. */
static int sweep_tree(int parent_fd, const char *top)
{
	_cleanup_close_ int fd = cgroup_open_dir(parent_fd, top);

	if (fd < 0)
		return 0;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -EBUSY;
	return cgroup_remove_tree(parent_fd, top, 3);
}

static void keep_one_capability(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { 0 };

	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_capget, &h, d) < 0)
		return;
	d[0].effective &= 1u << CAP_DAC_OVERRIDE;
	d[0].permitted = d[0].effective;
	d[0].inheritable = d[1].effective = d[1].permitted = d[1].inheritable = 0;
	(void)syscall(SYS_capset, &h, d);
}

/* Gives up every descriptor but these, moved to 3 and up in order; standard ones become /dev/null. */
static int keep_only(int *fds, size_t n)
{
	int null;

	for (size_t i = 0; i < n; i++) {
		fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + 2 * CGROUP_MAX_TREES);
		if (fds[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < n; i++) {
		if (dup3(fds[i], 3 + (int)i, O_CLOEXEC) < 0)
			return -errno;
		fds[i] = 3 + (int)i;
	}
	(void)sys_close_range(3 + (unsigned int)n, ~0u, 0);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++)
		if (null < 0 || dup2(null, i) < 0)
			(void)close(i);
	closep(&null);
	return 0;
}

static _noreturn_ void janitor(const char *top, int *fds, size_t n)
{
	struct timespec pause = { .tv_nsec = 1000000 };
	sigset_t all;
	char c;

	/* A terminal's Ctrl-C is for the emulator, not for who cleans up behind it. */
	(void)setsid();
	(void)sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, NULL);
	(void)prctl(PR_SET_NAME, "orkestr-janitor");
	(void)!chdir("/");
	if (keep_only(fds, n) < 0)
		_exit(1);
	keep_one_capability();
	while (read(fds[0], &c, 1) != 0)
		;
	for (int i = 0; i < JANITOR_TRIES; i++) {
		bool busy = false;

		for (size_t k = 1; k < n; k++)
			busy |= sweep_tree(fds[k], top) == -EBUSY;
		if (!busy)
			break;
		(void)nanosleep(&pause, NULL);
		pause.tv_nsec = MIN(pause.tv_nsec * 2, 200000000L);
	}
	_exit(0);
}

int cgroup_janitor_start(struct cgroup_root *r, struct err *e)
{
	int fds[1 + CGROUP_MAX_TREES], pipe_fds[2], status;
	size_t n = 0;
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_errno(e, errno, "pipe");
	fds[n++] = pipe_fds[0];
	for (size_t i = 0; i < r->n_trees; i++)
		if (r->tree[i].parent_fd >= 0)
			fds[n++] = r->tree[i].parent_fd;
	pid = fork();
	if (pid == 0) {
		/* Twice, so that it is nobody's child whom the launcher would have to reap. */
		pid = fork();
		if (pid == 0)
			janitor(r->top, fds, n);
		_exit(pid < 0 ? 1 : 0);
	}
	closep(&pipe_fds[0]);
	r->leash = pipe_fds[1];
	if (pid < 0)
		return err_errno(e, errno, "fork");
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_errno(e, errno, "waitpid");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(e, ERR_CAPACITY, EAGAIN, NULL, "could not start the cgroup janitor");
	return 0;
}
