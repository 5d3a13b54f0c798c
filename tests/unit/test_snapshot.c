/* An upper folder into a layer and back: nothing lost, the same bytes for the same content, hostile trees refused. */
#include "emulator/base/util.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "emulator/base/buf.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "rootfs/snapshot.h"
#include "rootfs/snapshot_tar.h"
#include "rootfs/tree.h"

#define UID 100000u
#define SLOT "s-01arz3ndektsv4rrffq69g5fav"
#define SLOT2 "s-01arz3ndektsv4rrffq69g5faw"

static char dir[] = "/tmp/test-snapshot-XXXXXX";
static int state_fd = -1;
static struct snapshot_dir folder = SNAPSHOT_DIR_INIT;

static void shell(const char *fmt, ...) _printf_(1, 2);
static void shell(const char *fmt, ...)
{
	char cmd[4096], all[8192];
	va_list ap;
	pid_t pid;
	int st;

	va_start(ap, fmt);
	(void)vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	(void)snprintf(all, sizeof(all),
		       "set -e; setfattr() { python3 -c 'import os, sys; os.setxattr(sys.argv[5], sys.argv[2], "
		       "sys.argv[4].encode())' \"$@\"; }; cd %s/disk/s/" SLOT "/u; %s",
		       dir, cmd);
	pid = fork();
	if (pid == 0) {
		(void)execl("/bin/bash", "bash", "-c", all, (char *)NULL);
		_exit(127);
	}
	cr_assert(waitpid(pid, &st, 0) == pid && st == 0, "%s", cmd);
}

static void set_up(void)
{
	struct err e = ERR_INIT;

	cr_assert(mkdtemp(dir));
	state_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert(tree_prepare_state(state_fd, &e) == 0, "%s", e.msg);
	cr_assert(snapshot_dir_open(state_fd, -1, NULL, &folder, &e) == 0, "%s", e.msg);
	cr_assert(tree_make_slot(state_fd, SLOT, UID, &e) == 0, "%s", e.msg);
	cr_assert(tree_make_slot(state_fd, SLOT2, UID, &e) == 0, "%s", e.msg);
}

static void tear_down(void)
{
	struct err e = ERR_INIT;

	cr_expect(tree_remove(AT_FDCWD, ".", NULL) < 0);
	cr_expect(chdir("/tmp") == 0 && tree_remove(AT_FDCWD, dir + strlen("/tmp/"), &e) == 0, "%s", e.msg);
	snapshot_dir_close(&folder);
	closep(&state_fd);
}

TestSuite(snapshot, .init = set_up, .fini = tear_down, .timeout = 60);

static int write_one(const char *slot, struct snapshot_info *ret, struct err *e)
{
	struct json_object *list = json_object_new_array();
	struct snapshot_spec s = { .id = "sbx_1",
				   .slot = slot,
				   .template_name = "t",
				   .template_digest = "sha256:1",
				   .paused_ms = 5,
				   .sandbox_uid = UID,
				   .processes = list,
				   .ports = list };
	int r;

	*e = ERR_INIT;
	r = snapshot_write(&folder, &s, ret, e);
	json_object_put(list);
	return r;
}

/* ---- a listing of everything that matters ---- */

static struct buf listing;
static size_t prefix;

static void add_attributes(const char *path)
{
	char names[4096], value[4096];
	ssize_t n = llistxattr(path, names, sizeof(names));

	for (char *p = names; n > 0 && p < names + n; p += strlen(p) + 1) {
		ssize_t k = lgetxattr(path, p, value, sizeof(value));

		if (strncmp(p, "user.overlay.", 13) == 0 && strcmp(p, "user.overlay.opaque") != 0)
			continue;
		cr_assert(k >= 0 && buf_printf(&listing, " %s=", p) == 0 && buf_add(&listing, value, (size_t)k) == 0);
	}
}

static void add_content(const char *path, const struct stat *st)
{
	char *p = malloc((size_t)st->st_size + 1), hex[TEXT_SHA256_SIZE];
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

	cr_assert(p && fd_read_all(fd, p, (size_t)st->st_size) == st->st_size);
	text_sha256(p, (size_t)st->st_size, hex);
	cr_assert(buf_printf(&listing, " %s %s", hex, st->st_blocks * 512 < st->st_size ? "sparse" : "full") == 0);
	free(p);
}

static int add_entry(const char *path, const struct stat *st, int type _unused_, struct FTW *f _unused_)
{
	char target[4096] = "";
	bool device = S_ISCHR(st->st_mode), file = !S_ISDIR(st->st_mode);

	if (S_ISLNK(st->st_mode))
		cr_assert(readlink(path, target, sizeof(target) - 1) > 0);
	if (device) /* a whiteout: nothing else of it counts */
		return buf_printf(&listing, "%s whiteout\n", path + prefix);
	cr_assert(buf_printf(&listing, "%s %o %u:%u %lld.%09ld %s", path + prefix, st->st_mode, st->st_uid, st->st_gid,
			     (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec, target) == 0);
	if (file)
		cr_assert(buf_printf(&listing, " links=%lu", (unsigned long)st->st_nlink) == 0);
	if (S_ISREG(st->st_mode))
		add_content(path, st);
	add_attributes(path);
	return buf_puts(&listing, "\n");
}

static int compare_lines(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted lines; the caller's. */
static char *list_upper(const char *slot)
{
	char path[256], *lines[512], *p, *line;
	struct buf sorted = BUF_INIT(1 << 20);
	size_t n = 0;

	listing = BUF_INIT(1 << 20);
	prefix = (size_t)snprintf(path, sizeof(path), "%s/disk/s/%s/u", dir, slot);
	cr_assert(nftw(path, add_entry, 8, FTW_PHYS) == 0);
	p = listing.p;
	while ((line = strsep(&p, "\n")) && n < ARRAY_SIZE(lines))
		lines[n++] = line;
	qsort(lines, n, sizeof(*lines), compare_lines);
	for (size_t i = 0; i < n; i++)
		cr_assert(buf_printf(&sorted, "%s\n", lines[i]) == 0);
	buf_free(&listing);
	return sorted.p;
}

static const char make_all[] =
	"mkdir -p d/e/f; echo text > d/plain; chmod 6755 d/plain; : > d/empty; ln d/plain d/e/hard; ln d/plain a-hard;"
	"ln -s ../nowhere d/sym; mkfifo -m 640 d/fifo; ln d/fifo d/fifo2; ln d/sym d/sym2; mknod gone c 0 0; mknod "
	"d/gone c 0 0;"
	"truncate -s 30M d/sparse; printf x | dd of=d/sparse bs=1 seek=20000000 conv=notrunc 2> /dev/null; truncate -s "
	"5M d/hole;"
	"head -c 300000 /dev/urandom > d/random; chmod 0 d/random; echo x > 'd/sp ace'; echo u > d/$(printf "
	"'\\303\\274');"
	"echo b > d/$(printf 'bad\\377name'); long=$(printf '%0200d' 7); mkdir -p $long/$long/$long; echo deep > "
	"$long/$long/$long/x;"
	"setfattr -n user.mine -v value d/plain; setfattr -n user.on -v dir d/e; setfattr -n user.overlay.opaque -v y "
	"d/e/f;"
	"setfattr -n \"user.o d%41%%$(printf '\\303\\274')%\" -v odd d/plain;"
	"setfattr -n user.overlay.origin -v junk d/empty; setfattr -n user.overlay.impure -v y d;"
	"chown -hR 100000:100000 .; chown 101000:102000 d/empty; chown -h 100007:100008 d/sym; chown 165534:165534 d/e;"
	"touch -h -d '2001-02-03 04:05:06.123456789' d/sym d/empty d/random d/fifo d/plain; chmod 1751 .;"
	"touch -d '2002-02-02 02:02:02.2' d/e/f d/e d; touch -d '1999-09-09 09:09:09.000000009' .";

Test(snapshot, everything_comes_back)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct snapshot_info one, two, loaded;
	struct err e;

	shell("%s", make_all);
	before = list_upper(SLOT);
	cr_assert(write_one(SLOT, &one, &e) == 0, "%s", e.msg);
	cr_assert(snapshot_load(&folder, "sbx_1", &loaded, &e) == 0, "%s", e.msg);
	cr_assert_str_eq(loaded.tar_digest, one.tar_digest);
	cr_assert(loaded.paused_ms == 5 && one.size_bytes < 2000000, "%llu", (unsigned long long)one.size_bytes);
	cr_assert(snapshot_unpack(&folder, &loaded, SLOT2, UID, false, NULL, &e) == 0, "%s", e.msg);
	after = list_upper(SLOT2);
	cr_assert_str_eq(after, before);
	cr_assert(strstr(before, " sparse") && strstr(before, "user.mine=value") &&
		  strstr(before, "user.o d%41%%\303\274%=odd") && strstr(before, "user.overlay.opaque=y"));
	/* The copy is as good as the original. */
	cr_assert(write_one(SLOT2, &two, &e) == 0, "%s", e.msg);
	cr_assert_str_eq(two.tar_digest, one.tar_digest);
}

Test(snapshot, an_empty_upper_and_a_second_write)
{
	struct snapshot_info one, two;
	struct err e;

	cr_assert(write_one(SLOT, &one, &e) == 0, "%s", e.msg);
	cr_assert(one.entries == 1);
	shell("echo more > more");
	cr_assert(write_one(SLOT, &two, &e) == 0, "%s", e.msg);
	cr_assert(strcmp(one.tar_digest, two.tar_digest) != 0 && two.entries == 2);
	cr_assert(snapshot_discard(&folder, "sbx_1", &e) == 0 && snapshot_discard(&folder, "sbx_1", &e) == 0);
	cr_assert(snapshot_load(&folder, "sbx_1", &one, &e) == -ENOENT && e.kind == ERR_NOT_FOUND);
}

static const struct {
	const char *make, *named;
} refused[] = {
	{ "echo x > .wh.file", ".wh.file" },
	{ "mkdir .wh.dir", ".wh.dir" },
	{ "mkdir d; mknod d/disk b 8 0", "/d/disk" },
	{ "echo x > f; setfattr -n user.overlay.metacopy -v x f", "/f" },
	{ "mkdir m; setfattr -n user.overlay.redirect -v /etc m", "/m" },
};

Test(snapshot, what_no_layer_can_hold_is_refused)
{
	struct snapshot_info i;
	struct err e;

	for (size_t k = 0; k < ARRAY_SIZE(refused); k++) {
		shell("rm -rf ./* ./.wh*; %s", refused[k].make);
		cr_expect(write_one(SLOT, &i, &e) < 0 && e.kind == ERR_UNSUPPORTED, "%s", refused[k].make);
		cr_expect(strstr(e.msg, refused[k].named), "%s", e.msg);
		cr_expect(snapshot_load(&folder, "sbx_1", &i, &e) < 0);
	}
}

/* 3,000 folders deep: longer than any path may be, and more levels than fds. */
Test(snapshot, a_path_that_is_too_long)
{
	struct snapshot_info i;
	struct err e;

	shell("python3 -c 'import os\nfor i in range(1500): os.mkdir(\"d\"); os.chdir(\"d\")'");
	cr_assert(write_one(SLOT, &i, &e) == 0, "%s", e.msg);
	cr_assert(i.entries == 1501);
	shell("rm -r d; python3 -c 'import os\nfor i in range(3000): os.mkdir(\"d\"); os.chdir(\"d\")'");
	cr_assert(write_one(SLOT, &i, &e) < 0 && e.kind == ERR_UNSUPPORTED, "%s", e.msg);
}

Test(snapshot, a_damaged_one)
{
	struct snapshot_info i;
	char path[128];
	struct err e;
	int fd;

	shell("head -c 300000 /dev/urandom > r");
	cr_assert(write_one(SLOT, &i, &e) == 0);
	(void)snprintf(path, sizeof(path), "%s/snapshots/sbx_1.tar.zst", dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	cr_assert(fd >= 0 && pwrite(fd, "damage", 6, 150000) == 6);
	cr_assert(snapshot_load(&folder, "sbx_1", &i, &e) == 0);
	cr_assert(snapshot_unpack(&folder, &i, SLOT2, UID, false, NULL, &e) < 0);
	cr_assert(e.kind == ERR_UNAVAILABLE && strcmp(e.reason, "snapshot_damaged") == 0, "%s", e.msg);
	cr_assert(ftruncate(fd, 100000) == 0);
	cr_assert(snapshot_load(&folder, "sbx_1", &i, &e) < 0 && e.kind == ERR_UNAVAILABLE);
	(void)close(fd);
}

Test(snapshot, cancelled)
{
	const volatile bool yes = true;
	struct snapshot_tar_spec s = { .upper_fd = -1, .out_fd = -1, .sandbox_uid = UID, .cancelled = &yes };
	struct snapshot_tar_result res;
	struct err e = ERR_INIT;

	shell("head -c 1000000 /dev/zero > z");
	s.upper_fd = openat(state_fd, "disk/s/" SLOT "/u", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s.out_fd = openat(state_fd, "out", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert(snapshot_tar_write(&s, &res, &e) == -ECANCELED);
	closep(&s.upper_fd);
	closep(&s.out_fd);
}

/* Large enough for the second process. */
Test(snapshot, a_large_one)
{
	_cleanup_free_ char *before = NULL, *after = NULL;
	struct snapshot_info i;
	struct stat st;
	struct err e;

	shell("head -c 30000000 /dev/urandom > a; head -c 10000000 /dev/zero | tr '\\0' x > b; chown -h 100000:100000 "
	      ". a b; "
	      "touch -d '1999-09-09' .");
	before = list_upper(SLOT);
	cr_assert(write_one(SLOT, &i, &e) == 0, "%s", e.msg);
	cr_assert(fstatat(state_fd, "snapshots/sbx_1.tar.zst", &st, 0) == 0 && (uint64_t)st.st_size == i.size_bytes);
	cr_assert(snapshot_unpack(&folder, &i, SLOT2, UID, false, NULL, &e) == 0, "%s", e.msg);
	after = list_upper(SLOT2);
	cr_assert_str_eq(after, before);
	cr_assert(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "the compressor is left");
}

/* A write error of the second process is the first one's. */
Test(snapshot, a_large_one_that_does_not_fit)
{
	struct snapshot_tar_spec s = { .sandbox_uid = UID };
	struct snapshot_tar_result res;
	struct err e = ERR_INIT;

	shell("head -c 30000000 /dev/urandom > a");
	s.upper_fd = openat(state_fd, "disk/s/" SLOT "/u", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	s.out_fd = openat(state_fd, "out", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	(void)signal(SIGXFSZ, SIG_IGN);
	cr_assert(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 20000000, 20000000 }) == 0);
	cr_assert(snapshot_tar_write(&s, &res, &e) == -EFBIG, "%s", e.msg);
	cr_assert(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "the compressor is left");
	closep(&s.upper_fd);
	closep(&s.out_fd);
}

static enum snapshot_fate keep_one(void *arg _unused_, const char *id)
{
	return strcmp(id, "sbx_1") == 0 ? SNAPSHOT_KEEP : SNAPSHOT_OVER;
}

Test(snapshot, sweep)
{
	struct snapshot_info i;
	char path[128];
	struct err e;

	cr_assert(write_one(SLOT, &i, &e) == 0);
	for (const char *const *n = (const char *const[]){ "sbx_2.json", "sbx_3.tar.zst", ".tmp-x", "odd", NULL }; *n;
	     n++) {
		(void)snprintf(path, sizeof(path), "snapshots/%s", *n);
		cr_assert(close(openat(state_fd, path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
	}
	cr_assert(snapshot_sweep(&folder, keep_one, NULL, &e) == 0, "%s", e.msg);
	cr_assert(snapshot_load(&folder, "sbx_1", &i, &e) == 0);
	for (const char *const *n = (const char *const[]){ "sbx_2.json", "sbx_3.tar.zst", ".tmp-x", "odd", NULL }; *n;
	     n++) {
		(void)snprintf(path, sizeof(path), "snapshots/%s", *n);
		cr_assert(faccessat(state_fd, path, F_OK, 0) < 0, "%s", *n);
	}
}

/* ---- one folder, two holders ---- */

static void open_shared(struct snapshot_dir *d, int *hold)
{
	static const char *const names[] = { "one", "two" };
	static size_t n;
	_cleanup_close_ int state = -1;
	char holder[TEXT_ULID_SIZE];
	struct err e = ERR_INIT;
	int fd = openat(state_fd, "snapshots", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	cr_assert(mkdirat(state_fd, names[n % 2], 0700) == 0);
	state = openat(state_fd, names[n++ % 2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert(snapshot_hold(state, fd, 0, 0, holder, hold, &e) == 0, "%s", e.msg);
	cr_assert(snapshot_dir_open(state_fd, fd, holder, d, &e) == 0, "%s", e.msg);
}

static void count_one(void *arg, const char *id)
{
	*(int *)arg += strcmp(id, "sbx_1") == 0;
}

static int seen_by(const struct snapshot_dir *d)
{
	struct err e = ERR_INIT;
	int n = 0;

	cr_assert(snapshot_each(d, count_one, &n, &e) >= 0, "%s", e.msg);
	return n;
}

Test(snapshot, of_two_claims_one_wins)
{
	struct snapshot_dir a = SNAPSHOT_DIR_INIT, b = SNAPSHOT_DIR_INIT;
	int hold_a = -1, hold_b = -1;
	struct snapshot_info i;
	struct err e;

	cr_assert(write_one(SLOT, &i, &e) == 0);
	open_shared(&a, &hold_a);
	open_shared(&b, &hold_b);
	cr_assert(strcmp(a.holder, b.holder) != 0 && seen_by(&a) == 1 && seen_by(&b) == 1);
	cr_assert(snapshot_claim(&a, "sbx_1", &e) == 0 && snapshot_claim(&a, "sbx_1", &e) == 0);
	cr_assert(snapshot_claim(&b, "sbx_1", &e) == -ENOENT && e.kind == ERR_NOT_FOUND);
	/* It is a's, whatever b does: the tar stays. */
	cr_assert(snapshot_discard(&b, "sbx_1", &e) == 0 && seen_by(&b) == 0);
	cr_assert(snapshot_load(&a, "sbx_1", &i, &e) == 0 && snapshot_load(&b, "sbx_1", &i, &e) == -ENOENT);
	cr_assert(snapshot_unclaim(&a, "sbx_1", &e) == 0 && seen_by(&b) == 1);
	/* Only a dead holder's claim is taken from it. */
	cr_assert(snapshot_claim(&a, "sbx_1", &e) == 0 && seen_by(&b) == 0);
	closep(&hold_a);
	cr_assert(seen_by(&b) == 1 && snapshot_claim(&b, "sbx_1", &e) == 0);
	cr_assert(snapshot_claim(&a, "sbx_1", &e) == -ENOENT);
	cr_assert(snapshot_discard(&b, "sbx_1", &e) == 0 && snapshot_empty_trash(&b, &e) == 0);
	cr_assert(faccessat(b.dir_fd, "sbx_1.tar.zst", F_OK, 0) < 0);
	closep(&hold_b);
	snapshot_dir_close(&a);
	snapshot_dir_close(&b);
}

static enum snapshot_fate all_strange(void *arg _unused_, const char *id _unused_)
{
	return SNAPSHOT_STRANGE;
}

Test(snapshot, a_sweep_leaves_what_others_share)
{
	struct snapshot_dir a = SNAPSHOT_DIR_INIT;
	struct snapshot_info i;
	int hold = -1;
	struct err e;

	cr_assert(write_one(SLOT, &i, &e) == 0);
	open_shared(&a, &hold);
	cr_assert(close(openat(a.dir_fd, "sbx_9.tar.zst", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
	cr_assert(snapshot_sweep(&a, all_strange, NULL, &e) == 0 && seen_by(&a) == 1);
	cr_assert(faccessat(a.dir_fd, "sbx_9.tar.zst", F_OK, 0) == 0, "somebody may be writing it");
	cr_assert(snapshot_claim(&a, "sbx_1", &e) == 0);
	cr_assert(snapshot_sweep(&a, all_strange, NULL, &e) == 0 && seen_by(&a) == 1, "an own claim is given back");
	cr_assert(snapshot_sweep(&a, keep_one, NULL, &e) == 0 && seen_by(&a) == 1);
	cr_assert(faccessat(a.dir_fd, "sbx_9.tar.zst", F_OK, 0) < 0, "it is over");
	closep(&hold);
	snapshot_dir_close(&a);
}
