/* rootfs/treetar.h, rootfs/unpack.h (live and for layers), emulator/files_tar.h: what the API tests can't get at. */

#include "tests/unit/files_fixture.h"

#include <archive.h>
#include <archive_entry.h>
#include <uv.h>

#include "emulator/base/buf.h"
#include "emulator/files_tar.h"
#include "rootfs/names.h"
#include "rootfs/newfile.h"
#include "rootfs/treetar.h"
#include "rootfs/unpack.h"

TestSuite(files_tar, .init = setup, .fini = teardown, .timeout = 60);

/* ---- archives in memory ---- */

struct made {
	const char *name, *link; /* link: a symlink, or with hard a hardlink */
	const char *data;	 /* NULL with neither: a folder */
	mode_t mode;
	bool hard;
};

static int add_to_buf(void *arg, const void *p, size_t n)
{
	return buf_add(arg, p, n);
}

static la_ssize_t la_write(struct archive *a _unused_, void *arg, const void *p, size_t n)
{
	cr_assert(buf_add(arg, p, n) == 0);
	return (la_ssize_t)n;
}

static void make(struct buf *b, const struct made *m, size_t n)
{
	struct archive *a = archive_write_new();
	struct archive_entry *en = archive_entry_new();

	cr_assert(archive_write_set_format_pax(a) == ARCHIVE_OK);
	cr_assert(archive_write_open(a, b, NULL, la_write, NULL) == ARCHIVE_OK);
	for (size_t i = 0; i < n; i++) {
		archive_entry_clear(en);
		archive_entry_copy_pathname(en, m[i].name);
		archive_entry_set_perm(en, m[i].mode ? m[i].mode : 0644);
		archive_entry_set_filetype(en, m[i].link && !m[i].hard	? AE_IFLNK
					       : m[i].data || m[i].hard ? AE_IFREG
									: AE_IFDIR);
		archive_entry_set_size(en, m[i].data ? (la_int64_t)strlen(m[i].data) : 0);
		if (m[i].link && m[i].hard)
			archive_entry_copy_hardlink(en, m[i].link);
		else if (m[i].link)
			archive_entry_copy_symlink(en, m[i].link);
		cr_assert(archive_write_header(a, en) == ARCHIVE_OK, "%s", archive_error_string(a));
		if (m[i].data)
			cr_assert(archive_write_data(a, m[i].data, strlen(m[i].data)) >= 0);
	}
	cr_assert(archive_write_close(a) == ARCHIVE_OK);
	archive_entry_free(en);
	(void)archive_write_free(a);
}

struct source {
	const struct buf *b;
	size_t at;
};

static ssize_t read_buf(void *arg, void *p, size_t n)
{
	struct source *s = arg;

	n = MIN(n, s->b->len - s->at);
	memcpy(p, s->b->p + s->at, n);
	s->at += n;
	return (ssize_t)n;
}

static int unpack(const struct buf *b, bool live, struct unpack_result *res, struct err *e)
{
	_cleanup_close_ int fd = openat(ctx.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct source from = { .b = b };
	struct unpack_spec s = { .read = read_buf,
				 .read_arg = &from,
				 .root_fd = fd,
				 .live = live,
				 .sandbox_uid = OWNER,
				 .limits = { .max_bytes = 1u << 20, .max_entries = 100 } };

	return unpack_archive(&s, res, e);
}

/* The names in an archive, a line each. */
static void names_of(const struct buf *b, struct buf *ret)
{
	struct archive *a = archive_read_new();
	struct archive_entry *en;

	cr_assert(archive_read_support_format_tar(a) == ARCHIVE_OK);
	cr_assert(archive_read_open_memory(a, b->p, b->len) == ARCHIVE_OK);
	while (archive_read_next_header(a, &en) == ARCHIVE_OK)
		cr_assert(buf_printf(ret, "%s%s%s\n", archive_entry_pathname(en),
				     archive_entry_hardlink(en) ? " = " : "",
				     archive_entry_hardlink(en) ? archive_entry_hardlink(en) : "") == 0);
	(void)archive_read_free(a);
}

static int pack(int dirfd, struct buf *b, const volatile bool *stop, struct treetar_result *res, struct err *e)
{
	struct treetar_spec s = { .dir_fd = dirfd, .uid = 0, .write = add_to_buf, .write_arg = b, .stop = stop };

	return treetar_write(&s, res, e);
}

/* ---- the pieces ---- */

Test(files_tar, names_are_sorted_by_bytes)
{
	_cleanup_close_ int fd = openat(ctx.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	static const char *const want[] = { "A", "a", "a b", "ab", "b", "\xc3\xa4", "\xff" };
	_cleanup_names_ struct names l = NAMES_INIT;

	for (size_t i = ARRAY_SIZE(want); i > 0; i--)
		cr_assert(mkdirat(ctx.root_fd, want[i - 1], 0755) == 0);
	cr_assert(names_read(&l, fd) == 0 && l.n == ARRAY_SIZE(want));
	for (size_t i = 0; i < l.n; i++)
		cr_expect_str_eq(names_at(&l, i), want[i]);
}

Test(files_tar, a_new_file_appears_whole_or_not_at_all)
{
	struct newfile f = NEWFILE_INIT;

	must_put("/there", "old");
	cr_assert(mkdirat(ctx.root_fd, "folder", 0755) == 0);
	for (int replace = 0; replace < 2; replace++) {
		const char *const names[] = { "there", "new", "folder" };

		for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
			cr_assert(newfile_open(&f, ctx.root_fd) == 0 && fd_write_all(f.fd, "data", 4) == 0);
			cr_expect(newfile_publish(&f, names[i], replace) == (i == 2 ? -EISDIR : 0), "%s", names[i]);
			newfile_drop(&f);
			cr_expect(count_entries("/") == (replace || i > 0 ? 3 : 2), "nothing else is there");
		}
		expect_text("/there", "data");
		expect_text("/new", "data");
	}
	cr_assert(newfile_open(&f, ctx.root_fd) == 0);
	newfile_drop(&f);
	cr_expect(count_entries("/") == 3);
}

/* ---- in ---- */

/* Where a layer and a live folder differ. */
Test(files_tar, a_layer_and_a_live_folder)
{
	static const struct {
		struct made m[4];
		bool layer, live; /* it is taken */
	} cases[] = {
		{ { { .name = "/abs", .data = "x" } }, true, false },
		{ { { .name = ".wh.x", .data = "x" } }, false, true },
		{ { { .name = "d" }, { .name = "d/e" }, { .name = "d/e", .data = "file" } }, true, true },
		{ { { .name = "d" }, { .name = "d/e" }, { .name = "d/e", .link = "/etc" } }, true, true },
		{ { { .name = "d" }, { .name = "d/e", .data = "x" }, { .name = "d", .data = "x" } }, false, false },
		{ { { .name = "l", .link = "." }, { .name = "l/x", .data = "x" } }, false, false },
		{ { { .name = "l", .link = "x" }, { .name = "l" } }, true, true },
		{ { { .name = "f", .data = "1" },
		    { .name = "g", .link = "f", .hard = true },
		    { .name = "g", .link = "f", .hard = true } },
		  true,
		  true },
		{ { { .name = "f", .data = "1" }, { .name = "f", .link = "f", .hard = true } }, false, false },
		{ { { .name = "a/../b", .data = "x" } }, false, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		for (int live = 0; live < 2; live++) {
			_cleanup_buf_ struct buf b = BUF_INIT(1u << 20);
			struct files_ctx all = { .root_fd = base_fd };
			struct unpack_result res;
			struct err e = ERR_INIT;
			size_t n = 0;
			int r;

			while (n < ARRAY_SIZE(cases[i].m) && cases[i].m[n].name)
				n++;
			make(&b, cases[i].m, n);
			r = unpack(&b, live, &res, &e);
			cr_expect((r == 0) == (live ? cases[i].live : cases[i].layer), "case %zu live %d: %s", i, live,
				  e.msg);
			cr_expect(r == 0 ? res.made == n : res.made < n, "case %zu live %d: %llu made", i, live,
				  (unsigned long long)res.made);
			cr_assert(files_remove(&all, "/root", true, &e) == 0 && mkdirat(base_fd, "root", 0755) == 0);
			closep(&ctx.root_fd);
			ctx.root_fd = openat(base_fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
		}
}

Test(files_tar, owners_in_a_layer_and_in_a_live_folder)
{
	static const struct made m[] = { { .name = "d" }, { .name = "d/f", .data = "x", .mode = 04755 } };

	for (int live = 0; live < 2; live++) {
		_cleanup_buf_ struct buf b = BUF_INIT(1u << 20);
		struct unpack_result res;
		struct err e = ERR_INIT;
		struct stat st;

		make(&b, m, ARRAY_SIZE(m));
		cr_assert(unpack(&b, live, &res, &e) == 0, "%s", e.msg);
		cr_assert(fstatat(ctx.root_fd, "d/f", &st, 0) == 0);
		cr_expect(st.st_uid == (live ? geteuid() : OWNER) && (st.st_mode & 07777) == 04755);
		cr_expect((strlen(res.digest) == 64) == !live);
		cr_expect(files_remove(&ctx, "/d", true, &e) == 0);
	}
}

Test(files_tar, it_stops_when_told)
{
	static const struct made m[] = { { .name = "f", .data = "x" } };
	_cleanup_close_ int fd = openat(ctx.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_buf_ struct buf b = BUF_INIT(1u << 20), out = BUF_INIT(1u << 20);
	volatile bool stop = true;
	struct source from = { .b = &b };
	struct unpack_spec s = { .read = read_buf,
				 .read_arg = &from,
				 .root_fd = fd,
				 .live = true,
				 .stop = &stop,
				 .limits = UNPACK_LIMITS_DEFAULT };
	struct treetar_result packed;
	struct unpack_result res;
	struct err e = ERR_INIT;

	make(&b, m, 1);
	cr_expect(unpack_archive(&s, &res, &e) == -ECANCELED && e.kind == ERR_NOT_READY);
	cr_expect(count_entries("/") == 0);
	must_put("/f", "x");
	cr_expect(pack(fd, &out, &stop, &packed, &e) == -ECANCELED && out.len == 0);
}

/* ---- out ---- */

Test(files_tar, deeper_than_the_open_levels_and_back)
{
	_cleanup_buf_ struct buf b = BUF_INIT(64u << 20), names = BUF_INIT(1u << 20), want = BUF_INIT(1u << 20);
	_cleanup_buf_ struct buf path = BUF_INIT(1u << 16);
	int at = openat(ctx.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int top = dup(at);
	struct treetar_result res;
	struct err e = ERR_INIT;

	for (int i = 0; i < 200; i++) {
		int next;

		cr_assert(mkdirat(at, "m", 0755) == 0 && mkdirat(at, i % 3 ? "a" : "z", 0755) == 0);
		if (i % 3)
			cr_assert(buf_printf(&want, "%sa/\n", path.p ? path.p : "") == 0);
		cr_assert(buf_printf(&path, "m/") == 0 && buf_printf(&want, "%s\n", path.p) == 0);
		next = openat(at, "m", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		(void)close(at);
		at = next;
	}
	(void)close(at);
	for (int i = 199; i >= 0; i--)
		if (i % 3 == 0)
			cr_assert(buf_printf(&want, "%.*sz/\n", 2 * i, path.p) == 0);
	cr_assert(pack(top, &b, NULL, &res, &e) == 0, "%s", e.msg);
	cr_expect(res.entries == 400);
	names_of(&b, &names);
	cr_expect_str_eq(names.p, want.p);
}

/* Somebody else, at work while the archive is made. */
struct meddler {
	bool move; /* else: shrink */
	bool done;
};

static int meddle(void *arg, const void *p _unused_, size_t n _unused_)
{
	struct meddler *m = arg;
	_cleanup_close_ int fd = -1;

	if (m->done)
		return 0;
	m->done = true;
	if (m->move)
		return renameat(ctx.root_fd, "m", outside_fd, "m") < 0 ? -errno : 0;
	fd = openat(ctx.root_fd, "big", O_WRONLY | O_CLOEXEC);
	return ftruncate(fd, 1 << 20) < 0 ? -errno : 0;
}

Test(files_tar, what_changes_meanwhile_ends_the_archive)
{
	for (int move = 0; move < 2; move++) {
		_cleanup_close_ int top = openat(ctx.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		_cleanup_close_ int big = -1;
		struct meddler m = { .move = move };
		struct treetar_spec s = { .dir_fd = top, .write = meddle, .write_arg = &m };
		struct treetar_result res;
		struct err e = ERR_INIT;
		int at = dup(top);

		/* Deep enough that the top level is closed when the file at the bottom is sent. */
		for (int i = 0; move && i < 100; i++) {
			int next;

			cr_assert(mkdirat(at, "m", 0755) == 0 && mkdirat(at, "z", 0755) == 0);
			next = openat(at, "m", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			(void)close(at);
			at = next;
		}
		big = openat(at, "big", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		cr_assert(ftruncate(big, 8 << 20) == 0);
		(void)close(at);
		cr_expect(treetar_write(&s, &res, &e) == -EAGAIN && e.kind == ERR_BUSY, "%d: %s", move, e.msg);
		cr_expect(m.done);
		cr_expect(unlinkat(ctx.root_fd, "big", 0) == 0 || move);
	}
}

Test(files_tar, hardlinks_and_odd_names)
{
	_cleanup_close_ int fd = openat(ctx.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_buf_ struct buf b = BUF_INIT(1u << 20), again = BUF_INIT(1u << 20), names = BUF_INIT(1u << 16);
	struct treetar_result res;
	struct err e = ERR_INIT;

	must_put("/b/one", "x");
	cr_assert(linkat(ctx.root_fd, "b/one", ctx.root_fd, "c", 0) == 0);
	cr_assert(linkat(ctx.root_fd, "b/one", outside_fd, "elsewhere", 0) == 0);
	must_put("/\xff\n", "raw");
	cr_assert(pack(fd, &b, NULL, &res, &e) == 0, "%s", e.msg);
	names_of(&b, &names);
	cr_expect_str_eq(names.p, "b/\nb/one\nc = b/one\n\xff\n\n");
	cr_assert(pack(fd, &again, NULL, &res, &e) == 0);
	cr_expect(again.len == b.len && memcmp(again.p, b.p, b.len) == 0, "the same tree, the same bytes");
}

/* ---- through a worker ---- */

struct talk {
	struct files_tar *t;
	struct buf in, out; /* to be written, read */
	size_t sent;
	bool done, over;
	int checks;
	struct err err;
	struct files_tar_result res;
};

static void on_ready(void *arg)
{
	struct talk *k = arg;
	char block[4096];
	ssize_t n;

	if (k->in.len > 0) {
		k->sent += files_tar_write(k->t, k->in.p + k->sent, k->in.len - k->sent);
		if (k->sent == k->in.len)
			files_tar_end(k->t);
		return;
	}
	while ((n = files_tar_read(k->t, block, sizeof(block))) > 0)
		cr_assert(buf_add(&k->out, block, (size_t)n) == 0);
	k->over = n == 0;
	if (k->over && k->done)
		files_tar_drop(TAKE_PTR(k->t));
}

static void on_done(void *arg, const struct err *e, const struct files_tar_result *res)
{
	struct talk *k = arg;

	k->done = true;
	k->err = *e;
	k->res = *res;
	if (k->in.len > 0 || k->over)
		files_tar_drop(TAKE_PTR(k->t));
}

static int on_check(void *arg, struct err *e)
{
	struct talk *k = arg;

	return k->checks-- > 0 ? 0 : err_set(e, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "it has ended");
}

static struct files_tar_events events_of(struct talk *k)
{
	return (struct files_tar_events){ on_ready, on_done, on_check, k };
}

Test(files_tar, a_tree_out_and_in_again)
{
	struct talk out = { .out = BUF_INIT(64u << 20), .checks = 100 }, in = { .checks = 100 };
	struct files_tar_events ev = events_of(&out);
	struct err e = ERR_INIT;
	char big[300000];
	uv_loop_t loop;

	memset(big, 'b', sizeof(big));
	cr_assert(put_as("/tree/big", big, sizeof(big), 0600, &e) == 0);
	must_put("/tree/d/small", "small");
	cr_assert(uv_loop_init(&loop) == 0);
	ctx.uid = geteuid();
	cr_assert(files_tar_pack(&loop, &ctx, "/tree", &ev, &out.t, &e) == 0, "%s", e.msg);
	on_ready(&out);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	cr_expect(out.done && out.over && out.err.kind == ERR_NONE && out.res.entries == 3, "%s", out.err.msg);
	in.in = out.out;
	ev = events_of(&in);
	cr_assert(files_tar_unpack(&loop, &ctx, "/new/place", 1u << 20, 10, &ev, &in.t, &e) == 0, "%s", e.msg);
	on_ready(&in);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	cr_expect(in.done && in.err.kind == ERR_NONE && in.res.entries == 3, "%s", in.err.msg);
	expect_text("/new/place/d/small", "small");
	buf_free(&out.out);
	cr_expect(uv_loop_close(&loop) == 0, "no handle is left");
}

Test(files_tar, a_job_that_is_dropped_or_whose_sandbox_ends)
{
	static const struct made m[] = { { .name = "f", .data = "x" } };
	struct talk k = { .in = BUF_INIT(1u << 20) };
	struct files_tar_events ev = events_of(&k);
	struct err e = ERR_INIT;
	uv_loop_t loop;

	cr_assert(uv_loop_init(&loop) == 0);
	ctx.uid = geteuid();
	make(&k.in, m, 1);
	cr_assert(files_tar_unpack(&loop, &ctx, "/x", 1u << 20, 10, &ev, &k.t, &e) == 0, "%s", e.msg);
	cr_expect(files_tar_write(k.t, k.in.p, 512) == 512);
	(void)uv_run(&loop, UV_RUN_DEFAULT); /* until the timer has asked */
	cr_expect(k.done && k.err.kind == ERR_NOT_READY, "%s", k.err.msg);
	cr_assert(files_tar_unpack(&loop, &ctx, "/x", 1u << 20, 10, &ev, &k.t, &e) == 0, "%s", e.msg);
	k.done = false;
	files_tar_drop(TAKE_PTR(k.t));
	cr_assert(files_tar_pack(&loop, &ctx, "/x", &ev, &k.t, &e) == 0, "%s", e.msg);
	files_tar_drop(TAKE_PTR(k.t));
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	cr_expect(!k.done, "no events after that");
	buf_free(&k.in);
	cr_expect(uv_loop_close(&loop) == 0);
	cr_expect(count_entries("/x") == 0);
}

Test(files_tar, so_many_at_a_time_and_no_more)
{
	struct talk k[FILES_TAR_MAX_JOBS + 1] = { 0 };
	struct err e = ERR_INIT;
	uv_loop_t loop;

	cr_assert(uv_loop_init(&loop) == 0);
	ctx.uid = geteuid();
	for (size_t i = 0; i < ARRAY_SIZE(k); i++) {
		struct files_tar_events ev = events_of(&k[i]);
		int r = files_tar_unpack(&loop, &ctx, "/x", 1u << 20, 10, &ev, &k[i].t, &e);

		cr_expect((r == 0) == (i < FILES_TAR_MAX_JOBS), "%zu: %s", i, e.msg);
	}
	cr_expect(e.kind == ERR_CAPACITY);
	for (size_t i = 0; i < ARRAY_SIZE(k); i++)
		files_tar_drop(k[i].t);
	(void)uv_run(&loop, UV_RUN_DEFAULT);
	cr_expect(uv_loop_close(&loop) == 0);
}

Test(files_tar, places_that_are_no_directory_to_work_in)
{
	struct talk k = { 0 };
	struct files_tar_events ev = events_of(&k);
	struct err e = ERR_INIT;
	uv_loop_t loop;

	cr_assert(uv_loop_init(&loop) == 0);
	must_put("/file", "x");
	expect_err(files_tar_pack(&loop, &ctx, "/file", &ev, &k.t, &e), &e, "pack a file", "not_a_directory");
	expect_err(files_tar_pack(&loop, &ctx, "/none", &ev, &k.t, &e), &e, "pack nothing", "file_not_found");
	expect_err(files_tar_unpack(&loop, &ctx, "/file", 1, 1, &ev, &k.t, &e), &e, "unpack into a file",
		   "not_a_directory");
	expect_err(files_tar_unpack(&loop, &ctx, "x", 1, 1, &ev, &k.t, &e), &e, "relative", "path_invalid");
	cr_expect(uv_loop_close(&loop) == 0);
}
