/* Layers: what an archive may and may not do, and what is left when one fails. Unpacking is tested as root
 * (owners can be seen), commands on a stack as the emulator's id in a user namespace. */

#include "tests/unit/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "emulator/base/buf.h"
#include "emulator/idmap.h"
#include "rootfs/layer.h"
#include "rootfs/proc.h"
#include "rootfs/stack.h"
#include "rootfs/tree.h"
#include "rootfs/treehash.h"
#include "rootfs/unpack.h"
#include "tests/unit/state_fixture.h"

TestSuite(unpack, .init = make_state, .fini = remove_state, .timeout = 120);
TestSuite(layer, .init = make_state, .fini = remove_state, .timeout = 120);

/* ---- unpacking ---- */

struct options {
	bool whiteouts, single_id, as_root;
	const char *strip, *prefix;
	struct unpack_limits limits;
};

static int unpack_bytes(const struct bytes *b, const char *to, const struct options *o, struct unpack_result *res)
{
	_cleanup_close_ int fd = archive_fd(b), root = -1;
	struct unpack_spec s = {
		.read = unpack_read_fd, .read_arg = &fd, .sandbox_uid = 1, .limits = UNPACK_LIMITS_DEFAULT
	};

	if (o) {
		s.whiteouts = o->whiteouts;
		s.single_id = o->single_id;
		s.as_root = o->as_root;
		s.strip = o->strip;
		s.prefix = o->prefix;
		if (o->limits.max_bytes)
			s.limits = o->limits;
	}
	cr_assert(mkdirat(state_fd, to, 0755) == 0 || errno == EEXIST);
	root = openat(state_fd, to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s.root_fd = root;
	e = ERR_INIT;
	return unpack_archive(&s, res, &e);
}

static int unpack(const struct ent *t, const struct options *o, struct unpack_result *res)
{
	_cleanup_bytes_ struct bytes b = make_archive(t, PLAIN);
	struct unpack_result unused;

	return unpack_bytes(&b, "root", o, res ? res : &unused);
}

static struct stat stat_of(const char *path)
{
	struct stat st;
	char full[512];

	(void)snprintf(full, sizeof(full), "root/%s", path);
	cr_assert_eq(fstatat(state_fd, full, &st, AT_SYMLINK_NOFOLLOW), 0, "%s: %s", path, strerror(errno));
	return st;
}

static void expect_text(const char *path, const char *want)
{
	char got[256], full[512];

	(void)snprintf(full, sizeof(full), "root/%s", path);
	cr_assert_geq(fd_read_file(state_fd, full, got, sizeof(got)), 0, "%s", path);
	cr_expect_str_eq(got, want, "%s", path);
}

static bool there(const char *path)
{
	struct stat st;

	return fstatat(state_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

Test(unpack, keeps_what_it_should)
{
	static const struct ent t[] = {
		{ DIR_, ".", .mode = 0700, .uid = 7 },
		{ DIR_, "usr", .mode = 0711, .mtime = 1000000000 },
		{ DIR_, "usr/bin" },
		{ FILE_, "usr/bin/su", "elf", .mode = 04755, .uid = 0, .gid = 42, .mtime = 1234567890 },
		{ HARD_, "usr/bin/su2", "usr/bin/su" },
		{ LINK_, "bin", "usr/bin", .uid = 5 },
		{ LINK_, "dangling", "/nowhere/../../etc" },
		{ FIFO_, "fifo", .mode = 0600 },
		{ DIR_, "tmp", .mode = 01777 },
		{ DIR_, "closed", .mode = 0000 },
		{ FILE_, "closed/inside", "x", .mode = 0 },
		{ FILE_, "empty", "" },
		{ FILE_, "missing/parents/file", "y", .uid = 1000, .gid = 1000 },
		{ FILE_, "sp ace\nline", "z" },
		{ FILE_, "\xc3\xbcml\xc3\xa4ut", "u" },
		{ FILE_, "sparse", "tail", .size = 1 << 20 },
		{ END },
	};
	struct unpack_result res;

	(void)umask(077);
	cr_assert_eq(unpack(t, NULL, &res), 0, "%s", e.msg);
	cr_expect_eq(stat_of(".").st_mode & 07777, 0700 & 0755,
		     "the root folder is the caller's"); /* made by the test, umask 077 */
	cr_expect_eq(stat_of("usr").st_mode & 07777, 0711);
	cr_expect_eq(stat_of("usr").st_mtim.tv_sec, 1000000000, "although files were made in it later");
	cr_expect_eq(stat_of("usr/bin/su").st_mode & 07777, 04755);
	cr_expect_eq(stat_of("usr/bin/su").st_uid, 1);
	cr_expect_eq(stat_of("usr/bin/su").st_gid, 43);
	cr_expect_eq(stat_of("usr/bin/su").st_mtim.tv_sec, 1234567890);
	cr_expect_eq(stat_of("usr/bin/su").st_mtim.tv_nsec, 123456789);
	cr_expect_eq(stat_of("usr/bin/su").st_nlink, 2);
	cr_expect_eq(stat_of("usr/bin/su2").st_ino, stat_of("usr/bin/su").st_ino);
	cr_expect(S_ISLNK(stat_of("bin").st_mode));
	cr_expect_eq(stat_of("bin").st_uid, 6);
	cr_expect(S_ISLNK(stat_of("dangling").st_mode));
	cr_expect(S_ISFIFO(stat_of("fifo").st_mode));
	cr_expect_eq(stat_of("tmp").st_mode & 07777, 01777);
	cr_expect_eq(stat_of("closed").st_mode & 07777, 0755, "mode 0 in the table means the default");
	cr_expect_eq(stat_of("missing").st_mode & 07777, 0755);
	cr_expect_eq(stat_of("missing/parents").st_uid, 1);
	cr_expect_eq(stat_of("missing/parents/file").st_uid, 1001);
	expect_text("sp ace\nline", "z");
	expect_text("\xc3\xbcml\xc3\xa4ut", "u");
	cr_expect_eq(stat_of("sparse").st_size, 1 << 20);
	cr_expect_lt(stat_of("sparse").st_blocks * 512, 1 << 19, "a sparse file stays sparse");
	cr_expect_eq(res.entries, ARRAY_SIZE(t) - 1);
}

Test(unpack, neutralises)
{
	static const struct ent t[] = {
		{ FILE_, "/abs/file", "a" },
		{ FILE_, "./dot//./slashes", "b" },
		{ DEV_, "dev/null", .mode = 0666 },
		{ FILE_, "big-id", "c", .uid = 70000, .gid = 4000000000 },
		{ FILE_, "nobody", "c", .uid = 65534, .gid = 65534 },
		/* A second entry of a name replaces the first, and never writes through it. */
		{ LINK_, "twice", "../victim" },
		{ FILE_, "twice", "d" },
		{ DIR_, "was-dir" },
		{ FILE_, "was-dir", "e" },
		{ FILE_, "was-file", "f" },
		{ DIR_, "was-file" },
		{ FILE_, "linked", "g" },
		{ HARD_, "hard", "linked" },
		{ FILE_, "hard", "h" },
		/* A hardlink to a symlink is the symlink, not what it points at. */
		{ LINK_, "out", "../victim" },
		{ HARD_, "out2", "out" },
		{ END },
	};
	struct unpack_result res;

	cr_assert_eq(mkdirat(state_fd, "root", 0755), 0);
	{
		_cleanup_close_ int v = openat(state_fd, "victim", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

		cr_assert_eq(fd_write_all(v, "safe", 4), 0);
	}
	cr_assert_eq(unpack(t, NULL, &res), 0, "%s", e.msg);
	expect_text("abs/file", "a");
	expect_text("dot/slashes", "b");
	cr_expect_not(there("root/dev/null"));
	cr_expect_eq(res.devices_skipped, 1);
	cr_expect_eq(stat_of("big-id").st_uid, 65535);
	cr_expect_eq(stat_of("big-id").st_gid, 65535);
	cr_expect_eq(stat_of("nobody").st_uid, 65535);
	cr_expect_eq(res.owners_clamped, 2);
	expect_text("twice", "d");
	cr_expect(S_ISREG(stat_of("was-dir").st_mode));
	cr_expect(S_ISDIR(stat_of("was-file").st_mode));
	expect_text("linked", "g");
	expect_text("hard", "h");
	cr_expect(S_ISLNK(stat_of("out2").st_mode));
	expect_text("../victim", "safe");
}

static char long_name[300], long_path[5000];

Test(unpack, refuses)
{
	const struct {
		const char *what;
		struct ent t[5];
	} cases[] = {
		{ "dot dot", { { FILE_, "../evil", "x" } } },
		{ "dot dot inside", { { FILE_, "a/b/../../../evil", "x" } } },
		{ "harmless dot dot", { { FILE_, "a/../b", "x" } } },
		{ "only dot dot", { { DIR_, ".." } } },
		{ "through an absolute symlink", { { LINK_, "l", "/tmp" }, { FILE_, "l/evil", "x" } } },
		{ "through a relative symlink", { { LINK_, "l", ".." }, { FILE_, "l/evil", "x" } } },
		{ "through a symlink inside", { { DIR_, "d" }, { LINK_, "l", "d" }, { FILE_, "l/evil", "x" } } },
		{ "a folder through a symlink", { { LINK_, "l", ".." }, { DIR_, "l/evil" } } },
		{ "a deep one through a symlink", { { LINK_, "l", ".." }, { FILE_, "l/evil/very/deep", "x" } } },
		{ "a symlink through a symlink", { { LINK_, "l", ".." }, { LINK_, "l/evil", "x" } } },
		{ "through /proc", { { LINK_, "l", "/proc/self/root" }, { FILE_, "l/tmp/evil", "x" } } },
		{ "hardlink outside", { { HARD_, "h", "../victim" } } },
		{ "hardlink to an absolute name", { { HARD_, "h", "/etc/passwd" } } },
		{ "hardlink through a symlink", { { LINK_, "l", ".." }, { HARD_, "h", "l/victim" } } },
		{ "hardlink to nothing", { { HARD_, "h", "missing" } } },
		{ "hardlink to a folder", { { DIR_, "d" }, { HARD_, "h", "d" } } },
		{ "hardlink to itself", { { FILE_, "h", "x" }, { HARD_, "h", "h" } } },
		{ "hardlink to the root", { { HARD_, "h", "." } } },
		{ "below a file", { { FILE_, "f", "x" }, { FILE_, "f/evil", "x" } } },
		{ "in place of a full folder", { { FILE_, "d/x", "x" }, { FILE_, "d", "x" } } },
		{ "name too long", { { FILE_, long_name, "x" } } },
		{ "path too long", { { FILE_, long_path, "x" } } },
		{ "whiteout at the bottom", { { FILE_, "d/.wh.x", "" } } },
		{ "opaque at the bottom", { { FILE_, "d/.wh..wh..opq", "" } } },
		{ "empty symlink", { { LINK_, "l", "" } } },
	};

	memset(long_name, 'n', sizeof(long_name) - 1);
	for (size_t i = 0; i + 1 < sizeof(long_path); i++)
		long_path[i] = i % 100 == 99 ? '/' : 'p';
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int r = unpack(cases[i].t, NULL, NULL);

		cr_expect_lt(r, 0, "%s", cases[i].what);
		cr_expect(e.kind == ERR_INVALID, "%s: %s", cases[i].what, e.msg);
		cr_expect(e.reason && strcmp(e.reason, "archive_invalid") == 0, "%s", cases[i].what);
		cr_expect_not(there("evil"), "%s", cases[i].what);
		cr_expect_neq(access("/tmp/evil", F_OK), 0, "%s", cases[i].what);
		cr_assert_eq(tree_remove(state_fd, "root", &e), 0, "%s", e.msg);
	}
}

Test(unpack, whiteouts)
{
	static const struct ent t[] = {
		{ FILE_, "d/.wh.gone", "" },
		{ FILE_, "o/.wh..wh..opq", "" },
		{ FILE_, "o/new", "n" },
		{ FILE_, ".wh..wh.plnk", "" },
		{ END },
	};
	static const struct ent bad[][2] = { { { FILE_, ".wh.", "" } },
					     { { FILE_, ".wh..", "" } },
					     { { FILE_, "d/.wh...", "" } } };
	const struct options o = { .whiteouts = true };
	char value[8];

	cr_assert_eq(unpack(t, &o, NULL), 0, "%s", e.msg);
	cr_expect(S_ISCHR(stat_of("d/gone").st_mode));
	cr_expect_eq(stat_of("d/gone").st_rdev, 0);
	cr_expect_not(there("root/.wh..wh.plnk"));
	(void)snprintf(long_path, sizeof(long_path), "%s/root/o", state);
	cr_expect_eq(getxattr(long_path, "user.overlay.opaque", value, sizeof(value)), 1);
	cr_expect_eq(value[0], 'y');
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_expect_lt(unpack(bad[i], &o, NULL), 0, "%s", bad[i][0].path);
}

Test(unpack, attributes)
{
	static const struct vfs_cap_data v2 = { .magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE,
						.data[0].permitted = 1u << CAP_NET_RAW };
	const struct ent t[] = {
		{ FILE_, "a", "x", .xattr = "user.note", .xvalue = "hi", .xsize = 2 },
		{ FILE_, "b", "x", .xattr = "user.overlay.redirect", .xvalue = "/etc", .xsize = 4 },
		{ DIR_, "c", .xattr = "user.overlay.opaque", .xvalue = "y", .xsize = 1 },
		{ FILE_, "d", "x", .xattr = "trusted.overlay.opaque", .xvalue = "y", .xsize = 1 },
		{ FILE_, "ping", "x", .mode = 0755, .xattr = "security.capability", .xvalue = (const char *)&v2,
		  .xsize = XATTR_CAPS_SZ_2 },
		{ FILE_, "bad", "x", .xattr = "security.capability", .xvalue = "?", .xsize = 1 },
		{ END },
	};
	struct vfs_ns_cap_data cap;
	struct unpack_result res;
	char path[128], value[8];

	cr_assert_eq(unpack(t, NULL, &res), 0, "%s", e.msg);
	(void)snprintf(path, sizeof(path), "%s/root/a", state);
	cr_expect_eq(getxattr(path, "user.note", value, sizeof(value)), 2);
	(void)snprintf(path, sizeof(path), "%s/root/b", state);
	cr_expect_lt(getxattr(path, "user.overlay.redirect", value, sizeof(value)), 0);
	(void)snprintf(path, sizeof(path), "%s/root/c", state);
	cr_expect_lt(getxattr(path, "user.overlay.opaque", value, sizeof(value)), 0);
	(void)snprintf(path, sizeof(path), "%s/root/d", state);
	cr_expect_lt(getxattr(path, "trusted.overlay.opaque", value, sizeof(value)), 0);
	/* A sandbox's root is the one the capability counts for. */
	(void)snprintf(path, sizeof(path), "%s/root/ping", state);
	cr_assert_eq(getxattr(path, "security.capability", &cap, sizeof(cap)), (ssize_t)XATTR_CAPS_SZ_3, "%s",
		     strerror(errno));
	cr_expect_eq(cap.rootid, 1);
	cr_expect_eq(cap.data[0].permitted, 1u << CAP_NET_RAW);
	cr_expect_eq(res.xattrs_dropped, 4, "%llu", (unsigned long long)res.xattrs_dropped);
}

Test(unpack, options)
{
	static const struct ent t[] = {
		{ FILE_, "package/bin/node", "elf", .mode = 0755, .uid = 501, .gid = 20 },
		{ FILE_, "packages/no", "x" },
		{ FILE_, "other", "x" },
		{ HARD_, "package/bin/nodejs", "package/bin/node" },
		{ END },
	};
	const struct options o = { .strip = "package", .prefix = "usr/local", .as_root = true };
	const struct options single = { .single_id = true };

	cr_assert_eq(unpack(t, &o, NULL), 0, "%s", e.msg);
	expect_text("usr/local/bin/node", "elf");
	expect_text("usr/local/bin/nodejs", "elf");
	cr_expect_eq(stat_of("usr").st_uid, 1);
	cr_expect_eq(stat_of("usr/local/bin").st_uid, 1);
	cr_expect_eq(stat_of("usr/local/bin/node").st_uid, 1);
	cr_expect_eq(stat_of("usr/local/bin/node").st_gid, 1);
	cr_expect_not(there("root/usr/local/other"));
	cr_expect_not(there("root/other"));
	cr_assert_eq(tree_remove(state_fd, "root", &e), 0);
	cr_assert_eq(unpack(t, &single, NULL), 0, "%s", e.msg);
	cr_expect_eq(stat_of("package/bin/node").st_uid, 0, "no chown at all");
}

Test(unpack, budgets)
{
	static const struct ent many[] = { { FILE_, "a", "" }, { FILE_, "b", "" }, { FILE_, "c", "" }, { END } };
	const struct options two = { .limits = { .max_bytes = 1 << 20, .max_entries = 2 } };
	const struct options mega = { .limits = { .max_bytes = 1 << 20, .max_entries = 100 } };
	_cleanup_bytes_ struct bytes zeros = { .p = calloc(1, 7u << 20), .n = 0 };
	struct ent bomb[] = { { FILE_, "bomb", NULL }, { END } };
	struct unpack_result res;

	cr_expect_lt(unpack(many, &two, NULL), 0);
	cr_expect_eq(e.kind, ERR_TOO_LARGE);
	{
		_cleanup_bytes_ struct bytes huge = make_header("a", 1ull << 40),
					     negative = make_header("a", UINT64_MAX);

		cr_expect_lt(unpack_bytes(&huge, "root", &mega, &res), 0);
		cr_expect_eq(e.kind, ERR_TOO_LARGE, "%s", e.msg);
		cr_expect_lt(unpack_bytes(&negative, "root", &mega, &res), 0);
	}
	memset(zeros.p, 'z', (7u << 20) - 1);
	bomb[0].data = zeros.p;
	for (enum packing p = GZIP; p <= XZ; p++) {
		_cleanup_bytes_ struct bytes b = make_archive(bomb, p);

		cr_assert_lt(b.n, 1u << 16, "the bomb is small");
		cr_expect_lt(unpack_bytes(&b, "root", &mega, &res), 0);
		cr_expect_eq(e.kind, ERR_TOO_LARGE, "%s", e.msg);
	}
}

Test(unpack, compression_does_not_change_the_digest)
{
	static const struct ent t[] = { { FILE_, "a", "hello" }, { END } };
	struct unpack_result res[XZ + 1];
	_cleanup_bytes_ struct bytes plain = make_archive(t, PLAIN);
	char sha[TEXT_SHA256_SIZE];

	text_sha256(plain.p, plain.n, sha);
	for (enum packing p = PLAIN; p <= XZ; p++) {
		_cleanup_bytes_ struct bytes b = make_archive(t, p);

		cr_assert_eq(unpack_bytes(&b, "root", NULL, &res[p]), 0, "%s", e.msg);
		expect_text("a", "hello");
		cr_expect_str_eq(res[p].digest, sha,
				 "packing %d: the digest is of the plain stream, its padding included", (int)p);
	}
}

Test(unpack, damaged)
{
	static const struct ent t[] = { { FILE_, "a", "hello" }, { FILE_, "b", "world" }, { END } };
	struct unpack_result res;

	for (enum packing p = PLAIN; p <= XZ; p++) {
		_cleanup_bytes_ struct bytes b = make_archive(t, p);
		size_t whole = b.n;

		for (size_t cut = 0; cut < whole && cut < 1536; cut += p == PLAIN ? 97 : 7) {
			/* A plain archive may end without its end mark; not within an entry. */
			if (p == PLAIN && cut > 0 && cut % 512 == 0)
				continue;
			b.n = cut;
			cr_expect_lt(unpack_bytes(&b, "root", NULL, &res), 0, "packing %d cut at %zu", (int)p, cut);
			cr_expect_eq(e.kind, ERR_INVALID, "%s", e.msg);
		}
	}
	{
		struct bytes junk = { .p = (char *)(uintptr_t) "this is not an archive, whatever you say", .n = 40 };

		cr_expect_lt(unpack_bytes(&junk, "root", NULL, &res), 0);
		cr_expect_eq(e.kind, ERR_INVALID);
	}
}

static ssize_t failing_read(_unused_ void *arg, _unused_ void *p, _unused_ size_t n)
{
	return -ETIMEDOUT;
}

Test(unpack, read_error_is_told)
{
	const struct unpack_spec s = { .read = failing_read, .root_fd = state_fd, .limits = UNPACK_LIMITS_DEFAULT };
	struct unpack_result res;

	cr_assert_eq(unpack_archive(&s, &res, &e), -ETIMEDOUT);
}

/* ---- layers ---- */

static const struct layer_env *root_env(void)
{
	static struct layer_env env;

	env = (struct layer_env){ state_fd, 1, false };
	return &env;
}

static struct layer_info commit(const char *text, const char *recipe, const char *digest)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct layer_facts f = { .source = "a test" };
	struct layer_info i;

	(void)text_format(f.recipe, sizeof(f.recipe), "%s", recipe);
	cr_assert_eq(layer_begin(root_env(), &n, &e), 0, "%s", e.msg);
	{
		_cleanup_close_ int fd = openat(n.root_fd, "f", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

		cr_assert_eq(fd_write_all(fd, text, strlen(text)), 0);
	}
	cr_assert_eq(layer_commit(&n, digest, 5, &f, &i, &e), 0, "%s", e.msg);
	return i;
}

Test(layer, commit_load_find)
{
	struct layer_info a = commit("one", "recipe a", NULL), b = commit("two", "recipe b", NULL), got;
	char path[64];
	struct stat st;

	cr_assert(layer_id_valid(a.id));
	cr_assert_str_neq(a.id, b.id);
	cr_assert_eq(layer_load(state_fd, a.id, &got, &e), 0, "%s", e.msg);
	cr_expect_str_eq(got.digest, a.digest);
	cr_expect_str_eq(got.facts.source, "a test");
	cr_expect_eq(got.size_bytes, 3, "measured");
	(void)snprintf(path, sizeof(path), "disk/l/%s", a.id);
	cr_assert_eq(fstatat(state_fd, path, &st, 0), 0);
	cr_expect_eq(st.st_mode & 07777, 0755);
	cr_expect_eq(st.st_uid, 1);
	cr_assert_eq(layer_find(state_fd, "recipe b", 0, &got), 0);
	cr_expect_str_eq(got.id, b.id);
	cr_expect_eq(layer_find(state_fd, "recipe b", got.created_ms + 1, &got), -ENOENT, "only newer ones");
	cr_expect_eq(layer_find(state_fd, "recipe c", 0, &got), -ENOENT);
	/* The same again is the same layer. */
	got = commit("one", "recipe c", NULL);
	cr_expect_str_eq(got.id, a.id);
	cr_expect_eq(layer_find(state_fd, "recipe c", 0, &got), 0);
}

Test(layer, names_and_damage)
{
	static const char *const bad[] = {
		"", ".", "../../etc", "0123456789abcdef0123456", "0123456789ABCDEF01234567", "0123456789abcdef012345678"
	};
	struct layer_info a = commit("one", "r", NULL), got;
	char path[64];
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_expect_not(layer_id_valid(bad[i]), "'%s'", bad[i]);
		cr_expect_lt(layer_load(state_fd, bad[i], &got, NULL), 0, "'%s'", bad[i]);
	}
	(void)snprintf(path, sizeof(path), "disk/l/%s.json", a.id);
	fd = openat(state_fd, path, O_WRONLY | O_TRUNC | O_CLOEXEC);
	cr_assert_eq(fd_write_all(fd, "{\"digest\":\"00\"}", 15), 0);
	closep(&fd);
	cr_expect_eq(layer_load(state_fd, a.id, &got, &e), -ENOENT);
	cr_expect_eq(layer_find(state_fd, "r", 0, &got), -ENOENT);
}

static int count_entry(const char *name)
{
	_cleanup_buf_ struct buf out = BUF_INIT(65536);
	const char *const argv[] = { "sh", "-c", "ls -A \"$1\"/disk/l", "sh", state, NULL };
	const struct proc_spec s = { .argv = argv, .env = (const char *const *)environ, .stdin_fd = -1 };
	int n = 0;

	cr_assert_eq(proc_run(&s, &out, &e), 0, "%s", e.msg);
	for (const char *p = out.p; p && (p = strstr(p, name)); p++)
		n++;
	return n;
}

Test(layer, half_made_is_never_seen)
{
	struct layer_new n = LAYER_NEW_INIT, left = LAYER_NEW_INIT;
	int lock;

	cr_assert_eq(layer_begin(root_env(), &n, &e), 0);
	cr_assert_eq(count_entry(".tmp-"), 1);
	layer_abort(&n);
	cr_assert_eq(count_entry(".tmp-"), 0);
	layer_abort(&n);
	/* A writer that was killed. */
	cr_assert_eq(layer_begin(root_env(), &left, &e), 0);
	lock = layer_lock(state_fd, &e);
	cr_assert_geq(lock, 0, "%s", e.msg);
	cr_assert_eq(count_entry(".tmp-"), 0, "the next one clears up");
	closep(&lock);
	layer_abort(&left);
}

static bool used_is(void *arg, const char *id)
{
	return strcmp(arg, id) == 0;
}

Test(layer, sweep)
{
	struct layer_info a = commit("one", "a", NULL), b = commit("two", "b", NULL), got;

	cr_assert_eq(tree_make_slot(state_fd, "s-01hxyz0123456789abcdefghjk", 1, &e), 0);
	cr_assert_eq(layer_sweep(state_fd, used_is, a.id, &e), 0, "%s", e.msg);
	cr_assert_eq(layer_load(state_fd, b.id, &got, &e), 0, "a sandbox lives: nothing goes");
	cr_assert_eq(tree_trash_slot(state_fd, "s-01hxyz0123456789abcdefghjk", &e), 0);
	cr_assert_eq(layer_sweep(state_fd, used_is, a.id, &e), 0, "%s", e.msg);
	cr_assert_eq(layer_load(state_fd, a.id, &got, &e), 0);
	cr_assert_eq(layer_load(state_fd, b.id, &got, &e), -ENOENT);
	cr_assert_eq(count_entry(b.id), 0);
}

Test(layer, treehash_sees_content_and_owner_not_time)
{
	static const struct ent base[] = { { FILE_, "d/f", "x", .mtime = 1 }, { LINK_, "l", "a" }, { END } };
	static const struct ent variants[][3] = {
		{ { FILE_, "d/f", "x", .mtime = 99 }, { LINK_, "l", "a" } }, /* the same but for time */
		{ { FILE_, "d/f", "y" }, { LINK_, "l", "a" } },
		{ { FILE_, "d/f", "x", .mode = 0600 }, { LINK_, "l", "a" } },
		{ { FILE_, "d/f", "x", .uid = 3 }, { LINK_, "l", "a" } },
		{ { FILE_, "d/f", "x" }, { LINK_, "l", "b" } },
		{ { FILE_, "d/g", "x" }, { LINK_, "l", "a" } },
	};
	char first[TEXT_SHA256_SIZE], other[TEXT_SHA256_SIZE];
	uint64_t bytes;
	int fd;

	cr_assert_eq(unpack(base, NULL, NULL), 0);
	fd = openat(state_fd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_eq(treehash(fd, first, &bytes, &e), 0, "%s", e.msg);
	cr_expect_eq(bytes, 1);
	closep(&fd);
	for (size_t i = 0; i < ARRAY_SIZE(variants); i++) {
		cr_assert_eq(tree_remove(state_fd, "root", &e), 0);
		cr_assert_eq(unpack(variants[i], NULL, NULL), 0);
		fd = openat(state_fd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		cr_assert_eq(treehash(fd, other, &bytes, &e), 0, "%s", e.msg);
		closep(&fd);
		cr_expect_eq(strcmp(first, other) == 0, i == 0, "variant %zu", i);
	}
}

Test(layer, treehash_takes_off_overlay_bookkeeping)
{
	static const struct ent t[] = { { DIR_, "d" }, { END } };
	char hash[TEXT_SHA256_SIZE], path[128], value[8];
	uint64_t bytes;
	int fd;

	cr_assert_eq(unpack(t, NULL, NULL), 0);
	(void)snprintf(path, sizeof(path), "%s/root/d", state);
	cr_assert_eq(setxattr(path, "user.overlay.origin", "abc", 3, 0), 0);
	cr_assert_eq(setxattr(path, "user.overlay.opaque", "y", 1, 0), 0);
	fd = openat(state_fd, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_eq(treehash(fd, hash, &bytes, &e), 0, "%s", e.msg);
	closep(&fd);
	cr_expect_lt(getxattr(path, "user.overlay.origin", value, sizeof(value)), 0);
	cr_expect_eq(getxattr(path, "user.overlay.opaque", value, sizeof(value)), 1, "that one is content");
}

/* ---- commands on a stack, in the emulator's user namespace ---- */

/* The host's shell and what it is linked to, as an archive. */
static int shell_archive(void)
{
	const char *const argv[] = { "sh",
				     "-c",
				     "set -e; f=$(readlink -f /bin/sh); l=$(ldd \"$f\" | grep -o '/[^ )]*'); "
				     "mkdir -p \"$1/sh/bin\" \"$1/sh/dev\" \"$1/sh/proc\" \"$1/sh/tmp\" \"$1/sh/etc\"; "
				     "cp \"$f\" \"$1/sh/bin/sh\"; "
				     "for i in $l; do mkdir -p \"$1/sh${i%/*}\"; cp -L \"$i\" \"$1/sh$i\"; done; tar "
				     "-C \"$1/sh\" --owner=0 --group=0 -c . >\"$1/sh.tar\"",
				     "sh",
				     state,
				     NULL };
	const struct proc_spec s = { .argv = argv, .env = (const char *const *)environ, .stdin_fd = -1 };
	int fd;

	cr_assert_eq(proc_run(&s, NULL, &e), 0, "%s", e.msg);
	fd = openat(state_fd, "sh.tar", O_RDONLY | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	return fd;
}

static struct layer_info layer_of_fd(const struct layer_env *env, int fd)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct unpack_spec s = { .read = unpack_read_fd,
				 .read_arg = &fd,
				 .sandbox_uid = env->sandbox_uid,
				 .single_id = env->single_id,
				 .limits = UNPACK_LIMITS_DEFAULT };
	const struct layer_facts f = { .recipe = "shell" };
	struct unpack_result u;
	struct layer_info i;

	CHECK_E(layer_begin(env, &n, &e) == 0);
	s.root_fd = n.root_fd;
	CHECK_E(unpack_archive(&s, &u, &e) == 0);
	CHECK_E(layer_commit(&n, u.digest, u.file_bytes, &f, &i, &e) == 0);
	return i;
}

static int run_on(const struct layer_env *env, const char *layer, const struct layer_new *upper, const char *script,
		  struct buf *out, uint32_t timeout_s)
{
	const char *const argv[] = { "/bin/sh", "-c", script, NULL };
	const struct stack_spec s = {
		.env = env, .layers = &layer, .n_layers = 1, .upper = upper, .argv = argv, .timeout_s = timeout_s
	};

	e = ERR_INIT;
	return stack_run(&s, out, &e);
}

static int in_e(void *arg)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	_cleanup_buf_ struct buf out = BUF_INIT(4096);
	const struct idmap *m = ((void **)arg)[0];
	struct layer_env env = { open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), idmap_sandbox_uid(m, 0),
				 m->kind == IDMAP_SINGLE };
	const struct layer_facts f = { .recipe = "top" };
	struct layer_info base, top, again;
	struct stat st;

	CHECK_E(env.state_fd >= 0);
	CHECK_E(tree_prepare_state(env.state_fd, &e) == 0);
	base = layer_of_fd(&env, *(int *)((void **)arg)[1]);
	CHECK_E(layer_begin(&env, &n, &e) == 0);
	CHECK_E(run_on(&env, base.id, &n,
		       "read a b c </proc/self/uid_map; echo $$ $a; echo hi >/made; echo no >/tmp/scratch", &out,
		       20) == 0);
	CHECK_E(strcmp(out.p, "2 0\n") == 0);
	CHECK_E(run_on(&env, base.id, &n,
		       "read x </made && [ \"$x\" = hi ] && [ ! -e /tmp/scratch ] && echo x >/dev/null", NULL,
		       20) == 0);
	/* What fails says why; what hangs is ended, with what it started. */
	CHECK_E(run_on(&env, base.id, &n, "echo the reason >&2; exit 3", NULL, 20) == -EIO);
	CHECK_E(strstr(e.msg, "the reason") && strstr(e.msg, "(3)"));
	CHECK_E(run_on(&env, base.id, &n, "(while :; do read x </dev/zero & wait; done) & while :; do :; done", NULL,
		       1) == -ETIMEDOUT);
	CHECK_E(run_on(&env, "000000000000000000000000", &n, "true", NULL, 20) < 0);
	CHECK_E(fstatat(n.root_fd, "made", &st, 0) == 0 && st.st_uid == env.sandbox_uid);
	CHECK_E(fstatat(n.root_fd, "tmp/scratch", &st, 0) < 0);
	CHECK_E(layer_commit(&n, NULL, 0, &f, &top, &e) == 0);
	CHECK_E(layer_load(env.state_fd, top.id, &again, &e) == 0);
	CHECK_E(fgetxattr(openat(env.state_fd, "disk/l", O_RDONLY | O_CLOEXEC), "user.overlay.origin", NULL, 0) < 0);
	return 0;
}

static void run_in_e(const struct idmap *m)
{
	_cleanup_close_ int archive = shell_archive();
	void *arg[2] = { (void *)(uintptr_t)m, &archive };
	int status;
	pid_t pid;

	cr_assert_eq(tree_remove(state_fd, "disk", &e), 0);
	cr_assert_eq(tree_remove(state_fd, "templates", &e), 0);
	cr_assert_eq(tree_remove(state_fd, "snapshots", &e), 0);
	cr_assert_eq(fchown(state_fd, m->own_uid, m->own_gid), 0);
	cr_assert_eq(fchdir(state_fd), 0);
	cr_assert_eq(idmap_spawn(m, in_e, arg, &pid, NULL, &e), 0, "%s", e.msg);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
	cr_assert_eq(chdir("/"), 0);
}

Test(layer, stack_runs_with_a_sandbox_s_ids)
{
	struct idmap m;

	idmap_choose(&m);
	if (m.kind == IDMAP_SINGLE)
		cr_skip_test("no range of ids here");
	run_in_e(&m);
}

Test(layer, stack_runs_with_one_id)
{
	struct idmap m = { .kind = IDMAP_SINGLE, .caller_uid = geteuid(), .caller_gid = getegid() };

	m.own_uid = m.caller_uid;
	m.own_gid = m.caller_gid;
	run_in_e(&m);
}
