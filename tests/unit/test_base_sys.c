#include <criterion/criterion.h>
#include <signal.h>
#include <sys/wait.h>

#include "emulator/base/sys.h"

/* A child whose own child says that it is there, calls sys_die_with() when it is told to, says that and stays. */
struct family {
	int up[2], go[2];
	pid_t child;
};

static void grandchild(struct family *f, pid_t parent)
{
	char c = 0;

	(void)close(f->up[0]);
	(void)close(f->go[1]);
	if (write(f->up[1], &c, 1) != 1 || read(f->go[0], &c, 1) != 1)
		_exit(2);
	sys_die_with(parent);
	(void)!write(f->up[1], &c, 1);
	(void)pause();
}

static void make(struct family *f)
{
	char c;

	cr_assert_eq(pipe(f->up), 0);
	cr_assert_eq(pipe(f->go), 0);
	f->child = fork();
	if (f->child == 0) {
		pid_t self = getpid();

		if (fork() == 0)
			grandchild(f, self);
		(void)pause();
		_exit(0);
	}
	(void)close(f->up[1]);
	(void)close(f->go[0]);
	cr_assert_eq(read(f->up[0], &c, 1), 1);
}

static void kill_child(struct family *f)
{
	cr_assert_eq(kill(f->child, SIGKILL), 0);
	cr_assert_eq(waitpid(f->child, NULL, 0), f->child);
}

Test(base_sys, a_child_dies_with_its_parent)
{
	struct family f;
	char c;

	make(&f);
	cr_assert_eq(write(f.go[1], "x", 1), 1);
	cr_assert_eq(read(f.up[0], &c, 1), 1, "it lives as long as the parent");
	kill_child(&f);
	cr_assert_eq(read(f.up[0], &c, 1), 0, "killed: the pipe ends");
}

Test(base_sys, a_parent_that_is_dead_already_counts)
{
	struct family f;
	char c;

	make(&f);
	kill_child(&f);
	cr_assert_eq(write(f.go[1], "x", 1), 1);
	cr_assert_eq(read(f.up[0], &c, 1), 0, "it ended before it could say anything");
}
