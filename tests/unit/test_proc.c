#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "rootfs/proc.h"

static const char *const env[] = { "PATH=/usr/bin:/bin", NULL };

static int sh(const char *script, uint32_t timeout_s, struct buf *out, struct err *e)
{
	const char *const argv[] = { "sh", "-c", script, NULL };

	*e = (struct err)ERR_INIT;
	return proc_run(&(struct proc_spec){ .argv = argv, .env = env, .stdin_fd = -1, .timeout_s = timeout_s }, out,
			e);
}

Test(proc, what_it_prints)
{
	_cleanup_buf_ struct buf out = BUF_INIT(100);
	struct err e;

	cr_assert_eq(sh("echo out; echo err >&2", 10, &out, &e), 0, "%s", e.msg);
	cr_assert_eq(out.len, 4);
	cr_assert_eq(memcmp(out.p, "out\n", 4), 0);
}

Test(proc, a_failure_says_what_the_program_said)
{
	struct err e;

	cr_assert_eq(sh("echo 'no room' >&2; exit 3", 10, NULL, &e), -EIO);
	cr_assert_str_eq(e.msg, "sh failed (3): no room");
	cr_assert_eq(sh("exit 4", 10, NULL, &e), -EIO);
	cr_assert_str_eq(e.msg, "sh failed (4)");
	cr_assert_eq(sh("kill -9 $$", 10, NULL, &e), -EIO);
	cr_assert_str_eq(e.msg, "sh failed (137)");
}

Test(proc, a_time_out_ends_it)
{
	struct err e;

	cr_assert_eq(sh("sleep 100", 1, NULL, &e), -ETIMEDOUT);
	cr_assert_str_eq(e.msg, "sh took longer than 1 s");
}

Test(proc, of_much_the_reason)
{
	struct err e;

	cr_assert_eq(sh("echo some progress >&2; echo 'curl: (60) SSL certificate problem' >&2;"
			" for i in $(seq 30); do echo 'More details here' >&2; done; exit 60",
			10, NULL, &e),
		     -EIO);
	cr_assert(strncmp(e.msg, "sh failed (60): curl: (60) SSL certificate problem; More details", 63) == 0, "%s",
		  e.msg);
}

Test(proc, of_much_without_a_reason_the_last_whole_lines)
{
	struct err e;

	cr_assert_eq(sh("for i in $(seq 100 199); do echo \"line $i\" >&2; done; exit 1", 10, NULL, &e), -EIO);
	cr_assert(strncmp(e.msg, "sh failed (1): line 1", 21) == 0, "%s", e.msg);
	cr_assert_not_null(strstr(e.msg, "; line 198; line 199"), "%s", e.msg);
}
