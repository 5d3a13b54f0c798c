#pragma once
/* For the tests of emulator/files.h: a folder as the sandbox's root, one outside of it, and short names for
 * what the tests do all the time. */

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/files.h"

#define OWNER 4321u

static char base[64];
static int base_fd = -1, outside_fd = -1;
static struct files_ctx ctx = { .root_fd = -1, .uid = OWNER };

static _unused_ void setup(void)
{
	(void)snprintf(base, sizeof(base), "%s/orkestr-files-XXXXXX",
		       access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	cr_assert(mkdtemp(base));
	base_fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert(mkdirat(base_fd, "root", 0755) == 0 && mkdirat(base_fd, "outside", 0755) == 0);
	ctx.root_fd = openat(base_fd, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	outside_fd = openat(base_fd, "outside", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert(ctx.root_fd >= 0 && outside_fd >= 0);
}

static _unused_ void teardown(void)
{
	struct files_ctx all = { .root_fd = base_fd };
	struct err e = ERR_INIT;

	cr_expect(files_remove(&all, "/root", true, &e) == 0, "%s", e.msg);
	cr_expect(files_remove(&all, "/outside", true, &e) == 0, "%s", e.msg);
	cr_expect(rmdir(base) == 0);
}

static _unused_ int put_as(const char *path, const void *p, size_t n, uint32_t mode, struct err *e)
{
	struct files_write *w = NULL;
	int r = files_write_begin(&ctx, path, mode, &w, e);

	if (r < 0)
		return r;
	r = files_write_data(w, p, n, e);
	if (r < 0) {
		files_write_abort(w);
		return r;
	}
	return files_write_commit(w, NULL, e);
}

static _unused_ int put(const char *path, const char *text, struct err *e)
{
	return put_as(path, text, strlen(text), UINT32_MAX, e);
}

static _unused_ void must_put(const char *path, const char *text)
{
	struct err e = ERR_INIT;

	cr_assert(put(path, text, &e) == 0, "%s: %s", path, e.msg);
}

static _unused_ int get(const char *path, char *ret, size_t cap, struct err *e)
{
	struct files_entry en;
	_cleanup_close_ int fd = files_open(&ctx, path, &en, e);
	ssize_t n;

	if (fd < 0)
		return fd;
	n = fd_read_all(fd, ret, cap - 1);
	cr_assert(n >= 0);
	ret[n] = '\0';
	return 0;
}

static _unused_ void expect_text(const char *path, const char *text)
{
	char got[256] = "";
	struct err e = ERR_INIT;

	cr_expect(get(path, got, sizeof(got), &e) == 0, "%s: %s", path, e.msg);
	cr_expect_str_eq(got, text);
}

static _unused_ void expect_err(int r, const struct err *e, const char *what, const char *reason)
{
	cr_expect(r < 0, "%s must fail", what);
	cr_expect(e->reason && strcmp(e->reason, reason) == 0, "%s: %s (%s)", what, e->reason ? e->reason : "-",
		  e->msg);
}

static _unused_ int count_one(void *arg, const struct files_entry *en)
{
	(void)en;
	++*(unsigned int *)arg;
	return 0;
}

/* A page of a directory, entry by entry, as the routes make one. */
static _unused_ int list_page(const struct files_ctx *c, const char *path, const char *after, uint32_t limit,
			      int (*fn)(void *arg, const struct files_entry *en), void *arg, bool *ret_more,
			      struct err *e)
{
	struct files_entry en;
	struct files_dir *d;
	int r = files_dir_open(c, path, after, limit, &d, e);

	if (r < 0)
		return r;
	for (;;) {
		r = files_dir_next(d, &en, e);
		if (r <= 0)
			break;
		r = fn(arg, &en);
		if (r < 0)
			break;
	}
	if (r == 0 && ret_more)
		*ret_more = files_dir_more(d);
	files_dir_free(d);
	return r;
}

static _unused_ unsigned int count_entries(const char *path)
{
	unsigned int n = 0;
	struct err e = ERR_INIT;

	cr_assert(list_page(&ctx, path, NULL, 1u << 20, count_one, &n, NULL, &e) == 0, "%s", e.msg);
	return n;
}

static _unused_ void link_to(const char *target, const char *at)
{
	cr_assert(symlinkat(target, ctx.root_fd, at) == 0);
}
