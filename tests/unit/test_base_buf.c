#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"

Test(buf, starts_empty_and_grows)
{
	_cleanup_buf_ struct buf b = BUF_INIT(100000);
	size_t want = 0;

	cr_assert_null(b.p);
	for (int i = 0; i < 5000; i++) {
		cr_assert_eq(buf_printf(&b, "%d,", i), 0);
		want += (size_t)snprintf(NULL, 0, "%d,", i);
		cr_assert_eq(b.len, want);
		cr_assert_eq(b.p[b.len], '\0');
		cr_assert_gt(b.cap, b.len);
	}
	cr_assert_eq(strncmp(b.p, "0,1,2,3,", 8), 0);
	cr_assert_str_eq(b.p + b.len - 10, "4998,4999,");
}

Test(buf, maximum_is_exact_and_a_failure_changes_nothing)
{
	static const size_t maxima[] = { 0, 1, 2, 255, 256, 257, 511, 512, 513, 1000 };

	for (size_t i = 0; i < ARRAY_SIZE(maxima); i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(maxima[i]);

		for (size_t k = 0; k < maxima[i]; k++)
			cr_assert_eq(buf_add(&b, "x", 1), 0, "max %zu at %zu", maxima[i], k);
		cr_assert_eq(b.len, maxima[i]);
		cr_assert_eq(buf_add(&b, "y", 1), -EMSGSIZE);
		cr_assert_eq(buf_puts(&b, "yy"), -EMSGSIZE);
		cr_assert_eq(buf_printf(&b, "%s", "yyy"), -EMSGSIZE);
		cr_assert_eq(b.len, maxima[i]);
		cr_assert_eq(buf_add(&b, NULL, 0), 0);
		cr_assert_eq(strlen(b.p), maxima[i]);
		cr_assert_eq(strspn(b.p, "x"), maxima[i]);
		cr_assert_leq(b.cap, maxima[i] + 1);
	}
}

Test(buf, one_big_add)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 20);
	_cleanup_free_ char *big = malloc(1 << 20);

	memset(big, 'q', 1 << 20);
	cr_assert_eq(buf_add(&b, big, 1 << 20), 0);
	cr_assert_eq(b.len, (size_t)1 << 20);
	cr_assert_eq(b.p[b.len], '\0');
	cr_assert_eq(buf_add(&b, "z", 1), -EMSGSIZE);
}

Test(buf, sizes_do_not_overflow)
{
	_cleanup_buf_ struct buf b = BUF_INIT(SIZE_MAX);
	_cleanup_buf_ struct buf c = BUF_INIT(SIZE_MAX - 1);
	char *to;

	cr_assert_eq(buf_add(&b, "abc", 3), 0); /* max + 1 is 0 here */
	cr_assert_str_eq(b.p, "abc");
	cr_assert_eq(buf_reserve(&b, SIZE_MAX, &to), -EMSGSIZE);
	cr_assert_eq(buf_reserve(&b, SIZE_MAX - 3, &to), -ENOMEM);
#ifndef __SANITIZE_ADDRESS__ /* which ends the process instead of returning NULL */
	cr_assert_eq(buf_reserve(&b, SIZE_MAX - 4, &to), -ENOMEM);
#endif
	cr_assert_str_eq(b.p, "abc");
	cr_assert_eq(buf_add(&c, "abc", 3), 0);
	cr_assert_eq(buf_reserve(&c, SIZE_MAX - 3, &to), -EMSGSIZE);
#ifndef __SANITIZE_ADDRESS__
	cr_assert_eq(buf_reserve(&c, SIZE_MAX - 5, &to), -ENOMEM);
#endif
	cr_assert_str_eq(c.p, "abc");
}

Test(buf, bytes_are_bytes)
{
	_cleanup_buf_ struct buf b = BUF_INIT(100);

	cr_assert_eq(buf_add(&b, "a\0b\xff", 4), 0);
	cr_assert_eq(buf_add(&b, "\0", 1), 0);
	cr_assert_eq(b.len, 5u);
	cr_assert_eq(memcmp(b.p, "a\0b\xff\0", 6), 0);
}

Test(buf, reserve_and_commit)
{
	_cleanup_buf_ struct buf b = BUF_INIT(10);
	char *to = NULL;

	cr_assert_eq(buf_reserve(&b, 10, &to), 0);
	cr_assert_eq(b.len, 0u);
	memcpy(to, "0123456789", 10);
	buf_commit(&b, 4); /* fewer than reserved */
	cr_assert_str_eq(b.p, "0123");
	to = NULL;
	cr_assert_eq(buf_reserve(&b, 7, &to), -EMSGSIZE);
	cr_assert_null(to);
	cr_assert_eq(buf_reserve(&b, 6, &to), 0);
	cr_assert_eq(to, b.p + 4);
}

Test(buf, reset_of_nothing)
{
	struct buf b = BUF_INIT(10);

	buf_reset(&b);
	cr_assert_null(b.p);
	cr_assert_eq(b.len, 0u);
	buf_free(&b);
	buf_free(&b);
	buf_free(NULL);
}

Test(buf, consume)
{
	static const struct {
		size_t n;
		const char *left;
	} t[] = { { 0, "hello" }, { 1, "ello" }, { 4, "o" }, { 5, "" }, { 6, "" }, { SIZE_MAX, "" } };

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		_cleanup_buf_ struct buf b = BUF_INIT(10);

		cr_assert_eq(buf_puts(&b, "hello"), 0);
		buf_consume(&b, t[i].n);
		cr_assert_str_eq(b.p, t[i].left);
		cr_assert_eq(b.len, strlen(t[i].left));
	}
}

Test(buf, reset_keeps_memory_and_free_keeps_the_maximum)
{
	struct buf b = BUF_INIT(10);
	char *p;

	cr_assert_eq(buf_puts(&b, "hello"), 0);
	p = b.p;
	buf_reset(&b);
	cr_assert_eq(b.p, p);
	cr_assert_str_eq(b.p, "");
	buf_free(&b);
	cr_assert_null(b.p);
	cr_assert_eq(b.max, 10u);
	cr_assert_eq(buf_puts(&b, "0123456789"), 0);
	cr_assert_eq(buf_puts(&b, "x"), -EMSGSIZE);
	buf_free(&b);
}
