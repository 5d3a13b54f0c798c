/* emulator/files.h as the daemon has it: id 0 of a user namespace E, working on mounts that belong to the
 * sandbox's namespace nested in it, where E's 0 does not exist. A child becomes E, its child the sandbox. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "emulator/base/fd.h"
#include "emulator/files.h"

#define SANDBOX_ROOT 1u /* E's id of the sandbox's 0 */

/* A child in namespaces of its own waits here until its parent has written its maps. */
static void become_root(int ready, int go)
{
	char c;

	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0 || write(ready, "u", 1) != 1 || read(go, &c, 1) != 1)
		_exit(101);
	if (setgid(0) < 0 || setuid(0) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
		_exit(102);
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		_exit(103);
}

static void map_child(pid_t pid, int ready, int go, const char *map)
{
	char path[64], c;

	if (read(ready, &c, 1) != 1)
		_exit(104);
	(void)snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	if (fd_write_file(AT_FDCWD, path, map) < 0)
		_exit(105);
	(void)snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	if (fd_write_file(AT_FDCWD, path, map) < 0 || write(go, "g", 1) != 1)
		_exit(106);
}

/* /mnt a tmpfs, /mnt/m an overlay whose lower layer has d (0700, of id 7) with lower in it, and tree/a/b. */
static void make_sandbox(int ready)
{
	const char *answer = "r";
	bool ok = mount("tmpfs", "/mnt", "tmpfs", 0, NULL) == 0 && mkdir("/mnt/l", 0755) == 0 &&
		  mkdir("/mnt/u", 0755) == 0 && mkdir("/mnt/w", 0755) == 0 && mkdir("/mnt/m", 0755) == 0 &&
		  mkdir("/mnt/l/d", 0700) == 0 && mkdir("/mnt/l/tree", 0755) == 0 &&
		  mkdir("/mnt/l/tree/a", 0755) == 0 && mknod("/mnt/l/tree/a/b", S_IFREG | 0644, 0) == 0 &&
		  mknod("/mnt/l/d/lower", S_IFREG | 0751, 0) == 0 && chown("/mnt/l/d/lower", 7, 8) == 0 &&
		  chown("/mnt/l/d", 7, 7) == 0;

	ok = ok &&
	     mount("overlay", "/mnt/m", "overlay", 0, "lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w,userxattr") == 0;
	/* An overlay removes a folder of its lower layer by a user xattr on the upper one's (tmpfs: since Linux 6.6). */
	if (ok && setxattr("/mnt/u", "user.test", "1", 1, 0) < 0)
		answer = "x";
	if (write(ready, ok ? answer : "f", 1) != 1 || !ok)
		_exit(107);
	(void)pause();
	_exit(0);
}

static int fail(const char *what, const struct err *e)
{
	(void)fprintf(stderr, "%s: %s\n", what, e->msg);
	return 1;
}

static bool is(const struct files_ctx *c, const char *name, uid_t uid, gid_t gid, mode_t mode)
{
	struct stat st;

	return fstatat(c->root_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_uid == uid && st.st_gid == gid &&
	       (st.st_mode & 07777) == mode;
}

static int put(const struct files_ctx *c, const char *path, struct err *e)
{
	struct files_write *w = NULL;
	int r = files_write_begin(c, path, UINT32_MAX, &w, e);

	if (r < 0)
		return r;
	r = files_write_data(w, "data", 4, e);
	if (r < 0) {
		files_write_abort(w);
		return r;
	}
	return files_write_commit(w, NULL, e);
}

static int try_files(const struct files_ctx *c)
{
	struct err e = ERR_INIT;
	int sig = 0;

	if (mkdirat(c->root_fd, "as-e", 0755) == 0 || errno != EOVERFLOW)
		return fail("the kernel's rule that this is about", &e);
	if (prctl(PR_SET_PDEATHSIG, SIGUSR2) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
		return fail("prctl", &e);
	if (put(c, "/new/folder/file", &e) < 0)
		return fail("write", &e);
	if (!is(c, "new", 1, 1, 0755) || !is(c, "new/folder/file", 1, 1, 0644))
		return fail("owner of what is new", &e);
	if (put(c, "/d/lower", &e) < 0)
		return fail("write over", &e);
	if (!is(c, "d/lower", 8, 9, 0751))
		return fail("owner of what was there", &e);
	if (put(c, "/d/other", &e) < 0 || !is(c, "d/other", 1, 1, 0644))
		return fail("write into another's 0700 folder", &e);
	if (files_remove(c, "/d/lower", false, &e) < 0 || files_remove(c, "/tree", true, &e) < 0)
		return fail("remove", &e);
	if (faccessat(c->root_fd, "tree", F_OK, 0) == 0 || faccessat(c->root_fd, "d/lower", F_OK, 0) == 0)
		return fail("what was removed is there", &e);
	if (put(c, "/tree/a/b", &e) < 0 || files_remove(c, "/tree", true, &e) < 0)
		return fail("again", &e);
	if (prctl(PR_GET_PDEATHSIG, &sig) < 0 || sig != SIGUSR2 || prctl(PR_GET_DUMPABLE) != 1)
		return fail("the process is as it was", &e);
	return 0;
}

/* The daemon's part: returns an exit status, 77 where the host has no user namespaces. */
static int be_the_daemon(void)
{
	int ready[2], go[2], status = 0;
	char path[64], c = 0;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0 || pipe2(go, O_CLOEXEC) < 0)
		return 100;
	pid = fork();
	if (pid == 0) {
		become_root(ready[1], go[0]);
		make_sandbox(ready[1]);
	}
	map_child(pid, ready[0], go[1], "0 1 65536");
	if (read(ready[0], &c, 1) != 1 || c != 'r')
		status = c == 'x' ? 78 : 77;
	for (int i = 0; i < 2 && status == 0; i++) {
		struct files_ctx ctx = { .uid = SANDBOX_ROOT };

		/* The overlay, then a tmpfs: the sandbox's folders are there too, for the second go. */
		(void)snprintf(path, sizeof(path), "/proc/%d/root/mnt/%s", pid, i == 0 ? "m" : "l");
		ctx.root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		status = try_files(&ctx);
		closep(&ctx.root_fd);
	}
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
	return status;
}

Test(files_userns, works_on_mounts_of_the_nested_namespace, .timeout = 30)
{
	int ready[2], go[2], status = 0;
	pid_t pid;

	cr_assert(pipe2(ready, O_CLOEXEC) == 0 && pipe2(go, O_CLOEXEC) == 0);
	if (geteuid() != 0)
		cr_skip_test("needs root to write the map of a range of ids");
	pid = fork();
	if (pid == 0) {
		become_root(ready[1], go[0]);
		_exit(be_the_daemon());
	}
	map_child(pid, ready[0], go[1], "0 100000 65537");
	cr_assert(waitpid(pid, &status, 0) == pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		cr_skip_test("no overlay in a user namespace here");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 78)
		cr_skip_test("a tmpfs takes no user xattrs here");
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %x", status);
}
