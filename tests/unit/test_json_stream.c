/* api/json_stream.h and api/base64.h: every input, cut at every place, gives the same answer. */

#include <criterion/criterion.h>
#include <string.h>

#include "api/base64.h"
#include "api/json_stream.h"
#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"

static const char *const names[] = { "content", "content_b64", "data", NULL };

struct outcome {
	int r;
	enum err_kind kind;
	char reason[32], msg[200], name[16];
	uint64_t at;
	char *members;
	struct buf text;
};

static int collect(void *arg, const char *p, size_t n, struct err *e)
{
	(void)e;
	cr_assert(n > 0);
	return buf_add(&((struct outcome *)arg)->text, p, n);
}

/* Feeds p in pieces that end at each of the offsets in cuts. */
static void run(const char *p, size_t n, const size_t *cuts, size_t n_cuts, struct outcome *o)
{
	struct json_stream_config c = { .names = names, .text = collect, .arg = o };
	struct json_stream *s = NULL;
	struct err e = ERR_INIT;
	size_t from = 0;

	*o = (struct outcome){ .text = BUF_INIT(1u << 20) };
	cr_assert(json_stream_new(&c, &s) == 0);
	for (size_t i = 0; i <= n_cuts && o->r >= 0; i++) {
		size_t to = i < n_cuts ? cuts[i] : n;
		/* A copy of its own size, so that a sanitizer sees a byte too far. */
		char *piece = malloc(to - from + 1);

		memcpy(piece, p + from, to - from);
		o->r = json_stream_feed(s, piece, to - from, &e);
		free(piece);
		from = to;
	}
	if (o->r >= 0)
		o->r = json_stream_finish(s, &e);
	o->kind = e.kind;
	o->at = json_stream_at(s);
	(void)snprintf(o->reason, sizeof(o->reason), "%s", e.reason ? e.reason : "");
	(void)snprintf(o->msg, sizeof(o->msg), "%.199s", e.msg);
	(void)snprintf(o->name, sizeof(o->name), "%s", json_stream_name(s) ? json_stream_name(s) : "");
	o->members = strdup(json_object_to_json_string_ext(json_stream_members(s), JSON_C_TO_STRING_PLAIN));
	json_stream_free(s);
}

static void outcome_free(struct outcome *o)
{
	free(o->members);
	buf_free(&o->text);
}

static void expect_same(const struct outcome *a, const struct outcome *b, const char *input, size_t at)
{
	cr_assert(a->r == b->r && a->kind == b->kind && a->at == b->at, "%s cut at %zu: %d/%s, %d/%s", input, at, a->r,
		  a->msg, b->r, b->msg);
	cr_assert(strcmp(a->msg, b->msg) == 0 && strcmp(a->name, b->name) == 0 && strcmp(a->members, b->members) == 0,
		  "%s cut at %zu", input, at);
	if (a->r == 0)
		cr_assert(a->text.len == b->text.len &&
				  memcmp(a->text.p ? a->text.p : "", b->text.p ? b->text.p : "", a->text.len) == 0,
			  "%s cut at %zu", input, at);
}

/* The outcome for the whole, after checking that no way of cutting it gives another. */
static void run_all_cuts(const char *p, size_t n, struct outcome *ret)
{
	size_t *every = calloc(n + 1, sizeof(*every));
	struct outcome o;

	run(p, n, NULL, 0, ret);
	for (size_t i = 0; i <= n; i++) {
		every[i] = i;
		run(p, n, &i, 1, &o);
		expect_same(ret, &o, p, i);
		outcome_free(&o);
		for (size_t k = i; k <= n && n < 64; k++) {
			size_t cuts[2] = { i, k };

			run(p, n, cuts, 2, &o);
			expect_same(ret, &o, p, i);
			outcome_free(&o);
		}
	}
	run(p, n, every, n + 1, &o);
	expect_same(ret, &o, p, n);
	outcome_free(&o);
	free(every);
}

Test(json_stream, good_input)
{
	static const struct {
		const char *input, *text, *members, *name;
	} cases[] = {
		{ "{}", "", "{}", "" },
		{ " \t\r\n{ \n} \n", "", "{}", "" },
		{ "{\"content\":\"\"}", "", "{}", "content" },
		{ "{\"content\":\"aGVsbG8=\",\"path\":\"/x\"}", "aGVsbG8=", "{\"path\":\"\\/x\"}", "content" },
		{ "{\"path\" : \"/x\" , \"data\" : \"abc\" }", "abc", "{\"path\":\"\\/x\"}", "data" },
		{ "{\"con\\u0074ent\":\"x\"}", "x", "{}", "content" },
		{ "{\"content\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "\"\\/\b\f\n\r\t", "{}", "content" },
		{ "{\"content\":\"\\u0041\\u00e4\\u20AC\\ud83d\\uDE00\\uffff.\"}",
		  "A\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbf.", "{}", "content" },
		{ "{\"content\":\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\x7f\"}",
		  "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\x7f", "{}", "content" },
		{ "{\"a\":[1,{\"b\":[\"]}\\\"\",null]},true],\"n\":-12.5e+3,\"z\":0,\"t\":true,\"u\":null,\"content\":"
		  "\"x\",\"s\":\"q\"}",
		  "x",
		  "{\"a\":[1,{\"b\":[\"]}\\\"\",null]},true],\"n\":-12.5e+3,\"z\":0,\"t\":true,\"u\":null,\"s\":\"q\"}",
		  "content" },
		{ "{\"a\":[0,-7,0.5,1E9,2e-3,\"-01 1. \\\" 01\",10]}", "",
		  "{\"a\":[0,-7,0.5,1E9,2e-3,\"-01 1. \\\" 01\",10]}", "" },
		{ "{\"m\":420}", "", "{\"m\":420}", "" },
		{ "{\"nested\":{\"content\":\"not this one\"},\"content\":\"this\"}", "this",
		  "{\"nested\":{\"content\":\"not this one\"}}", "content" },
		{ "{\"path\":\"/a\\u0000b\"}", "", "{\"path\":\"\\/a\\u0000b\"}", "" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct outcome o;

		run_all_cuts(cases[i].input, strlen(cases[i].input), &o);
		cr_expect(o.r == 0, "%s: %s", cases[i].input, o.msg);
		cr_expect_str_eq(o.text.p ? o.text.p : "", cases[i].text);
		cr_expect_str_eq(o.members, cases[i].members);
		cr_expect_str_eq(o.name, cases[i].name);
		outcome_free(&o);
	}
}

#define DEEP "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["

static const struct {
	const char *input;
	uint64_t at;
	const char *reason;
} bad_cases[] = {
	{ "", 0, "json_invalid" },
	{ "  ", 2, "json_invalid" },
	{ "[]", 0, "json_invalid" },
	{ "\xef\xbb\xbf{}", 0, "json_invalid" },
	{ "{", 1, "json_invalid" },
	{ "{\"a\":1,}", 7, "json_invalid" },
	{ "{,}", 1, "json_invalid" },
	{ "{a:1}", 1, "json_invalid" },
	{ "{'a':1}", 1, "json_invalid" },
	{ "{\"a\" 1}", 5, "json_invalid" },
	{ "{\"a\":1 2}", 7, "json_invalid" },
	{ "{\"a\":}", 5, "json_invalid" },
	{ "{\"a\":,\"b\":1}", 5, "json_invalid" },
	{ "{\"a\":[1}", 5, "json_invalid" },
	{ "{\"a\":]}", 5, "json_invalid" },
	{ "{\"a\":[1,]}", 5, "json_invalid" },
	{ "{\"a\":[}]}", 5, "json_invalid" },
	{ "{\"a\":tru}", 5, "json_invalid" },
	{ "{\"a\":TRUE}", 5, "json_invalid" },
	{ "{\"a\":NaN}", 5, "json_invalid" },
	{ "{\"a\":[NaN]}", 6, "json_invalid" },
	{ "{\"a\":Infinity}", 5, "json_invalid" },
	{ "{\"a\":-Infinity}", 6, "json_invalid" },
	{ "{\"a\":01}", 5, "json_invalid" },
	{ "{\"a\":[-01]}", 5, "json_invalid" },
	{ "{\"a\":1.}", 5, "json_invalid" },
	{ "{\"a\":{\"b\":1.e5}}", 5, "json_invalid" },
	{ "{\"a\":[1e+]}", 5, "json_invalid" },
	{ "{\"a\":1-2}", 5, "json_invalid" },
	{ "{\"a\":.5}", 5, "json_invalid" },
	{ "{\"a\":+5}", 5, "json_invalid" },
	{ "{\"a\":-}", 5, "json_invalid" },
	{ "{\"a\":1e}", 5, "json_invalid" },
	{ "{\"a\":1 /* */}", 7, "json_invalid" },
	{ "{\"a\":[1/**/]}", 7, "json_invalid" },
	{ "{\"a\":\"x\ny\"}", 7, "json_invalid" },
	{ "{\"a\":\"\\x\"}", 5, "json_invalid" },
	{ "{\"a\":\"\\u12G4\"}", 5, "json_invalid" },
	{ "{\"a\":\"\xff\"}", 5, "json_invalid" },
	{ "{\"\xff\":1}", 3, "json_invalid" },
	{ "{\"a\":\"x", 7, "json_invalid" },
	{ "{\"a\":1,\"a\":2}", 11, "json_invalid" },
	{ "{\"a\":1}x", 7, "json_invalid" },
	{ "{\"a\":1}{}", 7, "json_invalid" },
	{ "{\"content\":\"x\"", 14, "json_invalid" },
	{ "{\"content\":\"x", 13, "json_invalid" },
	{ "{\"content\":\"x\",\"content\":\"y\"}", 25, "json_invalid" },
	{ "{\"content\":\"x\",\"data\":\"y\"}", 22, "json_invalid" },
	{ "{\"content\":\"x\ny\"}", 13, "json_invalid" },
	{ "{\"content\":\"\\x\"}", 13, "json_invalid" },
	{ "{\"content\":\"\\u12G4\"}", 16, "json_invalid" },
	{ "{\"content\":\"\\ud83d\"}", 18, "json_invalid" },
	{ "{\"content\":\"\\ud83dx\"}", 18, "json_invalid" },
	{ "{\"content\":\"\\ud83d\\n\"}", 19, "json_invalid" },
	{ "{\"content\":\"\\ud83d\\u0041\"}", 23, "json_invalid" },
	{ "{\"content\":\"\\ude00\"}", 17, "json_invalid" },
	{ "{\"content\":\"\xc3\"}", 13, "json_invalid" },
	{ "{\"content\":\"\xc0\x80\"}", 12, "json_invalid" },
	{ "{\"content\":\"\xed\xa0\x80\"}", 13, "json_invalid" },
	{ "{\"content\":\"\xf4\x90\x80\x80\"}", 13, "json_invalid" },
	{ "{\"content\":\"\xe2\x82\\n\"}", 14, "json_invalid" },
	{ "{\"content\":nope}", 11, "string_type" },
	{ "{\"content\":null}", 11, "string_type" },
	{ "{\"content\":[\"x\"]}", 11, "string_type" },
	{ "{\"content\":12}", 11, "string_type" },
	{ "{\"a\":" DEEP, 37, "json_invalid" },
};

Test(json_stream, bad_input)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad_cases); i++) {
		struct outcome o;

		run_all_cuts(bad_cases[i].input, strlen(bad_cases[i].input), &o);
		cr_expect(o.r < 0, "%s", bad_cases[i].input);
		cr_expect(o.at == bad_cases[i].at, "%s: at %llu", bad_cases[i].input, (unsigned long long)o.at);
		cr_expect_str_eq(o.reason, bad_cases[i].reason, "%s", bad_cases[i].input);
		cr_expect(o.kind == ERR_INVALID);
		outcome_free(&o);
	}
}

Test(json_stream, a_nul_byte_is_an_error_everywhere)
{
	static const char good[] = "{\"a\":[1,\"x\"],\"content\":\"yz\"}";

	for (size_t i = 0; i < sizeof(good); i++) {
		char input[sizeof(good) + 1];
		struct outcome o;

		memcpy(input, good, i);
		input[i] = '\0';
		memcpy(input + i + 1, good + i, sizeof(good) - 1 - i);
		run_all_cuts(input, sizeof(good), &o);
		cr_expect(o.r < 0, "at %zu", i);
		outcome_free(&o);
	}
}

/* Long texts, so that runs, the small buffer and escapes meet in every way. */
Test(json_stream, long_mixed_text)
{
	static const char *const pieces[] = { "plain ascii, of a length that is no multiple of eight",
					      "\\n",
					      "\\u00e4",
					      "\xe2\x82\xac",
					      "\\ud83d\\ude00",
					      "\\\"" };
	static const char *const texts[] = { "plain ascii, of a length that is no multiple of eight",
					     "\n",
					     "\xc3\xa4",
					     "\xe2\x82\xac",
					     "\xf0\x9f\x98\x80",
					     "\"" };
	_cleanup_buf_ struct buf in = BUF_INIT(1u << 20), want = BUF_INIT(1u << 20);
	uint32_t rnd = 1;
	struct outcome o;

	cr_assert(buf_puts(&in, "{\"content\":\"") == 0);
	for (int i = 0; i < 3000; i++) {
		rnd = rnd * 1664525u + 1013904223u;
		for (uint32_t k = 0; k < (i % 100 == 0 ? 20 : 1); k++) {
			cr_assert(buf_puts(&in, pieces[(rnd >> 16) % ARRAY_SIZE(pieces)]) == 0);
			cr_assert(buf_puts(&want, texts[(rnd >> 16) % ARRAY_SIZE(pieces)]) == 0);
		}
	}
	cr_assert(buf_puts(&in, "\",\"path\":\"/p\"}") == 0);
	for (size_t step = 1; step < 2000; step = step * 3 + 1) {
		size_t n = in.len / step, *cuts = calloc(n + 1, sizeof(*cuts));

		for (size_t i = 0; i < n; i++)
			cuts[i] = (i + 1) * step;
		run(in.p, in.len, cuts, n, &o);
		cr_expect(o.r == 0, "%s", o.msg);
		cr_expect(o.text.len == want.len && memcmp(o.text.p, want.p, want.len) == 0, "step %zu", step);
		cr_expect_str_eq(o.members, "{\"path\":\"\\/p\"}");
		outcome_free(&o);
		free(cuts);
	}
}

Test(json_stream, members_are_bounded)
{
	_cleanup_buf_ struct buf in = BUF_INIT(1u << 20);
	struct outcome o;

	cr_assert(buf_puts(&in, "{\"content\":\"x\",\"path\":\"") == 0);
	for (unsigned int i = 0; i < JSON_STREAM_MEMBERS_MAX; i += 64)
		cr_assert(buf_puts(&in, "0123456789012345678901234567890123456789012345678901234567890123") == 0);
	cr_assert(buf_puts(&in, "\"}") == 0);
	run(in.p, in.len, NULL, 0, &o);
	cr_expect(o.r < 0 && o.kind == ERR_TOO_LARGE);
	cr_expect_str_eq(o.reason, "payload_too_large");
	outcome_free(&o);
	buf_reset(&in);
	cr_assert(buf_puts(&in, "{\"") == 0);
	for (int i = 0; i < 2000; i++)
		cr_assert(buf_puts(&in, "k") == 0);
	run(in.p, in.len, NULL, 0, &o);
	cr_expect(o.r < 0 && o.kind == ERR_TOO_LARGE);
	outcome_free(&o);
}

static int refuse(void *arg, const char *p, size_t n, struct err *e)
{
	(void)arg, (void)p, (void)n;
	return err_set(e, ERR_FULL, 28, "disk_full", "full");
}

Test(json_stream, the_sinks_error_comes_through)
{
	static const char input[] = "{\"content\":\"abc\",\"path\":1}";
	struct json_stream_config c = { .names = names, .text = refuse };
	struct json_stream *s = NULL;
	struct err e = ERR_INIT;

	cr_assert(json_stream_new(&c, &s) == 0);
	cr_expect(json_stream_feed(s, input, strlen(input), &e) == -28 && e.kind == ERR_FULL);
	cr_expect(json_stream_feed(s, "x", 1, &e) < 0 && e.kind == ERR_INTERNAL);
	json_stream_free(s);
	json_stream_free(NULL);
}

/* Decodes p cut in two; the length, or -1. *ret_taken: characters that belonged. */
static ssize_t decode(const char *p, size_t n, size_t cut, bool plain, char *ret, uint64_t *ret_taken)
{
	struct base64_in b = { .plain = plain };
	size_t used, len;
	int r;

	len = base64_in(&b, p, cut, ret, &used);
	if (used == cut)
		len += base64_in(&b, p + cut, n - cut, ret + len, &used);
	*ret_taken = b.taken;
	if (b.taken < n)
		return -1;
	r = base64_in_end(&b, (unsigned char *)ret + len);
	return r < 0 ? -1 : (ssize_t)len + r;
}

Test(json_stream, base64_cases)
{
	static const struct {
		const char *in, *out; /* NULL: an error */
		uint64_t taken;	      /* where it stops */
		bool plain;	      /* whether the plain kind reads all of it as well */
	} cases[] = {
		{ "", "", 0, true },
		{ "Zg==", "f", 4, true },
		{ "Zm8=", "fo", 4, true },
		{ "Zm9v", "foo", 4, true },
		{ "Zg", "f", 2, true },
		{ "Zm8", "fo", 3, true },
		{ "Zm9vYmFy", "foobar", 8, true },
		{ " Zm9v\r\nYm\tFy ", "foobar", 13, false },
		{ "Zg=\n=", "f", 5, false },
		{ "8J-YgPCfmIA_", "\xf0\x9f\x98\x80\xf0\x9f\x98\x80?", 12, false },
		{ "8J+YgPCfmIA/", "\xf0\x9f\x98\x80\xf0\x9f\x98\x80?", 12, true },
		{ "Z", NULL, 1, true },
		{ "Zm9vY", NULL, 5, true },
		{ "Zh==", NULL, 4, true },
		{ "Zm9=", NULL, 4, true },
		{ "Zg=", NULL, 3, true },
		{ "Zg===", NULL, 4, false },
		{ "Zm9v=", NULL, 4, false },
		{ "=", NULL, 0, false },
		{ "Z=", NULL, 1, false },
		{ "Zg==Zg==", NULL, 4, false },
		{ "Zm9v!mFy", NULL, 4, false },
		{ "Zm9vYm\xc3y", NULL, 6, false },
		{ "print(1)", NULL, 5, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		size_t n = strlen(cases[i].in);

		for (size_t cut = 0; cut <= n; cut++) {
			char out[64], plain_out[64], ref[64];
			uint64_t taken, plain_taken;
			ssize_t len = decode(cases[i].in, n, cut, false, out, &taken);
			ssize_t want = cases[i].out ? (ssize_t)strlen(cases[i].out) : -1;

			cr_expect(len == want, "%s at %zu: %zd", cases[i].in, cut, len);
			cr_expect(len < 0 || memcmp(out, cases[i].out, (size_t)len) == 0, "%s", cases[i].in);
			cr_expect(taken == cases[i].taken, "%s: %llu", cases[i].in, (unsigned long long)taken);
			cr_expect(MAX(text_base64_decode(cases[i].in, n, ref), (ssize_t)-1) == want,
				  "base/text.h agrees: %s", cases[i].in);
			(void)decode(cases[i].in, n, cut, true, plain_out, &plain_taken);
			cr_expect((plain_taken == n) == cases[i].plain, "%s, plain", cases[i].in);
		}
	}
}

Test(json_stream, base64_gives_back_what_was_encoded)
{
	unsigned char raw[200];
	char text[300], out[300];
	uint64_t taken;

	text_random(raw, sizeof(raw));
	for (size_t n = 0; n <= sizeof(raw); n++) {
		size_t len = text_base64_encode(raw, n, text);

		for (size_t cut = 0; cut <= len; cut += n < 40 ? 1 : 17) {
			cr_expect(decode(text, len, cut, n % 2 == 0, out, &taken) == (ssize_t)n);
			cr_expect(memcmp(out, raw, n) == 0);
		}
	}
}

struct sink {
	struct base64_in b64;
	uint64_t bytes;
	char out[65536];
};

static int decode_text(void *arg, const char *p, size_t n, struct err *e)
{
	struct sink *k = arg;

	(void)e;
	while (n > 0) {
		size_t part = MIN(n, (size_t)65536), used;

		k->bytes += base64_in(&k->b64, p, part, k->out, &used);
		cr_assert(used == part);
		p += part;
		n -= part;
	}
	return 0;
}

/* The figure to reach is 300 MB/s of JSON with optimisation; a tenth of it is asserted, because the
 * machine is shared and sanitizers are slow. */
Test(json_stream, speed)
{
	enum { PIECE = 32768, ROUNDS = 4096 };
	static char piece[PIECE + 1], raw[PIECE];
	static struct sink k;
	struct json_stream_config c = { .names = names, .text = decode_text, .arg = &k };
	struct json_stream *s = NULL;
	struct err e = ERR_INIT;
	int64_t t0;

	text_random(raw, sizeof(raw));
	(void)text_base64_encode(raw, PIECE / 4 * 3, piece);
	cr_assert(json_stream_new(&c, &s) == 0);
	t0 = clock_mono_us();
	cr_assert(json_stream_feed(s, "{\"content\":\"", 12, &e) == 0);
	for (int i = 0; i < ROUNDS; i++)
		cr_assert(json_stream_feed(s, piece, PIECE, &e) == 0);
	cr_assert(json_stream_feed(s, "\"}", 2, &e) == 0 && json_stream_finish(s, &e) == 0);
	t0 = clock_mono_us() - t0;
	cr_expect(k.bytes == (uint64_t)ROUNDS * PIECE / 4 * 3);
	cr_log_info("base 64 in JSON: %lld MB/s", (long long)PIECE * ROUNDS / t0);
	cr_expect((int64_t)PIECE * ROUNDS / t0 >= 30);
	json_stream_free(s);
}
