/* emulator/files.h while a hostile process in the sandbox changes the tree as fast as it can. */

#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/unit/files_fixture.h"

TestSuite(files_race, .init = setup, .fini = teardown, .timeout = 60);

static pid_t start(void (*fn)(void))
{
	pid_t pid = fork();

	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		_exit(0);
	}
	cr_assert(pid > 0);
	return pid;
}

static void stop(pid_t pid)
{
	(void)kill(pid, SIGKILL);
	(void)waitpid(pid, NULL, 0);
}

enum { WHOLE = 300000 };

/* Exits with 1 on the first torn read. */
static void read_for_ever(void)
{
	static char buf[WHOLE + 1];

	for (;;) {
		struct files_entry en;
		_cleanup_close_ int fd = files_open(&ctx, "/f", &en, NULL);
		ssize_t n = fd < 0 ? 0 : fd_read_all(fd, buf, sizeof(buf));

		if (n != WHOLE || memcmp(buf, buf + 1, WHOLE - 1) != 0)
			_exit(1);
	}
}

Test(files_race, readers_see_the_old_or_the_new_file)
{
	static char data[WHOLE];
	struct err e = ERR_INIT;
	pid_t reader;
	int status = 0;

	memset(data, 'a', sizeof(data));
	cr_assert(put_as("/f", data, WHOLE, UINT32_MAX, &e) == 0);
	reader = start(read_for_ever);
	for (int i = 0; i < 1000; i++) {
		memset(data, 'a' + i % 26, sizeof(data));
		cr_assert(put_as("/f", data, WHOLE, UINT32_MAX, &e) == 0, "%s", e.msg);
	}
	cr_expect(waitpid(reader, &status, WNOHANG) == 0, "the reader saw half a file");
	stop(reader);
	cr_expect(count_entries("/") == 1);
}

/* What a hostile process in the sandbox would do, as fast as it can. */
static void swap_for_ever(void)
{
	for (;;)
		(void)renameat2(ctx.root_fd, "a", ctx.root_fd, "b", RENAME_EXCHANGE);
}

Test(files_race, a_folder_swapped_for_a_symlink_leads_nowhere)
{
	struct files_ctx out = { .root_fd = outside_fd };
	struct err e = ERR_INIT;
	unsigned int written = 0, refused = 0, n = 0;
	pid_t swapper;

	cr_assert(mkdirat(outside_fd, "d", 0755) == 0);
	cr_assert(close(openat(outside_fd, "d/f", O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) == 0);
	cr_assert(mkdirat(ctx.root_fd, "a", 0755) == 0);
	link_to("../outside", "b");
	swapper = start(swap_for_ever);
	for (int i = 0; i < 4000; i++) {
		char path[32];
		int r;

		(void)snprintf(path, sizeof(path), "/a/d%d/f", i % 7);
		r = put(path, "x", &e);
		written += r == 0;
		refused += r < 0;
		cr_assert(r == 0 || e.kind == ERR_NOT_FOUND || e.kind == ERR_INVALID || e.kind == ERR_BUSY, "%s",
			  e.msg);
		(void)put("/a/d/f", "x", &e);
		(void)files_remove(&ctx, "/a/d/f", false, &e);
		(void)files_remove(&ctx, path, true, &e);
		(void)snprintf(path, sizeof(path), "/a/d%d", i % 7);
		(void)files_remove(&ctx, path, true, &e);
		(void)files_remove(&ctx, "/a/d", true, &e);
		if (list_page(&ctx, "/a", NULL, 10, count_one, &n, NULL, &e) == 0)
			cr_assert(n < 10);
		n = 0;
	}
	stop(swapper);
	cr_expect(written > 0 && refused > 0, "the race was run: %u written, %u refused", written, refused);
	cr_expect(list_page(&out, "/", NULL, 10, count_one, &n, NULL, &e) == 0 && n == 1);
	n = 0;
	cr_expect(list_page(&out, "/d", NULL, 10, count_one, &n, NULL, &e) == 0 && n == 1);
}

static void add_for_ever(void)
{
	for (unsigned int i = 0;; i++) {
		char name[32];

		(void)snprintf(name, sizeof(name), "busy/%u", i % 64);
		(void)mkdirat(ctx.root_fd, "busy", 0755);
		(void)mkdirat(ctx.root_fd, name, 0755);
		(void)snprintf(name, sizeof(name), "busy/%u/x", i % 64);
		(void)mknodat(ctx.root_fd, name, S_IFREG, 0);
	}
}

Test(files_race, removing_what_others_fill_ends)
{
	struct err e = ERR_INIT;
	pid_t adder;

	must_put("/keep/x", "x");
	adder = start(add_for_ever);
	for (unsigned int removed = 0; removed < 200;) {
		int r = files_remove(&ctx, "/busy", true, &e);

		cr_assert(r == 0 || e.kind == ERR_BUSY || e.kind == ERR_NOT_FOUND, "%s", e.msg);
		removed += r == 0 || e.kind == ERR_BUSY;
	}
	stop(adder);
	cr_expect(files_remove(&ctx, "/busy", true, &e) == 0 || e.kind == ERR_NOT_FOUND, "%s", e.msg);
	expect_text("/keep/x", "x");
}

static void move_for_ever(void)
{
	for (;;) {
		(void)renameat(ctx.root_fd, "t/1/2/3", ctx.root_fd, "elsewhere/3");
		(void)renameat(ctx.root_fd, "elsewhere/3", ctx.root_fd, "t/1/2/3");
	}
}

/* A folder moved away while we are below it: its ".." is then a stranger, whose files must live. */
Test(files_race, removing_does_not_climb_out_of_a_moved_folder)
{
	struct err e = ERR_INIT;
	pid_t mover;

	must_put("/elsewhere/precious", "x");
	must_put("/precious", "x");
	for (int round = 0; round < 40; round++) {
		char path[1200] = "/t/1/2/3", *p = path + strlen(path);

		for (int i = 0; i < 90; i++)
			p += snprintf(p, 16, "/%d", i);
		(void)snprintf(p, 8, "/f");
		must_put(path, "x");
		mover = start(move_for_ever);
		(void)files_remove(&ctx, "/t", true, &e);
		stop(mover);
		expect_text("/elsewhere/precious", "x");
		expect_text("/precious", "x");
		(void)files_remove(&ctx, "/t", true, &e);
		(void)files_remove(&ctx, "/elsewhere/3", true, &e);
	}
}
