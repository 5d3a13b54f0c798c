#include "emulator/base/util.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <uv.h>

#include "emulator/worker.h"
#include "tests/unit/slow.h"

static uv_loop_t loop;

static void set_up(void)
{
	cr_assert(uv_loop_init(&loop) == 0);
}

static void tear_down(void)
{
	cr_expect(uv_loop_close(&loop) == 0, "a handle is left open");
	cr_expect(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD, "a process is left");
}

TestSuite(worker, .init = set_up, .fini = tear_down);

static int exit_with(void *arg)
{
	return *(int *)arg;
}

static int die_of(void *arg)
{
	(void)raise(*(int *)arg);
	return 0;
}

static int write_pipe(void *arg)
{
	return write(*(int *)arg, "hello", 5) == 5 ? 0 : 1;
}

static void on_done(void *arg, int status)
{
	int *p = arg;

	cr_assert(*p == -1, "done twice");
	*p = status;
}

Test(worker, status_table)
{
	static const struct {
		int (*job)(void *arg);
		int arg, want;
	} table[] = {
		{ exit_with, 0, 0 },
		{ exit_with, 1, 1 },
		{ exit_with, 255, 255 },
		{ exit_with, -5, 255 },
		{ exit_with, 4096, 255 },
		{ die_of, SIGKILL, 128 + SIGKILL },
		{ die_of, SIGTERM, 128 + SIGTERM },
		{ die_of, SIGPIPE, 128 + SIGPIPE },
	};
	int got[ARRAY_SIZE(table)];

	/* What the daemon ignores, the job does not inherit. */
	(void)signal(SIGPIPE, SIG_IGN);
	(void)signal(SIGTERM, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		int arg = table[i].arg;

		got[i] = -1;
		cr_assert(worker_run(&loop, table[i].job, &arg, on_done, &got[i], NULL) == 0);
	}
	cr_assert(uv_run(&loop, UV_RUN_DEFAULT) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		cr_expect(got[i] == table[i].want, "%zu: %d, not %d", i, got[i], table[i].want);
}

Test(worker, blocked_signals_reach_the_job)
{
	int arg = SIGUSR1, got = -1;
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	cr_assert(sigprocmask(SIG_BLOCK, &s, NULL) == 0);
	cr_assert(worker_run(&loop, die_of, &arg, on_done, &got, NULL) == 0);
	cr_assert(uv_run(&loop, UV_RUN_DEFAULT) == 0);
	cr_expect(got == 128 + SIGUSR1);
}

Test(worker, other_children_are_not_reaped)
{
	pid_t mine = fork();
	int got = -1, arg = 7, st = 0;

	if (mine == 0)
		_exit(3);
	cr_assert(worker_run(&loop, exit_with, &arg, on_done, &got, NULL) == 0);
	cr_assert(uv_run(&loop, UV_RUN_DEFAULT) == 0);
	cr_expect(got == 7);
	cr_expect(waitpid(mine, &st, 0) == mine && WEXITSTATUS(st) == 3);
}

Test(worker, job_has_the_fds)
{
	int p[2], got = -1;
	char b[8] = "";

	cr_assert(pipe(p) == 0);
	cr_assert(worker_run(&loop, write_pipe, &p[1], on_done, &got, NULL) == 0);
	cr_assert(uv_run(&loop, UV_RUN_DEFAULT) == 0);
	cr_expect(got == 0);
	cr_expect(read(p[0], b, sizeof(b)) == 5 && strcmp(b, "hello") == 0);
	(void)close(p[0]);
	(void)close(p[1]);
}

/* fds: kept in the order given, wherever they were before; everything else is closed. */
static int keep_job(void *arg)
{
	int *fds = arg, keep[3] = { fds[2], fds[0], fds[1] };
	char c = 0;

	if (worker_keep_only(keep, 3) < 0)
		return 1;
	for (int i = 0; i < 3; i++)
		if (keep[i] != 3 + i)
			return 2;
	for (int i = 6; i < 64; i++)
		if (fcntl(i, F_GETFD) >= 0)
			return 3;
	if (pread(keep[0], &c, 1, 0) != 1 || c != 'c' || pread(keep[1], &c, 1, 0) != 1 || c != 'a' ||
	    pread(keep[2], &c, 1, 0) != 1 || c != 'b')
		return 4;
	return 0;
}

Test(worker, keep_only)
{
	static const int places[][3] = { { 3, 4, 5 }, { 5, 3, 4 }, { 40, 3, 50 }, { 4, 5, 3 }, { 60, 61, 62 } };

	for (size_t k = 0; k < ARRAY_SIZE(places); k++) {
		int got = -1, fds[3];

		for (int i = 0; i < 3; i++) {
			FILE *f = tmpfile();

			cr_assert(f && fputc('a' + i, f) != EOF && fflush(f) == 0);
			fds[i] = fcntl(fileno(f), F_DUPFD, 100);
			(void)fclose(f);
		}
		/* In the child, so that the places are free for the taking. */
		if (fork() == 0) {
			int moved[3];

			for (int i = 0; i < 3; i++)
				moved[i] = dup2(fds[i], places[k][i]);
			_exit(keep_job(moved));
		}
		cr_assert(wait(&got) > 0);
		cr_expect(got == 0, "%zu: %d", k, WEXITSTATUS(got));
		for (int i = 0; i < 3; i++)
			(void)close(fds[i]);
	}
}

Test(worker, keep_only_refuses_what_is_no_fd)
{
	int fds[] = { 999 };

	cr_expect(worker_keep_only(fds, 1) == -EBADF);
}

static int pause_job(void *arg _unused_)
{
	(void)pause();
	return 0;
}

static int parent_dies(void)
{
	int p[2], st, got = -1;
	pid_t mid;
	char b;

	cr_assert(pipe(p) == 0);
	mid = fork();
	if (mid == 0) {
		uv_loop_t l;
		int wait_forever = 0;

		(void)close(p[0]);
		uv_loop_init(&l);
		(void)worker_run(&l, pause_job, &wait_forever, on_done, &got, NULL);
		usleep(50000);
		_exit(0); /* a daemon that just goes */
	}
	(void)close(p[1]);
	cr_assert(waitpid(mid, &st, 0) == mid);
	alarm((unsigned int)slow_ms(5000) / 1000); /* EOF comes only when the worker, too, has let go of the pipe */
	cr_expect(read(p[0], &b, 1) == 0);
	alarm(0);
	return close(p[0]);
}

Test(worker, dies_with_its_daemon)
{
	cr_expect(parent_dies() == 0);
}
