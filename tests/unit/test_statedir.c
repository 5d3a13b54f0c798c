#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "emulator/statedir.h"
#include "rootfs/tree.h"

#define OWN 54321u  /* what root gives its state dir to */
#define USER 54322u /* an ordinary user */

static char top[64];

static const struct idmap root_map = { .kind = IDMAP_ROOT, .own_uid = OWN, .own_gid = OWN };
static const struct idmap user_map = {
	.kind = IDMAP_SINGLE, .caller_uid = USER, .caller_gid = USER, .own_uid = USER, .own_gid = USER
};

static void enter(void)
{
	if (geteuid() != 0)
		cr_skip_test("needs root, to be other users");
	(void)snprintf(top, sizeof(top), "/tmp/orkestr-state-XXXXXX");
	cr_assert_not_null(mkdtemp(top));
	cr_assert_eq(chdir(top), 0);
	(void)unsetenv("XDG_STATE_HOME");
}

static void leave(void)
{
	int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct err e = ERR_INIT;

	if (geteuid() != 0)
		return;
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(tree_remove(tmp, top + 5, &e), 0, "%s", e.msg);
	(void)close(tmp);
}

TestSuite(statedir, .init = enter, .fini = leave);

static char got[PATH_MAX];

static int try_open(const char *path, const struct idmap *m, struct err *e)
{
	int fd = -1, r;

	*e = ERR_INIT;
	got[0] = '\0';
	r = statedir_open(path, m, &fd, got, sizeof(got), e);
	cr_assert_eq(r < 0, fd < 0);
	return r < 0 ? r : fd;
}

static int must_open(const char *path, const struct idmap *m)
{
	struct err e;
	int fd = try_open(path, m, &e);

	cr_assert_geq(fd, 0, "%s: %s", path, e.msg);
	return fd;
}

static void refused(const char *path, const struct idmap *m, enum err_kind kind, const char *says)
{
	struct err e;

	cr_assert_lt(try_open(path, m, &e), 0, "took %s", path);
	cr_assert_eq(e.kind, kind, "%s: %s", err_kind_name(e.kind), e.msg);
	cr_assert_not_null(strstr(e.msg, says), "%s", e.msg);
}

static struct stat stat_of(const char *path)
{
	struct stat st;

	cr_assert_eq(lstat(path, &st), 0, "%s", path);
	return st;
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0, "%s", path);
	cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	(void)close(fd);
}

/* Runs fn as an ordinary user; its cr_asserts can't be seen from there, so it says 0 or not. */
static int as(uid_t id, int (*fn)(void))
{
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0) {
		if (setgroups(0, NULL) < 0 || setresgid(id, id, id) < 0 || setresuid(id, id, id) < 0)
			_exit(99);
		_exit(fn());
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 98;
}

Test(statedir, made_new_with_its_parents)
{
	char want[PATH_MAX], marker[128];
	int fd = must_open("a/b//c/", &root_map);

	(void)snprintf(want, sizeof(want), "%s/a/b/c", top);
	cr_assert_str_eq(got, want);
	cr_assert_eq(stat_of("a").st_mode & 07777, 0755u);
	cr_assert_eq(stat_of("a/b").st_uid, 0u);
	cr_assert_eq(stat_of("a/b/c").st_mode & 07777, 0700u);
	cr_assert_eq(stat_of("a/b/c").st_uid, OWN);
	cr_assert_eq(stat_of("a/b/c").st_gid, OWN);
	cr_assert_eq(stat_of("a/b/c/" STATEDIR_MARKER).st_uid, OWN);
	cr_assert_gt(fd_read_file(fd, STATEDIR_MARKER, marker, sizeof(marker)), 0);
	cr_assert_str_eq(marker, "orkestr-emulator state dir, format 1\n");
	cr_assert_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	cr_assert_eq(fchdir(fd), 0);
	cr_assert_eq(chdir(top), 0);
	(void)close(fd);
	put("a/b/c/orkestr.db", "x"); /* again, with something in it */
	(void)close(must_open("a/b/c", &root_map));
	(void)close(must_open("./a/../a/b/c/.", &root_map));
	cr_assert_str_eq(got, want);
}

Test(statedir, an_empty_folder_of_the_callers_is_taken)
{
	cr_assert_eq(mkdir("d", 0755), 0);
	(void)close(must_open("d", &root_map));
	cr_assert_eq(stat_of("d").st_mode & 07777, 0700u);
	cr_assert_eq(stat_of("d").st_uid, OWN);
}

Test(statedir, a_start_that_was_cut_short_is_no_obstacle)
{
	cr_assert_eq(mkdir("d", 0700), 0);
	put("d/" STATEDIR_MARKER, ""); /* made, not yet written */
	(void)close(must_open("d", &root_map));
	cr_assert_eq(chown("d", 0, 0), 0); /* marked, not yet given away */
	(void)close(must_open("d", &root_map));
	cr_assert_eq(stat_of("d").st_uid, OWN);
}

Test(statedir, folders_with_something_else_in_them_are_left_alone)
{
	static const char *const markers[] = { "orkestr-emulator state dir, format 0\n",
					       "orkestr-emulator state dir, format x\n",
					       "orkestr-emulator state dir, format \n",
					       "orkestr-emulator state dir, format 1",
					       "my notes\n",
					       "orkestr-emulator state dir, format 99999999999999999999\n" };

	cr_assert_eq(mkdir("d", 0755), 0);
	put("d/thesis.tex", "\\begin{document}");
	refused("d", &root_map, ERR_EXISTS, "is not empty and is no state dir");
	put("d/" STATEDIR_MARKER, "");
	refused("d", &root_map, ERR_EXISTS, "is not empty and is no state dir");
	cr_assert_eq(unlink("d/thesis.tex"), 0);
	for (size_t i = 0; i < ARRAY_SIZE(markers); i++) {
		put("d/" STATEDIR_MARKER, markers[i]);
		refused("d", &root_map, ERR_EXISTS, "is no state dir");
	}
	cr_assert_eq(unlink("d/" STATEDIR_MARKER), 0);
	cr_assert_eq(symlink("/etc/hostname", "d/" STATEDIR_MARKER), 0);
	refused("d", &root_map, ERR_EXISTS, "is no state dir");
	cr_assert_eq(stat_of("d").st_mode & 07777, 0755u);
	cr_assert_eq(stat_of("d").st_uid, 0u);
	refused("/", &root_map, ERR_EXISTS, "cannot be a state dir");
	refused("/etc", &root_map, ERR_EXISTS, "is no state dir");
	refused("", &root_map, ERR_INVALID, "empty");
}

Test(statedir, a_newer_format_is_refused)
{
	(void)close(must_open("d", &root_map));
	put("d/" STATEDIR_MARKER, "orkestr-emulator state dir, format 2\n");
	refused("d", &root_map, ERR_UNSUPPORTED, "newer orkestr-emulator (format 2, this one knows 1)");
}

Test(statedir, other_users_folders_are_refused)
{
	cr_assert_eq(mkdir("d", 0777), 0);
	cr_assert_eq(chown("d", USER, USER), 0);
	refused("d", &root_map, ERR_DENIED, "uid 54322; run as that user, or pass another --state-dir");
	cr_assert_eq(chown("d", 0, 0), 0);
	refused("d", &user_map, ERR_DENIED, "root, uid 0");
	cr_assert_eq(stat_of("d").st_uid, 0u);
	/* One with rows of another id range in it. */
	(void)close(must_open("e", &root_map));
	put("e/orkestr.db", "x");
	cr_assert_eq(chown("e", 0, 0), 0);
	refused("e", &root_map, ERR_DENIED, "was made for uid 0");
}

Test(statedir, what_is_no_folder)
{
	put("file", "x");
	refused("file", &root_map, ERR_EXISTS, "is no folder");
	refused("file/below", &root_map, ERR_IO, "cannot");
	cr_assert_eq(mkfifo("fifo", 0600), 0);
	refused("fifo", &root_map, ERR_EXISTS, "is no folder");
	(void)close(must_open("d", &root_map));
	cr_assert_eq(unlink("d/" STATEDIR_MARKER), 0);
	cr_assert_eq(mkfifo("d/" STATEDIR_MARKER, 0600), 0); /* must not block either */
	put("d/x", "x");
	refused("d", &root_map, ERR_EXISTS, "is no state dir");
}

Test(statedir, symlinks)
{
	char want[PATH_MAX];

	cr_assert_eq(mkdir("real", 0700), 0);
	cr_assert_eq(symlink("real", "mine"), 0);
	(void)close(must_open("mine", &root_map));
	(void)snprintf(want, sizeof(want), "%s/real", top);
	cr_assert_str_eq(got, want);
	cr_assert_eq(stat_of("real").st_uid, OWN);
	cr_assert_eq(mkdir("other", 0700), 0);
	cr_assert_eq(symlink("other", "theirs"), 0);
	cr_assert_eq(lchown("theirs", USER, USER), 0);
	refused("theirs", &root_map, ERR_DENIED, "symlink of another user (uid 54322)");
	cr_assert_eq(stat_of("other").st_uid, 0u);
	cr_assert_eq(symlink("mine", "chain"), 0);
	refused("chain", &root_map, ERR_INVALID, "is a symlink to mine");
	cr_assert_eq(symlink("nowhere", "dangling"), 0);
	cr_assert_eq(statedir_open_existing("dangling", &root_map, &(int){ -1 }, got, sizeof(got), NULL), -ENOENT);
	cr_assert_eq(access("nowhere", F_OK), -1);
	(void)close(must_open("dangling", &root_map)); /* after `clean`, for one */
	cr_assert_eq(stat_of("nowhere").st_uid, OWN);
	cr_assert_eq(symlink("no/where", "deep"), 0);
	refused("deep", &root_map, ERR_NOT_FOUND, "is a symlink to no/where, which cannot be made");
}

static int user_below_a_closed_folder(void)
{
	struct err e = ERR_INIT;
	char path[PATH_MAX];
	int fd = -1;

	if (chdir("home") < 0)
		return 1;
	if (statedir_open("state/deep", &user_map, &fd, path, sizeof(path), &e) < 0) {
		(void)dprintf(STDERR_FILENO, "%s\n", e.msg);
		return 2;
	}
	return statedir_lock(fd, &e) < 0 ? 3 : 0;
}

static int user_default(void)
{
	struct err e = ERR_INIT;
	char path[PATH_MAX], home[PATH_MAX], want[2 * PATH_MAX];
	int fd = -1;

	(void)snprintf(home, sizeof(home), "%s/home", top);
	(void)setenv("HOME", home, 1);
	if (statedir_open(NULL, &user_map, &fd, path, sizeof(path), &e) < 0)
		return 1;
	(void)snprintf(want, sizeof(want), "%s/.local/state/orkestr-emulator", home);
	if (strcmp(path, want) != 0)
		return 2;
	(void)setenv("XDG_STATE_HOME", "not/absolute", 1);
	if (statedir_open(NULL, &user_map, &fd, path, sizeof(path), &e) < 0 || strcmp(path, want) != 0)
		return 3;
	(void)snprintf(want, sizeof(want), "%s/xdg", home);
	(void)setenv("XDG_STATE_HOME", want, 1);
	(void)snprintf(want, sizeof(want), "%s/xdg/orkestr-emulator", home);
	if (statedir_open(NULL, &user_map, &fd, path, sizeof(path), &e) < 0 || strcmp(path, want) != 0)
		return 4;
	(void)unsetenv("XDG_STATE_HOME");
	(void)unsetenv("HOME"); /* and uid 54322 is in no passwd */
	if (statedir_open(NULL, &user_map, &fd, path, sizeof(path), &e) >= 0 || !strstr(e.msg, "pass --state-dir"))
		return 5;
	return 0;
}

static int user_without_rights(void)
{
	struct err e = ERR_INIT;
	char path[PATH_MAX];
	int fd = -1;

	if (statedir_open("closed/state", &user_map, &fd, path, sizeof(path), &e) >= 0 || !strstr(e.msg, "closed"))
		return 1;
	if (statedir_open("readable/state", &user_map, &fd, path, sizeof(path), &e) >= 0 ||
	    !strstr(e.msg, "cannot make"))
		return 2;
	return 0;
}

Test(statedir, as_an_ordinary_user)
{
	cr_assert_eq(chmod(".", 0755), 0);
	cr_assert_eq(mkdir("home", 0700), 0);
	cr_assert_eq(chown("home", USER, USER), 0);
	cr_assert_eq(mkdir("closed", 0700), 0);
	cr_assert_eq(mkdir("readable", 0755), 0);
	cr_assert_eq(as(USER, user_below_a_closed_folder), 0);
	cr_assert_eq(stat_of("home/state").st_mode & 07777, 0700u);
	cr_assert_eq(stat_of("home/state/deep").st_uid, USER);
	cr_assert_eq(as(USER, user_default), 0);
	cr_assert_eq(as(USER, user_without_rights), 0);
}

static int held;

static int own_works_by_fd(void)
{
	struct err e = ERR_INIT;
	int fd;

	/* The parents are out of reach, the folder behind the fd is not. */
	if (access(top, X_OK) == 0 || fchdir(held) < 0)
		return 1;
	fd = open("file", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	return fd < 0 ? 2 : statedir_lock(held, &e) < 0 ? 3 : 0;
}

Test(statedir, the_unprivileged_id_works_on_it_below_a_closed_folder)
{
	struct err e = ERR_INIT;
	int lock;

	cr_assert_eq(stat_of(".").st_mode & 077, 0u);
	held = must_open("state", &root_map);
	lock = statedir_lock(held, &e); /* once by root, which must not leave a lock file of root's */
	cr_assert_geq(lock, 0, "%s", e.msg);
	(void)close(lock);
	cr_assert_eq(stat_of("state/" STATEDIR_LOCK).st_uid, OWN);
	cr_assert_eq(as(OWN, own_works_by_fd), 0);
	(void)close(held);
}

Test(statedir, existing_only)
{
	struct err e = ERR_INIT;
	int fd = -1;

	cr_assert_eq(statedir_open_existing("a/b", &root_map, &fd, got, sizeof(got), &e), -ENOENT);
	cr_assert_eq(e.kind, ERR_NOT_FOUND);
	cr_assert_eq(access("a", F_OK), -1);
	cr_assert_eq(mkdir("a", 0755), 0);
	cr_assert_eq(statedir_open_existing("a/b", &root_map, &fd, got, sizeof(got), &e), -ENOENT);
	cr_assert_eq(e.kind, ERR_NOT_FOUND);
	cr_assert_lt(statedir_open_existing("a", &root_map, &fd, got, sizeof(got), &e), 0);
	cr_assert_eq(e.kind, ERR_EXISTS, "%s", e.msg);
	cr_assert_eq(stat_of("a").st_uid, 0u);
	cr_assert_eq(stat_of("a").st_mode & 0777, 0755u);
	put("a/x", "x");
	cr_assert_lt(statedir_open_existing("a", &root_map, &fd, got, sizeof(got), &e), 0);
	cr_assert_eq(e.kind, ERR_EXISTS);
	(void)close(must_open("a/state", &root_map));
	cr_assert_eq(statedir_open_existing("a/state", &root_map, &fd, got, sizeof(got), &e), 0, "%s", e.msg);
	(void)close(fd);
}

Test(statedir, one_at_a_time)
{
	int fd = must_open("d", &root_map), go[2], lock, status;
	char want[PATH_MAX + 64], c;
	struct err e = ERR_INIT;
	pid_t pid;

	cr_assert_eq(pipe2(go, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		lock = statedir_lock(fd, NULL);
		(void)!write(go[1], lock < 0 ? "n" : "y", 1);
		(void)pause();
		_exit(0);
	}
	cr_assert_eq(read(go[0], &c, 1), 1);
	cr_assert_eq(c, 'y');
	cr_assert_eq(statedir_lock(fd, &e), -EBUSY);
	cr_assert_eq(e.kind, ERR_BUSY);
	(void)snprintf(want, sizeof(want), "another emulator (pid %d) uses %s/d; stop it or pass --state-dir", pid,
		       top);
	cr_assert_str_eq(e.msg, want);
	cr_assert_eq(kill(pid, SIGKILL), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	lock = statedir_lock(fd, &e); /* a death frees it */
	cr_assert_geq(lock, 0, "%s", e.msg);
	cr_assert_eq(statedir_lock(fd, &e), -EBUSY); /* also for ourselves */
	put("d/" STATEDIR_LOCK, "12; rm -rf /\n");
	cr_assert_eq(statedir_lock(fd, &e), -EBUSY);
	cr_assert_null(strstr(e.msg, "rm"));
	(void)close(lock);
	lock = statedir_lock(fd, &e);
	cr_assert_geq(lock, 0);
	(void)close(lock);
	(void)close(fd);
}

Test(statedir, a_lock_file_that_is_removed_locks_nothing)
{
	int fd = must_open("d", &root_map), a, b;
	struct err e = ERR_INIT;

	a = statedir_lock(fd, &e);
	cr_assert_geq(a, 0);
	cr_assert_eq(unlink("d/" STATEDIR_LOCK), 0);
	b = statedir_lock(fd, &e);
	cr_assert_geq(b, 0);
	cr_assert_eq(stat_of("d/" STATEDIR_LOCK).st_nlink, 1u);
	cr_assert_eq(unlink("d/" STATEDIR_LOCK), 0);
	cr_assert_eq(symlink("/etc/passwd", "d/" STATEDIR_LOCK), 0);
	cr_assert_lt(statedir_lock(fd, &e), 0);
	cr_assert_eq(e.kind, ERR_IO);
}

Test(statedir, names)
{
	char a[STATEDIR_NAME_SIZE], b[STATEDIR_NAME_SIZE], c[STATEDIR_NAME_SIZE];

	statedir_name("/var/lib/orkestr-emulator", a);
	statedir_name("/var/lib/orkestr-emulator", b);
	statedir_name("/var/lib/orkestr-emulator2", c);
	cr_assert_str_eq(a, b);
	cr_assert_str_neq(a, c);
	cr_assert_eq(strlen(a), 12u);
	cr_assert_eq(strspn(a, "abcdefghijklmnopqrstuvwxyz0123456789-"), 12u);
}
