#pragma once
/* A state dir for one test, without an emulator. */

#include <criterion/criterion.h>
#include <fcntl.h>

#include "rootfs/tree.h"
#include "tests/unit/check.h"

static char state[64];
static int state_fd = -1;
static struct err e;
#define CHECK_E(cond) CHECK(cond, "%s", e.msg)

static inline void make_state(void)
{
	(void)snprintf(state, sizeof(state), "/tmp/test-state-XXXXXX");
	cr_assert_not_null(mkdtemp(state));
	state_fd = open(state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cr_assert_eq(tree_prepare_state(state_fd, &e), 0, "%s", e.msg);
}

static inline void remove_state(void)
{
	_cleanup_close_ int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	closep(&state_fd);
	cr_assert_eq(chdir("/"), 0);
	cr_assert_eq(tree_remove(tmp, state + 5, &e), 0, "%s", e.msg);
}
