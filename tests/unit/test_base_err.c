#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/err.h"

Test(err, set_fills_everything)
{
	struct err e = ERR_INIT;

	cr_assert_eq(err_set(&e, ERR_PLAN, EDQUOT, "size_not_allowed", "size %s, plan %d", "large", 3), -EDQUOT);
	cr_assert_eq(e.kind, ERR_PLAN);
	cr_assert_eq(e.errnum, EDQUOT);
	cr_assert_str_eq(e.reason, "size_not_allowed");
	cr_assert_str_eq(e.msg, "size large, plan 3");
}

Test(err, no_object_still_returns_the_errno)
{
	cr_assert_eq(err_set(NULL, ERR_IO, ENXIO, NULL, "x"), -ENXIO);
	cr_assert_eq(err_set(NULL, ERR_IO, 0, NULL, "x"), -EIO);
	cr_assert_eq(err_errno(NULL, ENOSPC, "x"), -ENOSPC);
	err_prefix(NULL, "x");
}

Test(err, zero_errno_is_eio)
{
	struct err e = ERR_INIT;

	cr_assert_eq(err_set(&e, ERR_INVALID, 0, NULL, "x"), -EIO);
	cr_assert_eq(e.errnum, 0);
	cr_assert_eq(err_errno(&e, 0, "x"), -EIO);
	cr_assert_eq(e.kind, ERR_IO);
	cr_assert_str_eq(e.msg, "x: Input/output error"); /* and not ": Success" */
}

Test(err, kinds_of_errnos)
{
	static const struct {
		int errnum;
		enum err_kind kind;
	} t[] = {
		{ ENOSPC, ERR_FULL },	  { EDQUOT, ERR_FULL },	    { ENOENT, ERR_NOT_FOUND },
		{ EMFILE, ERR_CAPACITY }, { ENFILE, ERR_CAPACITY }, { ENOMEM, ERR_CAPACITY },
		{ EAGAIN, ERR_CAPACITY }, { EACCES, ERR_IO },	    { EIO, ERR_IO },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct err e = { .reason = "old" };

		cr_assert_eq(err_errno(&e, t[i].errnum, "open %s", "f"), -t[i].errnum);
		cr_assert_eq(e.kind, t[i].kind, "errno %d", t[i].errnum);
		cr_assert_null(e.reason);
		cr_assert_not_null(strstr(e.msg, strerror(t[i].errnum)));
		cr_assert_eq(strncmp(e.msg, "open f: ", 8), 0);
	}
}

Test(err, long_messages_are_cut)
{
	struct err e = ERR_INIT;
	char big[2000];

	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&e, ERR_IO, EIO, NULL, "%s", big);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	err_errno(&e, EIO, "%s", big);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	err_prefix(&e, "%s", "p");
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
	cr_assert_eq(strncmp(e.msg, "p: aaa", 6), 0);
	err_prefix(&e, "%s", big);
	cr_assert_eq(strlen(e.msg), sizeof(e.msg) - 1);
}

Test(err, arguments_may_point_into_the_object)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_IO, EIO, NULL, "no such key");
	err_set(&e, ERR_IO, EIO, NULL, "opening: %s", e.msg);
	cr_assert_str_eq(e.msg, "opening: no such key");
	err_prefix(&e, "%.7s", e.msg);
	cr_assert_str_eq(e.msg, "opening: opening: no such key");
	err_set(&e, ERR_IO, EIO, NULL, "a");
	err_errno(&e, ENOENT, "%s%s", e.msg, e.msg);
	cr_assert_str_eq(e.msg, "aa: No such file or directory");
}

Test(err, prefix_keeps_the_rest)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_BUSY, EBUSY, "r", "held by %d", 7);
	err_prefix(&e, "lock %s", "x");
	cr_assert_str_eq(e.msg, "lock x: held by 7");
	cr_assert_eq(e.kind, ERR_BUSY);
	cr_assert_eq(e.errnum, EBUSY);
	cr_assert_str_eq(e.reason, "r");
}

Test(err, every_kind_has_its_own_name)
{
	for (int i = ERR_NONE; i <= ERR_INTERNAL; i++) {
		cr_assert_not_null(err_kind_name((enum err_kind)i), "kind %d", i);
		for (int j = ERR_NONE; j < i; j++)
			cr_assert_str_neq(err_kind_name((enum err_kind)i), err_kind_name((enum err_kind)j));
	}
	cr_assert_str_eq(err_kind_name((enum err_kind)(ERR_INTERNAL + 1)), "internal");
}
