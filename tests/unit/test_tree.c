/* Folders of a state dir: made, thrown away, removed. As root, which is what the emulator's id 0 is to its
 * own files; the one test of an id without rights says so. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "emulator/base/fd.h"
#include "rootfs/tree.h"

#define SLOT_A "s-01hxyz0123456789abcdefghjk"
#define SLOT_B "s-01hxyz0123456789abcdefghjm"

static char dir[64];
static int fd = -1;

static void setup(void)
{
	(void)snprintf(dir, sizeof(dir), "/tmp/test-tree-XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
}

static void teardown(void)
{
	struct err e = ERR_INIT;

	closep(&fd);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_eq(tree_remove(fd, dir + 5, &e), 0, "%s", e.msg);
	closep(&fd);
}

TestSuite(tree, .init = setup, .fini = teardown, .timeout = 120);

static void touch(int at, const char *path)
{
	int f = openat(at, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	cr_assert_geq(f, 0, "%s", path);
	(void)close(f);
}

static bool there(const char *path)
{
	struct stat st;

	return fstatat(fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static mode_t mode_of(const char *path)
{
	struct stat st;

	cr_assert_eq(fstatat(fd, path, &st, AT_SYMLINK_NOFOLLOW), 0, "%s", path);
	return st.st_mode & 07777;
}

Test(tree, prepare_makes_and_mends)
{
	static const struct {
		const char *path;
		mode_t mode;
	} want[] = {
		{ "disk", 0711 },   { "disk/l", 0711 },	    { "disk/s", 0711 },
		{ "disk/m", 0711 }, { "disk/trash", 0700 }, { "templates", 0700 },
	};
	struct err e = ERR_INIT;

	(void)umask(077);
	for (int pass = 0; pass < 2; pass++) {
		cr_assert_eq(tree_prepare_state(fd, &e), 0, "%s", e.msg);
		for (size_t i = 0; i < ARRAY_SIZE(want); i++)
			cr_assert_eq(mode_of(want[i].path), want[i].mode, "%s", want[i].path);
		cr_assert_eq(fchmodat(fd, "disk", 0777, 0), 0);
		cr_assert_eq(unlinkat(fd, "disk/m", AT_REMOVEDIR), 0);
	}
}

Test(tree, prepare_refuses_what_is_not_ours)
{
	struct err e = ERR_INIT;

	cr_assert_eq(symlinkat("/tmp", fd, "disk"), 0);
	cr_assert_lt(tree_prepare_state(fd, &e), 0, "a symlink as disk");
	cr_assert_eq(unlinkat(fd, "disk", 0), 0);
	cr_assert_eq(mkdirat(fd, "disk", 0711), 0);
	cr_assert_eq(fchownat(fd, "disk", 12345, 12345, 0), 0);
	cr_assert_lt(tree_prepare_state(fd, &e), 0, "another user's disk");
	cr_assert_eq(e.kind, ERR_DENIED);
}

Test(tree, slots)
{
	struct err e = ERR_INIT;
	struct stat st;

	cr_assert_eq(tree_prepare_state(fd, &e), 0);
	(void)umask(077);
	cr_assert_eq(tree_make_slot(fd, SLOT_A, 1001, &e), 0, "%s", e.msg);
	cr_assert_eq(mode_of("disk/s/" SLOT_A), 0711);
	cr_assert_eq(mode_of("disk/s/" SLOT_A "/u"), 0755);
	cr_assert_eq(mode_of("disk/s/" SLOT_A "/w"), 0700);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(fstatat(fd, i ? "disk/s/" SLOT_A "/w" : "disk/s/" SLOT_A "/u", &st, 0), 0);
		cr_assert_eq(st.st_uid, 1001);
		cr_assert_eq(st.st_gid, 1001);
	}
	cr_assert_lt(tree_make_slot(fd, SLOT_A, 1001, &e), 0);
	cr_assert_eq(e.kind, ERR_EXISTS);
	touch(fd, "disk/s/" SLOT_A "/u/file");
	cr_assert_eq(tree_trash_slot(fd, SLOT_A, &e), 0, "%s", e.msg);
	cr_assert_not(there("disk/s/" SLOT_A));
	cr_assert_eq(tree_trash_slot(fd, SLOT_A, &e), 0, "again: it is gone");
	/* The same name again, while the first is still in the trash. */
	cr_assert_eq(tree_make_slot(fd, SLOT_A, 1001, &e), 0);
	cr_assert_eq(tree_trash_slot(fd, SLOT_A, &e), 0, "%s", e.msg);
	cr_assert_eq(tree_empty_trash(fd, &e), 0, "%s", e.msg);
	cr_assert_eq(unlinkat(fd, "disk/trash", AT_REMOVEDIR), 0, "the trash is not empty");
	cr_assert_eq(tree_empty_trash(fd, &e), 0, "no trash at all");
}

Test(tree, slot_names)
{
	static const char *const bad[] = {
		"",
		"s-",
		".",
		"..",
		"s-01HXYZ0123456789ABCDEFGHJK",
		"s-01hxyz0123456789abcdefghj",
		SLOT_A "k",
		"x-01hxyz0123456789abcdefghjk",
		"s-../../../../../../etc/passw",
		"s-01hxyz0123456789abcdefghj/",
		"s-01hxyz0123456789abcdefghil",
	};
	struct err e = ERR_INIT;

	cr_assert_eq(tree_prepare_state(fd, &e), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_expect_eq(tree_make_slot(fd, bad[i], 1, &e), -EINVAL, "%s", bad[i]);
		cr_expect_eq(tree_trash_slot(fd, bad[i], &e), -EINVAL, "%s", bad[i]);
	}
}

static int count_slot(void *arg, const char *slot)
{
	int *n = arg;

	cr_expect(strcmp(slot, SLOT_A) == 0 || strcmp(slot, SLOT_B) == 0);
	return ++*n == 10 ? 5 : 0;
}

Test(tree, each_slot)
{
	struct err e = ERR_INIT;
	int n = 0;

	cr_assert_eq(tree_each_slot(fd, count_slot, &n), 0, "no folder yet");
	cr_assert_eq(tree_prepare_state(fd, &e), 0);
	cr_assert_eq(tree_make_slot(fd, SLOT_A, 1, &e), 0);
	cr_assert_eq(tree_make_slot(fd, SLOT_B, 1, &e), 0);
	cr_assert_eq(mkdirat(fd, "disk/s/lost+found", 0700), 0);
	cr_assert_eq(tree_each_slot(fd, count_slot, &n), 0);
	cr_assert_eq(n, 2);
	n = 9;
	cr_assert_eq(tree_each_slot(fd, count_slot, &n), 5, "the callback ends it");
}

Test(tree, remove_names)
{
	static const char *const bad[] = { "", ".", "..", "a/b", "/", "../x" };
	struct err e = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_eq(tree_remove(fd, bad[i], &e), -EINVAL, "'%s'", bad[i]);
	cr_expect_eq(tree_remove(fd, "not-there", &e), 0);
}

/* Deeper than any path and any fd table. */
Test(tree, remove_deep)
{
	const struct rlimit few = { 24, 24 };
	struct err e = ERR_INIT;
	int at = dup(fd);

	for (int i = 0; i < 6000; i++) {
		int next;

		cr_assert_eq(mkdirat(at, "d", 0755), 0);
		if (i % 500 == 0)
			touch(at, "file");
		next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		cr_assert_geq(next, 0);
		(void)close(at);
		at = next;
	}
	(void)close(at);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	cr_assert_eq(tree_remove(fd, "d", &e), 0, "%s", e.msg);
	cr_assert_not(there("d"));
}

Test(tree, remove_odd)
{
	static const char *const names[] = { "\n", " ", "-rf", "*", "\xff\xfe", ".rm-0", ".rm-1", "\\", "\x01" };
	struct err e = ERR_INIT;

	cr_assert_eq(mkdirat(fd, "t", 0755), 0);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char path[64];

		(void)snprintf(path, sizeof(path), "t/%s", names[i]);
		cr_assert_eq(mkdirat(fd, path, 0755), 0);
		(void)snprintf(path, sizeof(path), "t/%s/%s", names[i], names[i]);
		cr_assert_eq(mkdirat(fd, path, 0000), 0);
		(void)snprintf(path, sizeof(path), "t/%s/%s/x", names[i], names[i]);
		cr_assert_eq(mkdirat(fd, path, 0000), 0);
	}
	cr_assert_eq(mkfifoat(fd, "t/fifo", 0), 0);
	cr_assert_eq(mknodat(fd, "t/whiteout", S_IFCHR, 0), 0);
	for (int i = 0; i < 3000; i++) {
		char path[64];

		(void)snprintf(path, sizeof(path), "t/wide-%d", i);
		if (i % 3)
			touch(fd, path);
		else
			cr_assert_eq(mkdirat(fd, path, 0), 0);
	}
	cr_assert_eq(tree_remove(fd, "t", &e), 0, "%s", e.msg);
	cr_assert_not(there("t"));
}

Test(tree, remove_never_follows)
{
	struct err e = ERR_INIT;

	cr_assert_eq(mkdirat(fd, "outside", 0755), 0);
	touch(fd, "outside/keep");
	cr_assert_eq(mkdirat(fd, "t", 0755), 0);
	cr_assert_eq(symlinkat("../outside", fd, "t/link"), 0);
	cr_assert_eq(mkdirat(fd, "t/d", 0755), 0);
	cr_assert_eq(symlinkat("../../outside", fd, "t/d/link"), 0);
	cr_assert_eq(symlinkat("outside", fd, "link"), 0);
	cr_assert_eq(tree_remove(fd, "t", &e), 0, "%s", e.msg);
	cr_assert_eq(tree_remove(fd, "link", &e), 0, "%s", e.msg);
	cr_assert_not(there("t"));
	cr_assert_not(there("link"));
	cr_assert(there("outside/keep"));
}

Test(tree, remove_never_crosses_a_mount)
{
	struct err e = ERR_INIT;
	char path[128], src[128];

	cr_assert_eq(unshare(CLONE_NEWNS), 0);
	cr_assert_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	cr_assert_eq(mkdirat(fd, "src", 0755), 0);
	touch(fd, "src/keep");
	for (int deep = 0; deep < 2; deep++) {
		cr_assert_eq(mkdirat(fd, "t", 0755), 0);
		cr_assert_eq(mkdirat(fd, "t/m", 0755), 0);
		cr_assert_eq(mkdirat(fd, "t/m/m", 0755), 0);
		(void)snprintf(path, sizeof(path), "%s/%s", dir, deep ? "t/m/m" : "t/m");
		/* A bind mount of the same file system: st_dev can't tell. */
		(void)snprintf(src, sizeof(src), "%s/src", dir);
		cr_assert_eq(mount(src, path, NULL, MS_BIND, NULL), 0, "%s", strerror(errno));
		cr_expect_eq(tree_remove(fd, "t", &e), -EBUSY, "%s", e.msg);
		cr_expect_eq(e.kind, ERR_BUSY);
		cr_expect(there("src/keep"));
		cr_assert_eq(umount(path), 0);
		cr_assert_eq(tree_remove(fd, "t", &e), 0, "%s", e.msg);
	}
}

/* Without CAP_DAC_OVERRIDE: the owner opens his own closed folders. */
Test(tree, remove_without_rights)
{
	pid_t pid;
	int status;

	cr_assert_eq(fchown(fd, 65534, 65534), 0);
	pid = fork();
	if (pid == 0) {
		if (setgid(65534) < 0 || setuid(65534) < 0 || mkdirat(fd, "t", 0700) < 0 ||
		    mkdirat(fd, "t/a", 0700) < 0 || mkdirat(fd, "t/a/b", 0700) < 0 || fchmodat(fd, "t/a", 0, 0) < 0 ||
		    fchmodat(fd, "t", 0, 0) < 0)
			_exit(2);
		_exit(tree_remove(fd, "t", NULL) == 0 ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	cr_assert_not(there("t"));
}
