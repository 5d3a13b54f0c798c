/* Kills a process just before it makes the Nth system call that leaves something behind, so that a test can have it
 * die at each step of what it does and not only at lucky moments.
 *
 *   killat daemon PID N   counts those of PID and of the processes it forks; kills PID
 *   killat worker PID N   counts those of the processes PID forks; kills the one
 *   killat run N PROGRAM ARGUMENT...   counts those of all of its processes; kills all
 *
 * Prints "ready", and "killed NAME" if it came to that; ends when told to (SIGTERM) or when there is nothing left.
 * ptrace(2), PTRACE_SEIZE: the tracee goes on when this ends. */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/ptrace.h>

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE)
#define SEEN_MAX 4096

static const struct {
	long nr;
	const char *name;
} counted[] = {
	{ SYS_renameat, "renameat" },	{ SYS_renameat2, "renameat2" }, { SYS_unlinkat, "unlinkat" },
	{ SYS_linkat, "linkat" },	{ SYS_mkdirat, "mkdirat" },	{ SYS_fsync, "fsync" },
	{ SYS_fdatasync, "fdatasync" }, { SYS_pwrite64, "pwrite64" },	{ SYS_ftruncate, "ftruncate" },
	{ SYS_symlinkat, "symlinkat" },
#ifdef SYS_rename
	{ SYS_rename, "rename" },	{ SYS_unlink, "unlink" },	{ SYS_link, "link" },
#endif
};

static pid_t seen[SEEN_MAX];
static size_t n_seen;

static void note(pid_t pid)
{
	for (size_t i = 0; i < n_seen; i++)
		if (seen[i] == pid)
			return;
	if (n_seen < SEEN_MAX)
		seen[n_seen++] = pid;
}

static const char *name_of(pid_t pid)
{
	struct ptrace_syscall_info info;

	if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(info), &info) <= 0 || info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return NULL;
	for (size_t i = 0; i < sizeof(counted) / sizeof(counted[0]); i++)
		if ((long)info.entry.nr == counted[i].nr)
			return counted[i].name;
	return NULL;
}

static pid_t start(char **argv)
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)raise(SIGSTOP);
		(void)execv(argv[0], argv);
		_exit(127);
	}
	(void)waitpid(pid, NULL, WUNTRACED);
	return pid;
}

/* True when it is over. */
static int on_stop(pid_t pid, int status, pid_t target, const char *mode, long *left)
{
	const char *name;
	int sig = WSTOPSIG(status), event = status >> 16;

	note(pid);
	if (sig == (SIGTRAP | 0x80) && (strcmp(mode, "worker") != 0 || pid != target)) {
		name = name_of(pid);
		if (name && --*left == 0) {
			(void)printf("killed %s\n", name); /* first: it may be told to end any time */
			if (strcmp(mode, "run") == 0)
				for (size_t i = 0; i < n_seen; i++)
					(void)kill(seen[i], SIGKILL);
			else
				(void)kill(strcmp(mode, "daemon") == 0 ? target : pid, SIGKILL);
			return 1;
		}
	}
	/* A group-stop or the first stop of a new one is an event; anything else without one is a signal of its own. */
	(void)ptrace(PTRACE_SYSCALL, pid, NULL, event || sig == (SIGTRAP | 0x80) || sig == SIGTRAP ? 0L : (long)sig);
	return 0;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 3 ? argv[1] : "";
	int run = strcmp(mode, "run") == 0, status;
	pid_t target, pid;
	long left;

	if (!run && strcmp(mode, "daemon") != 0 && strcmp(mode, "worker") != 0)
		return 2;
	left = strtol(argv[run ? 2 : 3], NULL, 10);
	target = run ? start(argv + 3) : (pid_t)strtol(argv[2], NULL, 10);
	if (ptrace(PTRACE_SEIZE, target, NULL, (void *)OPTIONS) < 0) {
		perror("ptrace");
		return 3;
	}
	note(target);
	(void)ptrace(PTRACE_INTERRUPT, target, NULL, NULL);
	if (run)
		(void)kill(target, SIGCONT);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	(void)puts("ready");
	while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (pid > 0 && WIFSTOPPED(status) && on_stop(pid, status, target, mode, &left))
			return 0;
		if (run && pid == target && (WIFEXITED(status) || WIFSIGNALED(status)))
			return WIFEXITED(status) ? 10 + (WEXITSTATUS(status) != 0) : 12;
	}
	return 0;
}
