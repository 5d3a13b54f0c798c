#include "tests/bench/floor.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"

static const char *const folders[] = { "", "/u", "/u/proc", "/w", "/m" };

int floor_prepare(const char *dir, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		char path[512];

		if (text_format(path, sizeof(path), "%s%s", dir, folders[i]) < 0)
			return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the folder's name is too long");
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_errno(e, errno, "can't make %s", path);
	}
	return 0;
}

void floor_remove(const char *dir)
{
	static const char *const made[] = { "/m", "/w/work", "/w", "/u/proc", "/u", "" };

	for (size_t i = 0; i < ARRAY_SIZE(made); i++) {
		char path[512];

		if (text_format(path, sizeof(path), "%s%s", dir, made[i]) > 0)
			(void)rmdir(path);
	}
}

struct job {
	char uid_map[32], gid_map[32], overlay[1600], merged[512], proc[520];
	char *const *argv;
	int report; /* where the step that failed is named */
};

static _noreturn_ void fail(const struct job *j, const char *step)
{
	char line[160];
	int n = snprintf(line, sizeof(line), "%s: %s", step, strerror(errno));

	if (n > 0)
		(void)fd_write_all(j->report, line, MIN((size_t)n, sizeof(line) - 1));
	_exit(127);
}

static _noreturn_ void child(const struct job *j)
{
	if (fd_write_file(AT_FDCWD, "/proc/self/setgroups", "deny") < 0 ||
	    fd_write_file(AT_FDCWD, "/proc/self/uid_map", j->uid_map) < 0 ||
	    fd_write_file(AT_FDCWD, "/proc/self/gid_map", j->gid_map) < 0)
		fail(j, "id map");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail(j, "private mounts");
	if (mount("overlay", j->merged, "overlay", 0, j->overlay) < 0)
		fail(j, "overlay");
	if (mount("proc", j->proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		fail(j, "proc");
	if (chdir(j->merged) < 0 || sys_pivot_root(".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		fail(j, "pivot_root");
	(void)execve(j->argv[0], j->argv, environ);
	fail(j, "exec");
}

int floor_run(const char *dir, char *const argv[], struct err *e)
{
	struct clone_args args = {
		.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
			 CLONE_NEWCGROUP,
		.exit_signal = SIGCHLD,
	};
	struct job j = { .argv = argv };
	_cleanup_close_ int in = -1, out = -1;
	char why[160];
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	if (text_format(j.uid_map, sizeof(j.uid_map), "0 %u 1", (unsigned int)geteuid()) < 0 ||
	    text_format(j.gid_map, sizeof(j.gid_map), "0 %u 1", (unsigned int)getegid()) < 0 ||
	    text_format(j.merged, sizeof(j.merged), "%s/m", dir) < 0 ||
	    text_format(j.proc, sizeof(j.proc), "%s/proc", j.merged) < 0 ||
	    text_format(j.overlay, sizeof(j.overlay), "lowerdir=/usr,upperdir=%s/u,workdir=%s/w,userxattr", dir, dir) <
		    0)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, NULL, "the folder's name is too long");
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_errno(e, errno, "can't make a pipe");
	in = fds[0];
	out = fds[1];
	j.report = out;
	pid = sys_clone3(&args);
	if (pid < 0)
		return err_errno(e, -pid, "clone3");
	if (pid == 0)
		child(&j);
	closep(&out);
	n = fd_read_all(in, why, sizeof(why) - 1);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (n > 0) {
		why[n] = '\0';
		return err_set(e, ERR_UNSUPPORTED, ENOTSUP, NULL, "%s", why);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(e, ERR_IO, EIO, NULL, "the command ended with status %#x", (unsigned int)status);
	return 0;
}
