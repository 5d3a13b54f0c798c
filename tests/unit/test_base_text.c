#include <criterion/criterion.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/buf.h"
#include "emulator/base/text.h"

Test(text, parse_u64)
{
	static const struct {
		const char *s;
		uint64_t min, max;
		int r;
		uint64_t v;
	} t[] = {
		{ "0", 0, 0, 0, 0 },
		{ "007", 0, 10, 0, 7 },
		{ "65535", 0, 65535, 0, 65535 },
		{ "65536", 0, 65535, -ERANGE, 0 },
		{ "9", 10, 20, -ERANGE, 0 },
		{ "10", 10, 20, 0, 10 },
		{ "20", 10, 20, 0, 20 },
		{ "18446744073709551615", 0, UINT64_MAX, 0, UINT64_MAX },
		{ "18446744073709551616", 0, UINT64_MAX, -ERANGE, 0 },
		{ "18446744073709551625", 0, UINT64_MAX, -ERANGE, 0 },
		{ "99999999999999999999999999", 0, UINT64_MAX, -ERANGE, 0 },
		{ "99999999999999999999999999x", 0, UINT64_MAX, -ERANGE, 0 },
		{ "", 0, 10, -EINVAL, 0 },
		{ " 1", 0, 10, -EINVAL, 0 },
		{ "1 ", 0, 10, -EINVAL, 0 },
		{ "+1", 0, 10, -EINVAL, 0 },
		{ "-1", 0, 10, -EINVAL, 0 },
		{ "0x1", 0, 10, -EINVAL, 0 },
		{ "1.0", 0, 10, -EINVAL, 0 },
		{ "1e3", 0, 10000, -EINVAL, 0 },
		{ "\xd9\xa1", 0, 10, -EINVAL, 0 }, /* a digit, but an Arabic one */
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		uint64_t v = 4242;

		cr_assert_eq(text_parse_u64(t[i].s, t[i].min, t[i].max, &v), t[i].r, "\"%s\"", t[i].s);
		cr_assert_eq(v, t[i].r == 0 ? t[i].v : 4242, "\"%s\"", t[i].s);
	}
}

Test(text, format)
{
	char s[6];

	cr_assert_eq(text_format(s, sizeof(s), "%s", "hello"), 5);
	cr_assert_str_eq(s, "hello");
	cr_assert_eq(text_format(s, sizeof(s), "%s", "hello!"), -ENAMETOOLONG);
	cr_assert_eq(text_format(s, sizeof(s), "%s", ""), 0);
	cr_assert_eq(text_format(s, 0, "%s", ""), -ENAMETOOLONG);
}

Test(text, ulid_shape_and_order)
{
	char a[TEXT_ULID_SIZE], b[TEXT_ULID_SIZE];
	int64_t ms = 1777638896789;

	text_ulid(ms, a);
	cr_assert_eq(strlen(a), 26u);
	cr_assert_eq(strspn(a, "0123456789ABCDEFGHJKMNPQRSTVWXYZ"), 26u);
	for (int i = 0; i < 100000; i++) {
		text_ulid(ms, b);
		cr_assert_lt(strcmp(a, b), 0, "%s then %s", a, b);
		cr_assert_eq(memcmp(a, b, 10), 0);
		memcpy(a, b, sizeof(a));
	}
	text_ulid(ms + 1, b);
	cr_assert_lt(strcmp(a, b), 0);
}

Test(text, hex_value)
{
	static const char digits[] = "0123456789abcdef", others[] = "gG/:@`~ \xff";

	for (int i = 0; i < 16; i++)
		cr_assert(text_hex_value(digits[i]) == i && text_hex_value((char)toupper(digits[i])) == i);
	for (size_t i = 0; i < sizeof(others); i++)
		cr_assert_eq(text_hex_value(others[i]), -1);
}

Test(text, index)
{
	static const char *const names[] = { "off", "on", "onward" };

	cr_assert_eq(text_index("off", names, 3), 0);
	cr_assert_eq(text_index("onward", names, 3), 2);
	cr_assert_eq(text_index("onward", names, 2), -EINVAL);
	cr_assert_eq(text_index("onw", names, 3), -EINVAL);
	cr_assert_eq(text_index("", names, 3), -EINVAL);
}

Test(text, ulid_time_part)
{
	static const struct {
		int64_t ms;
		const char *head;
	} t[] = {
		{ 0, "0000000000" },
		{ 1, "0000000001" },
		{ 32, "0000000010" },
		{ 1469918176385, "01ARYZ6S41" }, /* the ULID specification's own example */
		{ (INT64_C(1) << 48) - 1, "7ZZZZZZZZZ" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char s[TEXT_ULID_SIZE];

		text_ulid(t[i].ms, s);
		cr_assert_eq(memcmp(s, t[i].head, 10), 0, "%s", s);
	}
}

Test(text, ulids_of_different_milliseconds_do_not_share_randomness)
{
	char a[TEXT_ULID_SIZE], b[TEXT_ULID_SIZE];

	text_ulid(1, a);
	text_ulid(2, b);
	cr_assert_str_neq(a + 10, b + 10);
}

Test(text, sha256)
{
	char h[TEXT_SHA256_SIZE], *million = malloc(1000000);

	text_sha256("", 0, h);
	cr_assert_str_eq(h, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	text_sha256("abc", 3, h);
	cr_assert_str_eq(h, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	memset(million, 'a', 1000000);
	text_sha256(million, 1000000, h);
	cr_assert_str_eq(h, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
	free(million);
}

Test(text, random_fills_all_and_differs)
{
	unsigned char a[300] = { 0 }, b[300] = { 0 };
	bool seen[256] = { false };
	int kinds = 0;

	text_random(a, sizeof(a));
	text_random(b, sizeof(b));
	cr_assert_neq(memcmp(a, b, sizeof(a)), 0);
	for (size_t i = 0; i < sizeof(a); i++)
		seen[a[i]] = true;
	for (size_t i = 0; i < 256; i++)
		kinds += seen[i];
	cr_assert_gt(kinds, 100);
	text_random(a, 0);
}

Test(text, base64_vectors)
{
	static const struct {
		const char *plain, *coded;
	} t[] = { /* RFC 4648, section 10 */
		  { "", "" },
		  { "f", "Zg==" },
		  { "fo", "Zm8=" },
		  { "foo", "Zm9v" },
		  { "foob", "Zm9vYg==" },
		  { "fooba", "Zm9vYmE=" },
		  { "foobar", "Zm9vYmFy" },
		  { "\xfb\xff\xbe", "+/++" }
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char out[64];
		ssize_t n;

		cr_assert_eq(text_base64_encode(t[i].plain, strlen(t[i].plain), out), strlen(t[i].coded));
		cr_assert_str_eq(out, t[i].coded);
		n = text_base64_decode(t[i].coded, strlen(t[i].coded), out);
		cr_assert_eq(n, (ssize_t)strlen(t[i].plain));
		cr_assert_eq(memcmp(out, t[i].plain, (size_t)n), 0);
	}
}

Test(text, base64_round_trips_at_every_length)
{
	unsigned char in[200];
	char coded[4 * 67 + 1];
	unsigned char out[200 / 3 * 3 + 9];

	text_random(in, sizeof(in));
	for (size_t n = 0; n <= sizeof(in); n++) {
		size_t m = text_base64_encode(in, n, coded);

		cr_assert_eq(m, (n + 2) / 3 * 4);
		memset(out, 0xee, sizeof(out));
		cr_assert_eq(text_base64_decode(coded, m, out), (ssize_t)n);
		cr_assert_eq(memcmp(in, out, n), 0);
		while (m > 0 && coded[m - 1] == '=') /* padding is optional */
			m--;
		cr_assert_eq(text_base64_decode(coded, m, out), (ssize_t)n);
		cr_assert_leq(n, m / 4 * 3 + 3);
	}
}

Test(text, base64_accepts)
{
	static const struct {
		const char *coded;
		ssize_t n;
	} t[] = { { "-_--", 3 },   { "+/-_", 3 },   { "Zm9v\nYmFy\r\n", 6 }, { " Z g = = ", 1 },
		  { "Zg==\n", 1 }, { "Zg=\n=", 1 }, { "\t \n", 0 } };

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char out[64];

		cr_assert_eq(text_base64_decode(t[i].coded, strlen(t[i].coded), out), t[i].n, "%s", t[i].coded);
	}
}

Test(text, base64_refuses)
{
	static const char *const t[] = { "Z",	  "Zm9vY",	"Zg=",	"Zm8==",    "Zg===", "=",    "==", "====",
					 "Zm9v=", "Zm9v==",	"=Zg=", "Zg==Zg==", "Zh==",  "Zm9=", "Zh", "Zm9",
					 "Z*==",  "Zg\xc3\xa9", "Zg.=", "Zg\v=",    "Zm9v,", "Zg=a" };
	char out[64];

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		cr_assert_eq(text_base64_decode(t[i], strlen(t[i]), out), -EINVAL, "accepted \"%s\"", t[i]);
	cr_assert_eq(text_base64_decode("Zg\0=", 4, out), -EINVAL);
}

static const struct {
	const char *in, *out; /* out NULL: valid, the same */
} utf8[] = {
	{ "", NULL },
	{ "plain", NULL },
	{ "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", NULL },
	{ "\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
	  NULL },			      /* first and last of each length */
	{ "\xed\x9f\xbf\xee\x80\x80", NULL }, /* around the surrogates */
	{ "\x80", "\xef\xbf\xbd" },
	{ "\xbf", "\xef\xbf\xbd" },
	{ "\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd" },
	{ "\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd" }, /* overlong */
	{ "\xc1\xbf", "\xef\xbf\xbd\xef\xbf\xbd" },
	{ "\xe0\x80\xaf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }, /* overlong */
	{ "\xe0\x9f\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
	{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }, /* a surrogate */
	{ "\xf0\x8f\xbf\xbf", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
	{ "\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }, /* above U+10FFFF */
	{ "\xf5\x80\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
	{ "a\xe2\x82z", "a\xef\xbf\xbdz" }, /* one for the maximal part */
	{ "a\xf0\x9f\x98z", "a\xef\xbf\xbdz" },
	{ "\xe2\x82\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac" },
	{ "\xc3\xc3\xa9", "\xef\xbf\xbd\xc3\xa9" },
	{ "a\xf1\x80\x80\xe1\x80\xc2"
	  "b\x80"
	  "c\x80\xbf"
	  "d", /* Unicode 15, table 3-11 */
	  "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
	  "b\xef\xbf\xbd"
	  "c\xef\xbf\xbd\xef\xbf\xbd"
	  "d" },
	{ "x\xe2\x82", "x\xef\xbf\xbd" }, /* cut off at the end */
	{ "x\xf0\x9f\x98", "x\xef\xbf\xbd" },
};

Test(text, utf8_sanitize_and_valid)
{
	for (size_t i = 0; i < ARRAY_SIZE(utf8); i++) {
		const char *want = utf8[i].out ? utf8[i].out : utf8[i].in;
		_cleanup_buf_ struct buf b = BUF_INIT(100);
		size_t used = 0, n = strlen(utf8[i].in);

		cr_assert_eq(text_utf8_valid(utf8[i].in, n), !utf8[i].out, "case %zu", i);
		cr_assert_eq(text_utf8_sanitize(utf8[i].in, n, true, &b, &used), 0);
		cr_assert_eq(used, n);
		cr_assert_str_eq(b.p, want, "case %zu", i);
		cr_assert(text_utf8_valid(b.p, b.len));
	}
	cr_assert(text_utf8_valid("a\0b", 3));
}

/* Fed in two pieces, cut anywhere, the text must come out as if it had come whole. */
Test(text, utf8_cut_anywhere)
{
	for (size_t i = 0; i < ARRAY_SIZE(utf8); i++) {
		const char *in = utf8[i].in, *want = utf8[i].out ? utf8[i].out : utf8[i].in;
		size_t n = strlen(in);

		for (size_t cut = 0; cut <= n; cut++) {
			_cleanup_buf_ struct buf b = BUF_INIT(100);
			size_t used = 99, rest = 99;

			cr_assert_eq(text_utf8_sanitize(in, cut, false, &b, &used), 0);
			cr_assert_leq(used, cut);
			cr_assert_geq(used + 3, cut);
			cr_assert_eq(text_utf8_sanitize(in + used, n - used, true, &b, &rest), 0);
			cr_assert_eq(used + rest, n);
			cr_assert_str_eq(b.p, want, "case %zu cut at %zu", i, cut);
		}
	}
}

Test(text, utf8_that_does_not_fit_leaves_the_buffer_as_it_was)
{
	_cleanup_buf_ struct buf b = BUF_INIT(8);
	size_t used = 77;

	cr_assert_eq(buf_puts(&b, "ab"), 0);
	cr_assert_eq(text_utf8_sanitize("cd\xff"
					"ef\xff",
					6, true, &b, &used),
		     -EMSGSIZE);
	cr_assert_str_eq(b.p, "ab");
	cr_assert_eq(b.len, 2u);
	cr_assert_eq(used, 77u);
	cr_assert_eq(text_utf8_sanitize("cd\xff"
					"x",
					4, true, &b, NULL),
		     0);
	cr_assert_str_eq(b.p, "abcd\xef\xbf\xbdx");
}
