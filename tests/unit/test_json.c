#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/util.h"
#include "rootfs/json.h"

static const struct row {
	const char *in;
	size_t at; /* where it is wrong */
	const char *out;
} good[] = {
	{ "\"abc\"", 0, "abc" },
	/* json-c's own strictness refuses these, or not, by its version. */
	{ "\"/a b/\u00e9.sh\"", 0, "/a b/\u00e9.sh" },
	{ "\"\u2603\"", 0, "\u2603" },
	{ "\"a\U0001f600\"", 0, "a\U0001f600" },
	{ "\"\\u2603\\ud83d\\ude00\"", 0, "\u2603\U0001f600" },
	{ "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\"", 0, "\"\\/\b\f\n\r\tA" },
	{ "{\"\u00e9\":\"\u00e8 x\"}", 0, "{ \"\u00e9\": \"\u00e8 x\" }" },
	{ " 12 ", 0, "12" },
	{ "-0", 0, "0" },
	{ "1000000000000000000000000000000", 0, "18446744073709551615" },
	{ "-1.5e+3", 0, "-1.5e+3" },
	{ "\t[ ]\r\n", 0, "[ ]" },
	{ "{ \"a\" : [ 1 , { } ] , \"b\" : false }", 0, "{ \"a\": [ 1, { } ], \"b\": false }" },
	{ "null", 0, NULL },
}, bad[] = {
	{ "", 0, NULL },
	{ " ", 1, NULL },
	{ "\"a\xc3\"", 2, NULL },
	{ "\"\xed\xa0\x80\"", 1, NULL },
	{ "\"\xc0\x80\"", 1, NULL },
	{ "1 \xff", 2, NULL },
	{ "\"a\" rest", 4, NULL },
	{ "\"a", 2, NULL },
	{ "\"a\nb\"", 2, NULL },
	{ "\"\\x\"", 2, NULL },
	{ "\"\\u12g4\"", 5, NULL },
	{ "'a'", 0, NULL },
	{ "{'a':1}", 1, NULL },
	{ "{\"a\":1,}", 7, NULL },
	{ "{\"a\" 1}", 5, NULL },
	{ "{\"a\":}", 5, NULL },
	{ "[1,]", 3, NULL },
	{ "[1 2]", 3, NULL },
	{ "[1", 2, NULL },
	{ "01", 1, NULL },
	{ "-01", 2, NULL },
	{ "1.", 2, NULL },
	{ ".5", 0, NULL },
	{ "+1", 0, NULL },
	{ "1e", 2, NULL },
	{ "-", 1, NULL },
	{ "NaN", 0, NULL },
	{ "nul", 3, NULL },
	{ "nulls", 4, NULL },
	{ "True", 0, NULL },
	{ "-Infinity", 1, NULL },
	{ "/* */ 1", 0, NULL },
	{ "[[[[1]]]]", 3, NULL },
	{ "}", 0, NULL },
};

static const struct json_limits limits = { .depth = 3, .values = 10 };

Test(json, good)
{
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		_cleanup_json_ struct json_object *o = NULL;
		size_t at = 0, n = strlen(good[i].in);

		cr_assert_eq(json_parse_at(good[i].in, n, limits, &o, &at), 0, "%s: %zu", good[i].in, at);
		cr_assert_eq(o != NULL, good[i].out != NULL, "%s", good[i].in);
		if (o)
			cr_expect_str_eq(json_object_get_string(o), good[i].out);
	}
}

Test(json, bad)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct json_object *o = NULL;
		size_t at = 999;

		cr_expect_eq(json_parse_at(bad[i].in, strlen(bad[i].in), limits, &o, &at), -EINVAL, "%s", bad[i].in);
		cr_expect_eq(at, bad[i].at, "%s: %zu", bad[i].in, at);
		cr_expect(!o);
	}
}

/* An escaped NUL is part of a string; a bare one is nothing that JSON has. */
Test(json, nul)
{
	struct json_object *o = NULL;
	size_t at;

	cr_assert_eq(json_parse_at("\"a\\u0000b\"", 10, limits, &o, &at), 0);
	cr_expect_eq(json_object_get_string_len(o), 3);
	json_object_put(o);
	cr_expect_eq(json_parse_at("1\0", 2, limits, &o, &at), -EINVAL);
	cr_expect_eq(at, 1);
}

Test(json, values)
{
	struct json_object *o = NULL;
	size_t at;

	cr_assert_eq(json_parse_at("[1,[2,3],{\"a\":[4]},5]", 21, limits, &o, &at), 0, "%zu", at);
	json_object_put(o);
	cr_expect_eq(json_parse_at("[1,2,3,4,5,6,7,8,9,0]", 21, limits, &o, &at), -E2BIG);
	cr_expect_eq(at, 19);
}

Test(json, whole)
{
	struct err e = ERR_INIT;
	struct json_object *o = NULL;

	cr_assert_eq(json_parse("[\"\u00e9\"] \n", 8, 4, &o, &e), 0);
	json_object_put(TAKE_PTR(o));
	cr_expect(json_parse("[1] x", 5, 4, &o, &e) < 0 && !o && e.kind == ERR_INVALID);
	cr_expect(json_parse("[1", 2, 4, &o, &e) < 0 && !o);
}
