#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "emulator/account.h"
#include "emulator/base/text.h"

static struct accounts *fresh(bool any)
{
	struct accounts *a = NULL;

	cr_assert_eq(accounts_new(any, &a), 0);
	return a;
}

Test(plan, sizes_are_the_wires)
{
	static const struct {
		const char *name;
		enum size_id id;
		uint32_t cpu, mem;
	} t[] = { { "small", SIZE_SMALL, 500, 512 },
		  { "medium", SIZE_MEDIUM, 2000, 4096 },
		  { "large", SIZE_LARGE, 4000, 8192 } };
	enum size_id id = SIZE_LARGE;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cr_assert_eq(size_parse(t[i].name, &id), 0);
		cr_assert_eq(id, t[i].id);
		cr_assert_str_eq(size_menu[id].name, t[i].name);
		cr_assert_eq(size_menu[id].cpu_millis, t[i].cpu);
		cr_assert_eq(size_menu[id].memory_mb, t[i].mem);
	}
	cr_assert_eq(ARRAY_SIZE(t), (size_t)SIZE_COUNT);
	cr_assert_eq(size_parse("", &id), -EINVAL);
	cr_assert_eq(size_parse("Small", &id), -EINVAL);
	cr_assert_eq(size_parse("smal", &id), -EINVAL);
	cr_assert_eq(size_parse("huge", &id), -EINVAL);
}

Test(plan, plans_are_the_wires)
{
	static const struct {
		enum plan_id id;
		const char *name;
		uint32_t sizes, cpu, mem, live, snaps;
		double gb, cpu_h;
		bool open;
	} t[] = {
		{ PLAN_FREE, "free", 1, 500, 512, 1, 1, 10, 2, false },
		{ PLAN_PRO, "pro", 3, 2000, 4096, 5, 3, 200, 100, true },
		{ PLAN_TEAM, "team", 7, 4000, 8192, 15, 10, 2000, 1000, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		const struct plan *p = plan_get(t[i].id);
		enum plan_id id;

		cr_assert_str_eq(p->name, t[i].name);
		cr_assert_eq(plan_parse(t[i].name, &id), 0);
		cr_assert_eq(id, t[i].id);
		cr_assert_eq(p->sizes, t[i].sizes);
		cr_assert_eq(p->max_cpu_millis, t[i].cpu);
		cr_assert_eq(p->max_memory_mb, t[i].mem);
		cr_assert_eq(p->max_concurrent, t[i].live);
		cr_assert_eq(p->max_snapshots, t[i].snaps);
		cr_assert_eq(p->max_timeout_s, 3600u);
		cr_assert_float_eq(p->gb_hours, t[i].gb, 1e-9);
		cr_assert_float_eq(p->cpu_hours, t[i].cpu_h, 1e-9);
		cr_assert_eq(p->network_open, t[i].open);
		/* Each size a plan allows is within its own caps. */
		for (int s = 0; s < SIZE_COUNT; s++)
			if (p->sizes & (1u << s)) {
				cr_assert_leq(size_menu[s].cpu_millis, p->max_cpu_millis);
				cr_assert_leq(size_menu[s].memory_mb, p->max_memory_mb);
			}
	}
	cr_assert_eq(plan_parse("gold", &(enum plan_id){ 0 }), -EINVAL);
	cr_assert_eq(plan_parse("", &(enum plan_id){ 0 }), -EINVAL);
}

Test(accounts, specs)
{
	static const struct {
		const char *spec, *key;
		enum plan_id plan;
		unsigned int scopes;
	} t[] = {
		{ "ork_aaaaaaa1", "ork_aaaaaaa1", PLAN_TEAM, SCOPE_READ | SCOPE_WRITE },
		{ "12345678", "12345678", PLAN_TEAM, SCOPE_READ | SCOPE_WRITE },
		{ "ork_aaaaaaa2:free", "ork_aaaaaaa2", PLAN_FREE, SCOPE_READ | SCOPE_WRITE },
		{ "ork_aaaaaaa3:pro", "ork_aaaaaaa3", PLAN_PRO, SCOPE_READ | SCOPE_WRITE },
		{ "ork_aaaaaaa4:team:read", "ork_aaaaaaa4", PLAN_TEAM, SCOPE_READ },
		{ "ork_aaaaaaa5:team:write", "ork_aaaaaaa5", PLAN_TEAM, SCOPE_WRITE },
		{ "ork_aaaaaaa6:free:read,write", "ork_aaaaaaa6", PLAN_FREE, SCOPE_READ | SCOPE_WRITE },
		{ "ork_aaaaaaa7:free:write,read", "ork_aaaaaaa7", PLAN_FREE, SCOPE_READ | SCOPE_WRITE },
		{ "!\"#$%&'()*+,-./;<=>?@[\\]^_`{|}~", "!\"#$%&'()*+,-./;<=>?@[\\]^_`{|}~", PLAN_TEAM, 3 },
	};
	struct accounts *a = fresh(false);
	struct err e = ERR_INIT;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		cr_assert_eq(accounts_add(a, t[i].spec, &e), 0, "%s: %s", t[i].spec, e.msg);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char hex[TEXT_SHA256_SIZE], id[ACCOUNT_ID_SIZE];
		struct account acc;

		cr_assert_eq(accounts_find(a, t[i].key, &acc, &e), 0, "%s: %s", t[i].key, e.msg);
		cr_assert_eq(acc.plan, t[i].plan);
		cr_assert_eq(acc.scopes, t[i].scopes);
		text_sha256(t[i].key, strlen(t[i].key), hex);
		cr_assert_eq(text_format(id, sizeof(id), "acc_%.16s", hex), 20);
		cr_assert_str_eq(acc.id, id);
	}
	accounts_free(a);
}

Test(accounts, bad_specs_say_what_is_wrong_and_never_the_key)
{
	static const struct {
		const char *spec, *says;
	} t[] = {
		{ "", "shorter than 8" },
		{ "secret7", "shorter than 8" },
		{ ":team", "shorter than 8" },
		{ "secret7:team:read", "shorter than 8" },
		{ "secret with space", "printable ASCII" },
		{ " secretsecret", "printable ASCII" },
		{ "secretsecret\n", "printable ASCII" },
		{ "secretsecret\t", "printable ASCII" },
		{ "secretsecret\x7f", "printable ASCII" },
		{ "secretsecret\xc3\xa9", "printable ASCII" },
		{ "secretsecret:", "a plan: free, pro or team" },
		{ "secretsecret:gold", "a plan: free, pro or team" },
		{ "secretsecret:Team", "a plan: free, pro or team" },
		{ "secretsecret:team ", "a plan: free, pro or team" },
		{ "secretsecret::read", "a plan: free, pro or team" },
		{ "secretsecret:a-plan-with-a-very-long-name-indeed", "a plan: free, pro or team" },
		{ "secretsecret:team:", "scopes: read, write" },
		{ "secretsecret:team:all", "scopes: read, write" },
		{ "secretsecret:team:read,", "scopes: read, write" },
		{ "secretsecret:team:,read", "scopes: read, write" },
		{ "secretsecret:team:read write", "scopes: read, write" },
		{ "secretsecret:team:read:write", "scopes: read, write" },
		{ "secretsecret:team:readwrite", "scopes: read, write" },
		{ "secretsecret:team:read:", "account=NAME" },
		{ "secretsecret:team:read:account=", "account=NAME" },
		{ "secretsecret:team:read:account=UPPER", "account=NAME" },
		{ "secretsecret:team:read:rate=5", "rate=REQUESTS/SECONDS" },
		{ "secretsecret:team:read:expires=tomorrow", "expires=TIME" },
		{ "secretsecret:team:read:expires=2026-05-01T00:00:00Z:revoked", "expires=TIME" },
	};
	struct accounts *a = fresh(false);
	struct err e = ERR_INIT;
	struct account acc;
	char big[400];

	cr_assert_eq(accounts_add(a, "first-key", NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		cr_assert_eq(accounts_add(a, t[i].spec, &e), -EINVAL, "accepted \"%s\"", t[i].spec);
		cr_assert_eq(e.kind, ERR_INVALID);
		cr_assert_not_null(strstr(e.msg, t[i].says), "\"%s\": %s", t[i].spec, e.msg);
		cr_assert_not_null(strstr(e.msg, "API key 2:"), "%s", e.msg);
		cr_assert_null(strstr(e.msg, "secret"), "%s", e.msg);
	}
	memset(big, 'k', sizeof(big));
	big[257] = '\0';
	cr_assert_eq(accounts_add(a, big, &e), -EINVAL);
	cr_assert_not_null(strstr(e.msg, "longer than 256"));
	big[256] = '\0';
	cr_assert_eq(accounts_add(a, big, &e), 0);
	cr_assert_eq(accounts_find(a, big, &acc, &e), 0);
	cr_assert_eq(accounts_add(a, "first-key:free", &e), -EINVAL);
	cr_assert_not_null(strstr(e.msg, "given before"));
	cr_assert_eq(accounts_find(a, "first-key", &acc, &e), 0);
	cr_assert_eq(acc.plan, PLAN_TEAM);
	accounts_free(a);
}

Test(accounts, unknown_tokens)
{
	static const char *const t[] = {
		"ork_other_key",  "ork_known_ke",	"ork_known_key1", "ORK_KNOWN_KEY",
		"ork_known_key ", "ork_known_key:team", "short",	  "sp_live_other_key"
	};
	struct accounts *a = fresh(false);
	struct account acc = { .id = "untouched" };
	struct err e;

	cr_assert_eq(accounts_add(a, "ork_known_key", NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		e = ERR_INIT;
		cr_assert_eq(accounts_find(a, t[i], &acc, &e), -EACCES, "%s", t[i]);
		cr_assert_eq(e.kind, ERR_DENIED);
		cr_assert_str_eq(e.reason, "unauthorized");
		cr_assert_str_eq(e.msg, "Invalid API key"); /* the same, however near */
		cr_assert_str_eq(acc.id, "untouched");
	}
	cr_assert_eq(accounts_find(a, NULL, &acc, &e), -EACCES);
	cr_assert_eq(accounts_find(a, "", &acc, &e), -EACCES);
	cr_assert_not_null(strstr(e.msg, "Missing API key"));
	accounts_free(a);
	accounts_free(NULL);
}

Test(accounts, any)
{
	struct accounts *a = fresh(true);
	struct account x, y, z;
	struct err e = ERR_INIT;

	cr_assert_eq(accounts_add(a, "ork_listed_key:free:read", NULL), 0);
	cr_assert_eq(accounts_find(a, "ork_some_key_1", &x, &e), 0);
	cr_assert_eq(accounts_find(a, "sp_live_some_key", &y, &e), 0);
	cr_assert_str_neq(x.id, y.id);
	cr_assert_eq(x.plan, PLAN_TEAM);
	cr_assert_eq(x.scopes, (unsigned int)(SCOPE_READ | SCOPE_WRITE));
	cr_assert_eq(accounts_find(a, "ork_some_key_1", &z, &e), 0);
	cr_assert_str_eq(x.id, z.id);
	cr_assert_eq(accounts_find(a, "ork_listed_key", &z, &e), 0); /* its own plan wins */
	cr_assert_eq(z.plan, PLAN_FREE);
	cr_assert_eq(z.scopes, (unsigned int)SCOPE_READ);
	cr_assert_eq(accounts_find(a, "sk_some_other_kind", &z, &e), -EACCES);
	cr_assert_eq(accounts_find(a, "ork_", &z, &e), -EACCES);
	cr_assert_eq(accounts_find(a, "ork_with space", &z, &e), -EACCES);
	accounts_free(a);
}

Test(accounts, many)
{
	struct accounts *a = fresh(false);
	struct err e = ERR_INIT;
	struct account acc;
	char key[32];

	for (int i = 0; i < 1024; i++) {
		(void)snprintf(key, sizeof(key), "key-number-%d", i);
		cr_assert_eq(accounts_add(a, key, &e), 0, "%d: %s", i, e.msg);
	}
	cr_assert_lt(accounts_add(a, "one-too-many", &e), 0);
	cr_assert_eq(e.kind, ERR_CAPACITY);
	cr_assert_eq(accounts_find(a, "key-number-0", &acc, &e), 0);
	cr_assert_eq(accounts_find(a, "key-number-1023", &acc, &e), 0);
	accounts_free(a);
}

Test(accounts, generated_keys)
{
	struct accounts *a = fresh(false);
	int seen[128] = { 0 }, kinds = 0;
	char last[ACCOUNT_KEY_SIZE] = "";

	for (int i = 0; i < 200; i++) {
		char key[ACCOUNT_KEY_SIZE];

		account_key_generate(key);
		cr_assert_eq(strlen(key), 44u);
		cr_assert_eq(strncmp(key, "ork_", 4), 0);
		cr_assert_str_neq(key, last);
		cr_assert_eq(accounts_add(a, key, NULL), 0);
		for (const char *p = key + 4; *p; p++) {
			cr_assert((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z'));
			seen[(unsigned char)*p]++;
		}
		memcpy(last, key, sizeof(last));
	}
	for (size_t i = 0; i < ARRAY_SIZE(seen); i++)
		kinds += seen[i] > 0;
	cr_assert_eq(kinds, 62); /* 8,000 draws: that one of 62 never came is out of the question */
	accounts_free(a);
}

Test(accounts, options_of_a_spec)
{
	struct accounts *a = fresh(false);
	struct err e = ERR_INIT;
	struct account who;

	cr_assert_eq(accounts_add(a, "key-number-1:free:read:account=alice:rate=5/60", &e), 0, "%s", e.msg);
	cr_assert_eq(accounts_find(a, "key-number-1", &who, &e), 0);
	cr_assert_str_eq(who.id, "acc_alice");
	cr_assert(who.plan == PLAN_FREE && who.scopes == SCOPE_READ && who.rate.requests == 5 &&
		  who.rate.seconds == 60);
	cr_assert_eq(accounts_add(a, "key-number-2:team:read,write:revoked", &e), 0, "%s", e.msg);
	cr_assert_eq(accounts_find(a, "key-number-2", &who, &e), -EACCES);
	cr_assert_str_eq(e.reason, "unauthorized");
	cr_assert_eq(accounts_add(a, "key-number-3:team:read,write:expires=2020-01-01T00:00:00Z", &e), 0, "%s", e.msg);
	cr_assert_eq(accounts_find(a, "key-number-3", &who, &e), -EACCES);
	cr_assert_str_eq(e.reason, "key_expired");
	cr_assert_eq(accounts_add(a, "key-number-4:team:read:account=alice:expires=2999-01-01T00:00:00Z", &e), 0, "%s",
		     e.msg);
	cr_assert_eq(accounts_find(a, "key-number-4", &who, &e), 0);
	cr_assert_str_eq(who.id, "acc_alice");
	accounts_free(a);
}

Test(accounts, a_file_of_them)
{
	char text[] = "# keys\n\n  key-number-1:free\t\r\nkey-number-2\n#key-number-3\nkey-number-4:pro:read";
	char bad[] = "key-number-5\nbad\n";
	struct accounts *a = fresh(false);
	struct err e = ERR_INIT;
	struct account who;

	cr_assert_eq(accounts_add_lines(a, text, &e), 0, "%s", e.msg);
	cr_assert_eq(accounts_find(a, "key-number-1", &who, &e), 0);
	cr_assert_eq(who.plan, PLAN_FREE);
	cr_assert_eq(accounts_find(a, "key-number-2", &who, &e), 0);
	cr_assert_lt(accounts_find(a, "key-number-3", &who, &e), 0);
	cr_assert_eq(accounts_find(a, "key-number-4", &who, &e), 0);
	for (size_t i = 0; i < sizeof(text); i++)
		cr_assert_eq(text[i], 0); /* nothing of a key is left there */
	cr_assert_eq(accounts_add_lines(a, bad, &e), -EINVAL);
	cr_assert_not_null(strstr(e.msg, "API key 5:"), "%s", e.msg);
	accounts_free(a);
}
