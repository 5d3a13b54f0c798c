#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/util.h"
#include "rootfs/json.h"

static const struct head {
	const char *in;
	int r;
	size_t end;
	const char *out; /* of a string, or the whole as json-c says it */
} heads[] = {
	{ "\"abc\"", 0, 5, "abc" },
	/* Newer json-c's own check of UTF-8 refuses all of these. */
	{ "\"/a b/\u00e9.sh\"", 0, 12, "/a b/\u00e9.sh" },
	{ "\"a\" rest", -EINVAL, 4, NULL },
	{ "\"\u2603\"", 0, 5, "\u2603" },
	{ "\"a\U0001f600\"", 0, 7, "a\U0001f600" },
	{ "\"\\u2603\\ud83d\\ude00\"", 0, 20, "\u2603\U0001f600" },
	{ "{\"\u00e9\":\"\u00e8 x\"}", 0, 13, "{ \"\u00e9\": \"\u00e8 x\" }" },
	{ "12", 0, 2, "12" },
	{ "null", 0, 4, NULL },
	{ "\"a\xc3\"", -EINVAL, 2, NULL },
	{ "\"\xed\xa0\x80\"", -EINVAL, 1, NULL },
	{ "\"\xc0\x80\"", -EINVAL, 1, NULL },
	{ "1 \xff", -EINVAL, 2, NULL },
	{ "{\"a\":1,}", -EINVAL, 7, NULL },
	{ "[[[[[1]]]]]", -EINVAL, 4, NULL },
	{ "", -EINVAL, 0, NULL },
};

Test(json, heads)
{
	for (size_t i = 0; i < ARRAY_SIZE(heads); i++) {
		const struct head *h = &heads[i];
		_cleanup_json_ struct json_object *o = NULL;
		size_t end = 999;

		cr_assert_eq(json_parse_strict(h->in, strlen(h->in) + 1, 4, &o, &end), h->r, "%s", h->in);
		cr_expect_eq(end, h->end, "%s: %zu", h->in, end);
		cr_assert_eq(o != NULL, h->out != NULL, "%s", h->in);
		if (h->out)
			cr_expect_str_eq(json_object_get_string(o), h->out);
	}
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
