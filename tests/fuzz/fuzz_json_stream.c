/* A JSON object that comes in pieces: whatever the cuts, the same verdict, members and text; and what is taken, json-c
 * takes as well. The first byte says how it is cut. */

#include "api/json_stream.h"
#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "tests/fuzz/fuzz.h"

struct outcome {
	int r;
	uint64_t at;
	struct buf text;
	char *members;
};

static int on_text(void *arg, const char *p, size_t n, struct err *e _unused_)
{
	fuzz_check(n > 0);
	return buf_add(arg, p, n);
}

static void run(const uint8_t *p, size_t n, size_t step, struct outcome *o)
{
	static const char *const names[] = { "content", "data", NULL };
	struct json_stream_config c = { .names = names, .text = on_text, .arg = &o->text };
	struct json_stream *s;
	struct err e = ERR_INIT;

	*o = (struct outcome){ .text = BUF_INIT(1 << 20) };
	fuzz_check(json_stream_new(&c, &s) == 0);
	for (size_t i = 0; i < n && o->r == 0; i += MIN(step, n - i)) {
		char *piece = fuzz_string(p + i, MIN(step, n - i));

		o->r = json_stream_feed(s, piece, MIN(step, n - i), &e);
		free(piece);
	}
	if (o->r == 0)
		o->r = json_stream_finish(s, &e);
	fuzz_check(o->r == 0 || (e.kind != ERR_NONE && strlen(e.msg) > 0));
	o->at = json_stream_at(s);
	o->members = strdup(json_object_to_json_string(json_stream_members(s)));
	fuzz_check(o->members);
	json_stream_free(s);
}

static void outcome_free(struct outcome *o)
{
	buf_free(&o->text);
	free(o->members);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct outcome whole, cut;

	if (n < 1)
		return 0;
	run(p + 1, n - 1, n, &whole);
	run(p + 1, n - 1, (size_t)p[0] % 16 + 1, &cut);
	fuzz_check(whole.r == cut.r);
	if (whole.r == 0) {
		struct json_tokener *t = json_tokener_new_ex(64);
		struct json_object *o;

		fuzz_check(whole.text.len == cut.text.len && strcmp(whole.members, cut.members) == 0);
		fuzz_check(whole.text.len == 0 || memcmp(whole.text.p, cut.text.p, whole.text.len) == 0);
		fuzz_check(text_utf8_valid(whole.text.p ? whole.text.p : "", whole.text.len));
		o = json_tokener_parse_ex(t, (const char *)p + 1, (int)n - 1);
		fuzz_check(json_object_is_type(o, json_type_object));
		json_object_put(o);
		json_tokener_free(t);
	} else {
		fuzz_check(whole.at == cut.at);
	}
	outcome_free(&whole);
	outcome_free(&cut);
	return 0;
}
