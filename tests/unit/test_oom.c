/* Every allocation fails once. Each piece of work below is done again and again, the first allocation failing, then the
 * second, and so on, until one run needs no more; then the same with all from the n-th on. Each run ends with success or
 * an error of the promised kind, leaves nothing allocated, and what it worked on is whole: it works afterwards.
 *
 * Not so while json-c (0.16) parses: it does not look whether strdup(3) worked (linkhash.c, json_object.c), so out of
 * memory it ends the process. What is done with the result is looked at.
 *
 * malloc and its kin are replaced in this binary, and so in the libraries too (malloc(3), "NOTES"). The sanitizers have
 * replaced them already: there this is skipped. */

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <uv.h>

#include "api/json_stream.h"
#include "api/json_text.h"
#include "api/validate.h"
#include "emulator/account.h"
#include "emulator/base/buf.h"
#include "emulator/base/text.h"
#include "emulator/exec-internal.h"
#include "netpolicy/ledger.h"
#include "netpolicy/policy.h"
#include "rootfs/json.h"
#include "tests/unit/store_fixture.h"

static bool armed, for_good;
static long countdown, live;
static bool failed_one;

#ifndef __SANITIZE_ADDRESS__

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);

static bool refuse(void)
{
	if (!armed || --countdown > 0 || (countdown < 0 && !for_good))
		return false;
	failed_one = true;
	errno = ENOMEM;
	return true;
}

static void *counted(void *p)
{
	live += armed && p;
	return p;
}

void *malloc(size_t n)
{
	return refuse() ? NULL : counted(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
	return refuse() ? NULL : counted(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
	if (refuse())
		return NULL;
	return p ? __libc_realloc(p, n) : counted(__libc_realloc(p, n));
}

void free(void *p)
{
	live -= armed && p;
	__libc_free(p);
}

/* json-c's, with memory. */
struct json_object *json_tokener_parse_ex(struct json_tokener *t, const char *p, int n)
{
	static struct json_object *(*real)(struct json_tokener *, const char *, int);
	struct json_object *o;
	long before = countdown;
	bool was = for_good;

	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "json_tokener_parse_ex");
	countdown = LONG_MAX;
	for_good = false;
	o = real(t, p, n);
	countdown = before;
	for_good = was;
	return o;
}

#endif

/* One piece of work: 0, or a negative errno with e filled if it fills one. It frees all it made. */
typedef int work_fn(struct err *e);

static int once(work_fn *work, long n, bool every, struct err *e)
{
	int r;

	*e = ERR_INIT;
	countdown = n;
	for_good = every;
	failed_one = false;
	live = 0;
	armed = true;
	r = work(e);
	armed = false;
	return r;
}

/* leaks: allocations of a library that live on by design can't be counted. */
static void torture(const char *name, work_fn *work, bool leaks)
{
	struct err e;
	long n, allocations = 0;

#ifdef __SANITIZE_ADDRESS__
	cr_skip_test("the sanitizers have replaced malloc");
#endif
	cr_assert(work(&e) == 0, "%s does not work at all: %s", name, e.msg); /* what is made once is made */
	for (int every = 0; every < 2; every++) {
		for (n = 1; n < 20000; n++) {
			int r = once(work, n, every, &e);

			if (!failed_one)
				break;
			allocations++;
			cr_expect(r <= 0, "%s: %d", name, r);
			if (leaks)
				cr_expect(live == 0, "%s: allocation %ld of it fails and %ld are left", name, n, live);
			cr_assert(e.msg[0] == '\0' || memchr(e.msg, '\0', sizeof(e.msg)));
			cr_assert(work(&e) == 0, "%s: after allocation %ld failed it works no more: %s", name, n,
				  e.msg);
		}
		cr_assert(n < 20000);
	}
	cr_expect(allocations > 0, "%s allocates nothing", name);
}

/* ---- base ---- */

static int use_buf(struct err *e _unused_)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 20);
	char *to;
	int r = buf_puts(&b, "start");

	for (int i = 0; i < 40 && r >= 0; i++) {
		size_t before = b.len;

		r = buf_printf(&b, "%d: %0*d\n", i, 100, i);
		cr_assert(r == 0 || b.len == before, "a failed append leaves the old contents");
	}
	if (r >= 0)
		r = buf_reserve(&b, 5000, &to);
	return r;
}

static int use_text(struct err *e _unused_)
{
	_cleanup_buf_ struct buf b = BUF_INIT(1 << 20);
	char bad[3000];
	size_t used;
	int r;

	memset(bad, 0xff, sizeof(bad));
	r = text_utf8_sanitize(bad, sizeof(bad), true, &b, &used);
	return r < 0 ? r : json_text_string(&b, bad, sizeof(bad), true, NULL);
}

Test(oom, base)
{
	torture("buf", use_buf, true);
	torture("text", use_text, true);
}

/* ---- JSON ---- */

static int use_json(struct err *e)
{
	static const char text[] =
		"{\"a\":[1,2,{\"b\":\"c\"}],\"d\":1.5,\"e\":\"\\u00e4\",\"f\":{\"g\":null,\"h\":true}}";
	_cleanup_json_ struct json_object *o = NULL;
	char s[20];
	int r = json_parse(text, sizeof(text) - 1, 8, &o, e);

	if (r >= 0)
		cr_assert(json_get_string(o, "e", s, sizeof(s)) == 0);
	return r;
}

static int on_text(void *arg, const char *p, size_t n, struct err *e)
{
	return buf_add(arg, p, n) < 0 ? err_errno(e, ENOMEM, "text") : 0;
}

static int use_json_stream(struct err *e)
{
	static const char text[] =
		"{\"path\":\"/a\",\"mode\":\"0644\",\"content\":\"aGVsbG8gd29ybGQh\",\"x\":[1,{\"y\":2}]}";
	static const char *const names[] = { "content", NULL };
	_cleanup_buf_ struct buf b = BUF_INIT(1000);
	const struct json_stream_config c = { .names = names, .text = on_text, .arg = &b };
	struct json_stream *s;
	int r = json_stream_new(&c, &s);

	if (r < 0)
		return r;
	for (size_t i = 0; i < sizeof(text) - 1 && r >= 0; i += 7)
		r = json_stream_feed(s, text + i, MIN(7u, sizeof(text) - 1 - i), e);
	if (r >= 0)
		r = json_stream_finish(s, e);
	json_stream_free(s);
	return r;
}

static int use_validate(struct err *e _unused_)
{
	static const char *const choices[] = { "off", "open", NULL };
	static const struct validate_field f[] = {
		{ "template", VALIDATE_STRING, true, 0, 0, NULL, 0 },
		{ "network", VALIDATE_STRING, false, 0, 0, choices, 0 },
		{ "cpu", VALIDATE_NUMBER, false, 1, 2, NULL, 8 },
	};
	struct {
		const char *s;
		double d;
	} into = { NULL, 0 };
	static struct json_object *wrong;
	struct validate_errors errs = { .list = NULL };
	bool was = armed;

	armed = false;
	if (!wrong)
		wrong = json_tokener_parse("{\"network\":\"x\",\"cpu\":77}");
	armed = was;
	validate_object(wrong, f, ARRAY_SIZE(f), &into, &errs);
	/* Whatever was lost of what is to be said, it is not taken for valid. */
	cr_assert(errs.list || errs.lost);
	json_object_put(errs.list);
	return 0;
}

Test(oom, json)
{
	torture("json", use_json, true);
	torture("json_stream", use_json_stream, true);
	torture("validate", use_validate, true);
}

/* ---- network ---- */

static int use_policy(struct err *e)
{
	static const char *const rules[] = { "a.test", "*.b.test:443", "1.2.3.4:80", "::1",    "c.test:1",
					     "d.test", "e.test",       "f.test",     "g.test", "h" };
	char why[POLICY_RULE_MAX];
	struct policy_rule rule;
	struct policy *p;
	int r = policy_new(NET_RESTRICTED, false, false, &p);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(rules) && r >= 0; i++) {
		r = policy_rule_parse(rules[i], &rule, e);
		if (r >= 0)
			r = policy_allow(p, &rule);
		if (r >= 0 && rule.name[0] && !rule.below)
			cr_assert(policy_name(p, rule.name, rule.port, why));
	}
	/* Never more than was meant, whatever failed. */
	cr_assert(!policy_name(p, "other.test", 443, why));
	policy_free(p);
	return r;
}

static int use_ledger(struct err *e _unused_)
{
	struct egress_event ev = { .magic = EGRESS_MAGIC, .type = EGRESS_EVENT, .kind = EGRESS_TCP, .host = "a.test" };
	struct ledger_counters c;
	struct ledger *l;
	int lost = 0, r = ledger_new(&l);

	if (r < 0)
		return r;
	for (int i = 0; i < 100; i++)
		lost += ledger_add(l, &ev, "sh") < 0;
	ledger_counters(l, &c);
	cr_assert(c.lost == (uint64_t)lost && c.allowed == 100);
	ledger_free(l);
	return lost ? -ENOMEM : 0;
}

Test(oom, network)
{
	torture("policy", use_policy, true);
	torture("ledger", use_ledger, true);
}

/* ---- the emulator ---- */

static int use_accounts(struct err *e)
{
	char key[] = "ork_0123456789abcdef:pro:read";
	struct accounts *a;
	int r = accounts_new(false, &a);

	if (r < 0)
		return r;
	r = accounts_add(a, key, e);
	accounts_free(a);
	return r;
}

static int use_env(struct err *e)
{
	static const char *const base[] = { "A=1", "PATH=/bin", NULL };
	char **env = NULL;
	int r = exec_env_build(base, "{\"B\":\"2\",\"A\":\"3\",\"C\":\"\"}", true, &env, e);

	if (r >= 0)
		exec_env_free(env);
	return r;
}

/* Output is lost, and said to be lost; never made up. */
static int use_output(struct err *e _unused_)
{
	static char piece[100000];
	struct exec_log l;
	struct output o;

	log_init(&l);
	output_init(&o);
	for (int i = 0; i < 30; i++) {
		log_add(&l, EXEC_STDOUT, piece, sizeof(piece));
		output_add(&o, piece, sizeof(piece));
	}
	log_finish(&l);
	cr_assert(l.bytes[EXEC_STDOUT] == 30 * sizeof(piece));
	(void)output_finish(&o);
	output_free(&o);
	log_free(&l);
	return 0;
}

Test(oom, emulator)
{
	torture("accounts", use_accounts, true);
	torture("env", use_env, true);
	torture("output", use_output, true);
}

/* ---- the store: SQLite keeps caches, so what it has left can't be told; that it goes on working can ---- */

static struct store *store;
static int next_row;

static int count(void *arg, const struct sandbox_row *r _unused_)
{
	++*(int *)arg;
	return 0;
}

static int use_store(struct err *e)
{
	const struct store_list q = { .account = "acc_1", .limit = 3 };
	struct sandbox_row r = row_of(next_row, "acc_1", 1000 + next_row), back = { 0 };
	char cursor[STORE_CURSOR_SIZE];
	int n = 0, k;

	next_row++;
	k = store_sandbox_insert(store, &r, e);
	if (k < 0)
		return k;
	r.status = SANDBOX_TERMINATED;
	k = store_sandbox_update(store, &r, e);
	if (k >= 0)
		k = store_sandbox_get(store, r.id, &back, e);
	if (k >= 0) {
		cr_assert(back.status == SANDBOX_TERMINATED && strcmp(back.template_name, "python-3.12") == 0);
		sandbox_row_clear(&back);
		k = store_sandbox_list(store, &q, count, &n, cursor, e);
	}
	return k;
}

static int open_store(struct err *e)
{
	struct store *s;
	int r = store_open(DB, &s, e);

	if (r >= 0)
		store_close(s);
	return r;
}

Test(oom, store, .init = enter, .fini = leave, .timeout = 120)
{
	store = must_open();
	torture("store", use_store, false);
	store_close(store);
	if (next_row > 0)
		cr_expect(sql_int("SELECT count(*) FROM sandbox") > 0);
}

Test(oom, store_open, .init = enter, .fini = leave, .timeout = 120)
{
	torture("store_open", open_store, false);
}
