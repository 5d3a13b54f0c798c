/* A request's JSON body, from req_json to the typed members: every type of field, and the answers for what is wrong. */

#include "api/req.h"

#include <json-c/json.h>

#include "api/validate.h"
#include "emulator/base/log.h"
#include "tests/fuzz/fuzz.h"

struct body {
	const char *text, *choice, *named;
	int64_t number, big;
	double fraction;
	bool flag;
	struct json_object *strings, *env, *any;
};

#define AT(m) offsetof(struct body, m)
static const char *const choices[] = { "off", "restricted", "open", NULL };
static const struct validate_field fields[] = {
	{ "template", VALIDATE_STRING, true, 1, 72, NULL, AT(text) },
	{ "network", VALIDATE_STRING, false, 0, 0, choices, AT(choice) },
	{ "cwd", VALIDATE_STRING, false, 0, 0, NULL, AT(named) },
	{ "timeout_seconds", VALIDATE_INT, false, 10, 3600, NULL, AT(number) },
	{ "memory_mb", VALIDATE_INT, false, 0, 0, NULL, AT(big) },
	{ "cpu", VALIDATE_NUMBER, false, 0.1, 64, NULL, AT(fraction) },
	{ "stream", VALIDATE_BOOL, false, 0, 0, NULL, AT(flag) },
	{ "metadata", VALIDATE_STRINGS, false, 0, 0, NULL, AT(strings) },
	{ "env", VALIDATE_ENV, false, 0, 0, NULL, AT(env) },
	{ "command", VALIDATE_ANY, false, 0, 0, NULL, AT(any) },
};

static void check(const struct body *b, struct validate_errors *errs)
{
	fuzz_check(errs->list || b->text);
	if (b->env)
		fuzz_check(json_object_is_type(b->env, json_type_object));
	if (errs->list)
		return;
	fuzz_check(b->number == -1 || (b->number >= 10 && b->number <= 3600));
	fuzz_check(b->fraction < 0 || (b->fraction >= 0.1 && b->fraction <= 64));
	fuzz_check(strlen(b->text) >= 1 && strlen(b->text) <= 72);
	(void)validate_strings_size(b->strings);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct http server;
	struct req r = { .http = &server, .id = "req_fuzz", .drain_fd = -1, .body = BUF_INIT(1 << 20) };
	struct body b = { .number = -1, .big = -1, .fraction = -1 };
	struct validate_errors errs = { 0 };
	struct json_object *o;

	log_set_level(LOG_LEVEL_ERROR);
	if (buf_add(&r.body, p, n) < 0)
		return 0;
	o = req_json(&r);
	fuzz_check(o ? r.status == 0 : r.status == 422 || r.status == 400);
	if (o) {
		fuzz_check(json_object_is_type(o, json_type_object));
		validate_object(o, fields, ARRAY_SIZE(fields), &b, &errs);
		check(&b, &errs);
		validate_unknown(&r, o, fields, ARRAY_SIZE(fields));
		if (!validate_reply(&r, &errs))
			req_reply_json(&r, 200, json_object_get(o));
		fuzz_check(r.status != 0 && strlen(r.divergence) < sizeof(r.divergence));
	}
	req_free_contents(&r);
	return 0;
}
