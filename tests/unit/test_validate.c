#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "api/json_text.h"
#include "api/router.h"
#include "api/validate.h"

struct out {
	const char *text, *choice;
	int64_t n;
	double x;
	bool yes;
	struct json_object *map, *env, *any;
};

static const char *const choices[] = { "red", "green", "blue", NULL };

static const struct validate_field fields[] = {
	{ "text", VALIDATE_STRING, .required = true, .min = 1, .max = 5, .offset = offsetof(struct out, text) },
	{ "choice", VALIDATE_STRING, .choices = choices, .offset = offsetof(struct out, choice) },
	{ "n", VALIDATE_INT, .min = 10, .max = 3600, .offset = offsetof(struct out, n) },
	{ "x", VALIDATE_NUMBER, .min = 0.01, .max = 4, .offset = offsetof(struct out, x) },
	{ "yes", VALIDATE_BOOL, .offset = offsetof(struct out, yes) },
	{ "map", VALIDATE_STRINGS, .offset = offsetof(struct out, map) },
	{ "env", VALIDATE_ENV, .offset = offsetof(struct out, env) },
	{ "any", VALIDATE_ANY, .offset = offsetof(struct out, any) },
};

/* "field:type" of each fault, joined by spaces. */
static void faults(struct json_object *list, char *ret, size_t cap)
{
	size_t len = 0;

	ret[0] = '\0';
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *o = json_object_array_get_idx(list, i), *loc, *type, *msg;

		cr_assert(json_object_object_get_ex(o, "loc", &loc));
		cr_assert(json_object_object_get_ex(o, "type", &type));
		cr_assert(json_object_object_get_ex(o, "msg", &msg));
		cr_assert_str_eq(json_object_get_string(json_object_array_get_idx(loc, 0)), "body");
		len += (size_t)snprintf(ret + len, cap - len, "%s%s:%s", i > 0 ? " " : "",
					json_object_get_string(json_object_array_get_idx(loc, 1)),
					json_object_get_string(type));
		cr_assert_lt(len, cap);
	}
}

Test(validate, faults)
{
	static const struct {
		const char *json, *want;
	} t[] = {
		{ "{\"text\":\"a\"}", "" },
		{ "{}", "text:missing" },
		{ "{\"text\":null}", "text:missing" },
		{ "{\"text\":\"\"}", "text:string_too_short" },
		{ "{\"text\":\"123456\"}", "text:string_too_long" },
		{ "{\"text\":1}", "text:string_type" },
		{ "{\"text\":[\"a\"]}", "text:string_type" },
		{ "{\"text\":\"a\\u0000b\"}", "text:value_error" },
		{ "{\"text\":\"a\",\"choice\":\"green\"}", "" },
		{ "{\"text\":\"a\",\"choice\":null}", "" },
		{ "{\"text\":\"a\",\"choice\":\"Green\"}", "choice:literal_error" },
		{ "{\"text\":\"a\",\"n\":10}", "" },
		{ "{\"text\":\"a\",\"n\":10.0}", "" },
		{ "{\"text\":\"a\",\"n\":3600}", "" },
		{ "{\"text\":\"a\",\"n\":9}", "n:greater_than_equal" },
		{ "{\"text\":\"a\",\"n\":3601}", "n:less_than_equal" },
		{ "{\"text\":\"a\",\"n\":10.5}", "n:int_from_float" },
		{ "{\"text\":\"a\",\"n\":\"10\"}", "n:int_type" },
		{ "{\"text\":\"a\",\"n\":true}", "n:int_type" },
		{ "{\"text\":\"a\",\"n\":99999999999999999999999}", "n:less_than_equal" },
		{ "{\"text\":\"a\",\"n\":-99999999999999999999999}", "n:greater_than_equal" },
		{ "{\"text\":\"a\",\"n\":1e999}", "n:finite_number" },
		{ "{\"text\":\"a\",\"n\":NaN}", "n:finite_number" },
		{ "{\"text\":\"a\",\"x\":1}", "" },
		{ "{\"text\":\"a\",\"x\":0.5}", "" },
		{ "{\"text\":\"a\",\"x\":0}", "x:greater_than_equal" },
		{ "{\"text\":\"a\",\"x\":-1}", "x:greater_than_equal" },
		{ "{\"text\":\"a\",\"x\":NaN}", "x:finite_number" },
		{ "{\"text\":\"a\",\"x\":false}", "x:float_type" },
		{ "{\"text\":\"a\",\"yes\":true}", "" },
		{ "{\"text\":\"a\",\"yes\":1}", "yes:bool_type" },
		{ "{\"text\":\"a\",\"yes\":\"true\"}", "yes:bool_type" },
		{ "{\"text\":\"a\",\"map\":{\"any name\":\"v\"}}", "" },
		{ "{\"text\":\"a\",\"map\":[]}", "map:dict_type" },
		{ "{\"text\":\"a\",\"map\":{\"k\":1}}", "map:string_type" },
		{ "{\"text\":\"a\",\"map\":{\"k\":null}}", "map:string_type" },
		{ "{\"text\":\"a\",\"map\":{\"k\":\"\\u0000\"}}", "map:value_error" },
		{ "{\"text\":\"a\",\"env\":{\"_A1\":\"\"}}", "" },
		{ "{\"text\":\"a\",\"env\":{\"1A\":\"\"}}", "env:value_error" },
		{ "{\"text\":\"a\",\"env\":{\"\":\"\"}}", "env:value_error" },
		{ "{\"text\":\"a\",\"env\":{\"A=B\":\"\"}}", "env:value_error" },
		{ "{\"text\":\"a\",\"env\":{\"\\u00c4\":\"\"}}", "env:value_error" },
		{ "{\"text\":1,\"n\":1,\"yes\":2}", "text:string_type n:greater_than_equal yes:bool_type" },
		{ "{\"text\":\"a\",\"unknown\":1}", "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct json_object *o = json_tokener_parse(t[i].json);
		struct validate_errors errs = { 0 };
		struct out v = { .n = -7, .x = -7 };
		char got[256];

		cr_assert_not_null(o, "%s", t[i].json);
		validate_object(o, fields, ARRAY_SIZE(fields), &v, &errs);
		faults(errs.list, got, sizeof(got));
		cr_expect_str_eq(got, t[i].want, "%s: %s", t[i].json, got);
		json_object_put(errs.list);
		json_object_put(o);
	}
}

Test(validate, values)
{
	struct json_object *o = json_tokener_parse("{\"text\":\"t\\u00e4\",\"choice\":\"blue\",\"n\":12.0,\"x\":2,"
						   "\"yes\":true,\"env\":{\"A\":\"bc\"},\"any\":[1],\"map\":null}");
	struct validate_errors errs = { 0 };
	struct out v = { 0 };

	validate_object(o, fields, ARRAY_SIZE(fields), &v, &errs);
	cr_assert_null(errs.list);
	cr_expect_str_eq(v.text, "t\xc3\xa4");
	cr_expect_str_eq(v.choice, "blue");
	cr_expect_eq(v.n, 12);
	cr_expect_eq(v.x, 2.0);
	cr_expect(v.yes);
	cr_expect_eq(validate_strings_size(v.env), 3);
	cr_expect_eq(validate_strings_size(NULL), 0);
	cr_expect_not_null(v.any);
	cr_expect_null(v.map);
	json_object_put(o);
}

Test(validate, refused_number_leaves_the_default)
{
	struct json_object *o = json_tokener_parse("{\"text\":\"a\",\"n\":5,\"x\":9}");
	struct validate_errors errs = { 0 };
	struct out v = { .n = 600, .x = 1 };

	validate_object(o, fields, ARRAY_SIZE(fields), &v, &errs);
	cr_expect_eq(v.n, 600);
	cr_expect_eq(v.x, 1.0);
	json_object_put(errs.list);
	json_object_put(o);
}

/* ---- json_text.h ---- */

Test(json_text, strings)
{
	static const struct {
		const char *in;
		size_t n;
		bool final;
		const char *want;
		size_t used;
	} t[] = {
		{ "", 0, true, "\"\"", 0 },
		{ "abc", 3, true, "\"abc\"", 3 },
		{ "a\"b\\c", 5, true, "\"a\\\"b\\\\c\"", 5 },
		{ "\n\r\t\b\f", 5, true, "\"\\n\\r\\t\\b\\f\"", 5 },
		{ "a\0b\x1b\x7f", 5, true, "\"a\\u0000b\\u001b\\u007f\"", 5 },
		{ "\xc3\xa4/", 3, true, "\"\xc3\xa4/\"", 3 },
		{ "\xff", 1, true, "\"\xef\xbf\xbd\"", 1 },
		{ "a\xe2\x82", 3, true, "\"a\xef\xbf\xbd\"", 3 },
		{ "a\xe2\x82", 3, false, "\"a\"", 1 },
		{ "\xe2\x82", 2, false, "\"\"", 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct buf b = BUF_INIT(1000);
		size_t used = 99;

		cr_assert_eq(json_text_string(&b, t[i].in, t[i].n, t[i].final, &used), 0);
		cr_expect_str_eq(b.p, t[i].want, "row %zu: %s", i, b.p);
		cr_expect_eq(used, t[i].used, "row %zu: %zu", i, used);
		buf_free(&b);
	}
}

/* Every length around the piece it works in, with a character over the border: json-c reads back the same. */
Test(json_text, long_strings_survive)
{
	for (size_t n = 16380; n < 16392; n++) {
		char *s = malloc(n + 4);
		struct buf b = BUF_INIT(1 << 20);
		struct json_object *o;

		memset(s, 'x', n);
		memcpy(s + n, "\xf0\x9f\x98\x80", 4);
		cr_assert_eq(json_text_string(&b, s, n + 4, true, NULL), 0);
		o = json_tokener_parse(b.p);
		cr_assert_not_null(o);
		cr_expect_eq((size_t)json_object_get_string_len(o), n + 4);
		cr_expect_eq(memcmp(json_object_get_string(o), s, n + 4), 0);
		json_object_put(o);
		buf_free(&b);
		free(s);
	}
}

Test(json_text, full_buffer_is_left_as_it_was)
{
	struct buf b = BUF_INIT(10);

	cr_assert_eq(buf_puts(&b, "12345"), 0);
	cr_assert_lt(json_text_string(&b, "abcdef", 6, true, NULL), 0);
	cr_expect_str_eq(b.p, "12345");
	cr_expect_eq(b.len, 5);
	buf_free(&b);
}

/* ---- router.h ---- */

Test(router, decode)
{
	static const struct {
		const char *in;
		bool plus;
		const char *want; /* NULL: refused */
	} t[] = {
		{ "", false, "" },
		{ "plain", false, "plain" },
		{ "a%20b%0Ac", false, "a b\nc" },
		{ "%c3%A4", false, "\xc3\xa4" },
		{ "a+b", false, "a+b" },
		{ "a+b%2B", true, "a b+" },
		{ "%00", false, NULL },
		{ "a%", false, NULL },
		{ "a%4", false, NULL },
		{ "a%4g", false, NULL },
		{ "a%g4", false, NULL },
		{ "%%41", false, NULL },
		{ "%2541", false, "%41" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char s[64];

		(void)snprintf(s, sizeof(s), "%s", t[i].in);
		cr_expect_eq(router_decode(s, t[i].plus) == 0, t[i].want != NULL, "%s", t[i].in);
		if (t[i].want)
			cr_expect_str_eq(s, t[i].want);
	}
}

Test(router, query)
{
	char s[] = "path=%2Fa%20b%2bc+d&&empty=&bare&path=last", many[400] = "";
	struct router_query q;

	cr_assert_eq(router_parse_query(s, &q), 0);
	cr_expect_str_eq(router_query_get(&q, "path"), "last");
	cr_expect_str_eq(q.items[0].value, "/a b+c d");
	cr_expect_str_eq(router_query_get(&q, "empty"), "");
	cr_expect_str_eq(router_query_get(&q, "bare"), "");
	cr_expect_null(router_query_get(&q, "none"));
	for (int i = 0; i <= ROUTER_MAX_QUERY; i++)
		(void)snprintf(many + strlen(many), sizeof(many) - strlen(many), "a%d=1&", i);
	cr_expect_lt(router_parse_query(many, &q), 0);
	cr_assert_eq(router_parse_query(NULL, &q), 0);
	cr_expect_eq(q.n, 0);
}

static void nothing(struct req *r)
{
	(void)r;
}

Test(router, find)
{
	static const struct route a[] = {
		{ "GET", "/v1/s", 0, 0, nothing, NULL, NULL },
		{ "POST", "/v1/s", 0, 0, nothing, NULL, NULL },
		{ "GET", "/v1/s/{id}", 0, 0, nothing, NULL, NULL },
		{ "DELETE", "/v1/s/{id}", 0, 0, nothing, NULL, NULL },
		{ "GET", "/v1/s/limits", 0, 0, nothing, NULL, NULL },
		{ "POST", "/v1/s/{id}/exec", 0, 0, nothing, NULL, NULL },
	};
	static const struct route b[] = {
		{ "GET", "/v1/s/{id}/{what}", 0, 0, nothing, NULL, NULL },
		{ "GET", "/v1/s/limits/{what}", 0, 0, nothing, NULL, NULL },
	};
	static const struct router_table tables[] = { { a, ARRAY_SIZE(a) }, { b, ARRAY_SIZE(b) } };
	static const struct {
		const char *method, *path;
		int want;
		const struct route *route;
		const char *text; /* the first parameter, or Allow */
	} t[] = {
		{ "GET", "/v1/s", 0, &a[0], NULL },
		{ "HEAD", "/v1/s", 0, &a[0], NULL },
		{ "POST", "/v1/s", 0, &a[1], NULL },
		{ "PUT", "/v1/s", -EPERM, NULL, "GET, HEAD, POST" },
		{ "OPTIONS", "/v1/s/x", -EPERM, NULL, "GET, HEAD, DELETE" },
		{ "GET", "/v1/s/x", 0, &a[2], "x" },
		{ "GET", "/v1/s/a%2Fb", 0, &a[2], "a/b" },
		{ "GET", "/v1/s/limits", 0, &a[4], NULL },
		{ "GET", "/v1/s/%6cimits", 0, &a[4], NULL },
		{ "DELETE", "/v1/s/limits", 0, &a[3], "limits" },
		{ "GET", "/v1/s/limits/x", 0, &b[1], "x" },
		{ "GET", "/v1/s/y/x", 0, &b[0], "y" },
		{ "GET", "/v1/s/y/exec", 0, &b[0], "y" },
		{ "POST", "/v1/s/y/exec", 0, &a[5], "y" },
		{ "GET", "/", -ENOENT, NULL, NULL },
		{ "GET", "", -ENOENT, NULL, NULL },
		{ "GET", "v1/s", -ENOENT, NULL, NULL },
		{ "GET", "/v1/s/", -ENOENT, NULL, NULL },
		{ "GET", "//v1/s", -ENOENT, NULL, NULL },
		{ "GET", "/v1//s", -ENOENT, NULL, NULL },
		{ "GET", "/v1", -ENOENT, NULL, NULL },
		{ "GET", "/V1/s", -ENOENT, NULL, NULL },
		{ "GET", "/v1/sx", -ENOENT, NULL, NULL },
		{ "get", "/v1/s", -EPERM, NULL, "GET, HEAD, POST" },
		{ "GET", "/v1/s/%00", -EINVAL, NULL, NULL },
		{ "GET", "/v1/s/%", -EINVAL, NULL, NULL },
		{ "GET", "/1/2/3/4/5/6/7/8/9/10/11/12/13/14", -ENOENT, NULL, NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char path[64], allow[ROUTER_ALLOW_SIZE];
		struct router_match m;
		int r;

		(void)snprintf(path, sizeof(path), "%s", t[i].path);
		r = router_find(tables, ARRAY_SIZE(tables), t[i].method, path, &m, allow);
		cr_expect_eq(r, t[i].want, "%s %s: %d", t[i].method, t[i].path, r);
		cr_expect_eq(m.route, t[i].route, "%s %s", t[i].method, t[i].path);
		if (t[i].text && r == 0)
			cr_expect_str_eq(m.params[0].value, t[i].text);
		if (t[i].text && r == -EPERM)
			cr_expect_str_eq(allow, t[i].text);
	}
}
