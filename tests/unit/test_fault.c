#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "emulator/fault.h"

/* ---- the grammar ---- */

static int parse(const char *text, struct fault_rule *r, struct err *e)
{
	int k;

	*r = FAULT_RULE_INIT;
	*e = ERR_INIT;
	k = fault_rule_parse(r, text, e);
	return k < 0 ? k : fault_rule_check(r, false, e);
}

Test(fault, a_rule_with_everything)
{
	struct fault_rule r;
	struct err e;

	cr_assert(parse(" route = POST  /v1/sandboxes/*/exec ; key=ork_1234; sandbox=sbx_1; header=X-Test: a b; nth=3; "
			"times=2; probability=0.25; seed=9; status=503; code=capacity; detail=no, not = now; "
			"retry_after=7; latency=uniform(1.5, 20) ",
			&r, &e) == 0,
		  "%s", e.msg);
	cr_assert_str_eq(r.method, "POST");
	cr_assert_str_eq(r.path, "/v1/sandboxes/*/exec");
	cr_assert_str_eq(r.key, "ork_1234");
	cr_assert_str_eq(r.sandbox, "sbx_1");
	cr_assert_str_eq(r.header, "X-Test");
	cr_assert_str_eq(r.header_value, "a b");
	cr_assert(r.nth == 3 && r.times == 2 && r.probability == 0.25 && r.seed == 9);
	cr_assert(r.effect.status == 503 && r.effect.retry_after == 7 && r.effect.has_latency);
	cr_assert_str_eq(r.effect.code, "capacity");
	cr_assert_str_eq(r.effect.detail, "no, not = now");
	cr_assert(r.effect.latency.spread == FAULT_UNIFORM && r.effect.latency.a == 1.5 && r.effect.latency.b == 20);
}

Test(fault, what_stands_for_more)
{
	struct fault_rule r;
	struct err e;

	cr_assert(parse("disk=full", &r, &e) == 0 && strcmp(r.effect.code, "disk_full") == 0 && r.path[0] == '\0');
	cr_assert(parse("resume=fail", &r, &e) == 0 && strcmp(r.path, "/v1/sandboxes/*/resume") == 0);
	cr_assert(parse("route=GET /x; resume=fail", &r, &e) == 0 && strcmp(r.path, "/x") == 0);
	cr_assert(parse("nth=4; status=500", &r, &e) == 0 && r.times == 1, "the n-th call alone");
	cr_assert(parse("nth=4; times=0; status=500", &r, &e) == 0 && r.times == 0, "from the n-th on");
	cr_assert(parse("exec=oom; exec_after=250", &r, &e) == 0 && r.effect.exec == FAULT_EXEC_OOM &&
		  r.effect.exec_after_ms == 250);
	cr_assert(parse("route=* /v1/**; reset=after", &r, &e) == 0 && r.method[0] == '\0');
}

Test(fault, refusals_say_what_is_allowed)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "", "no effect" },
		{ "times=3", "no effect" },
		{ "status", "name=value" },
		{ "status=200", "400 to 599" },
		{ "status=600", "400 to 599" },
		{ "status=5e2", "400 to 599" },
		{ "latency=-1", "uniform(10,50)" },
		{ "latency=uniform(5)", "uniform(10,50)" },
		{ "latency=uniform(50,10)", "uniform(10,50)" },
		{ "latency=normal(1,2", "uniform(10,50)" },
		{ "latency=600001", "600000" },
		{ "latency=1e3", "uniform(10,50)" },
		{ "probability=1.1; status=500", "0 to 1" },
		{ "probability=.5; status=500", "0 to 1" },
		{ "probability=nan; status=500", "0 to 1" },
		{ "reset=maybe", "before, body, after" },
		{ "exec=hang", "kill, oom" },
		{ "last_chunk=twice", "missing" },
		{ "nth=0; status=500", "from 1 to" },
		{ "cut=x", "from 0 to" },
		{ "code=Not Found", "rate_limited" },
		{ "route=v1/sandboxes; status=500", "[METHOD ]PATTERN" },
		{ "route=PO-ST /x; status=500", "[METHOD ]PATTERN" },
		{ "route=GET /a b; status=500", "[METHOD ]PATTERN" },
		{ "colour=red; status=500", "Which calls: route" },
		{ "detail=x; latency=1", "status or a code" },
		{ "retry_after=1; latency=1", "status or a code" },
		{ "status=500; exec=oom", "nothing is carried out" },
		{ "code=capacity; cut=1", "nothing is carried out" },
		{ "exec_after=5; latency=1", "exec only" },
		{ "dns=servfail", "needs host" },
		{ "dns=servfail; host=a.b; status=500", "host, sandbox and times" },
		{ "host=a.b; status=500", "dns=servfail only" },
	};
	struct fault_rule r;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cr_assert(parse(bad[i].text, &r, &e) < 0, "\"%s\" passed", bad[i].text);
		cr_assert(e.kind == ERR_INVALID && e.reason && strcmp(e.reason, "invalid_fault") == 0);
		cr_assert(strstr(e.msg, bad[i].says), "\"%s\": %s", bad[i].text, e.msg);
	}
}

Test(fault, one_request_says_nothing_about_others)
{
	static const char *const bad[] = { "route=GET /x; status=500", "key=ork_12345678; status=500",
					   "times=2; status=500",      "nth=2; status=500",
					   "dns=servfail; host=a.b",   "header=A; status=500" };
	static const char *const good[] = { "status=500", "resume=fail", "probability=0.5; seed=3; reset=before" };
	struct fault_rule r;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		r = FAULT_RULE_INIT;
		cr_assert(fault_rule_parse(&r, bad[i], &e) == 0 && fault_rule_check(&r, true, &e) < 0, "%s", bad[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		r = FAULT_RULE_INIT;
		cr_assert(fault_rule_parse(&r, good[i], &e) == 0 && fault_rule_check(&r, true, &e) == 0, "%s", good[i]);
	}
}

/* ---- which calls ---- */

Test(fault, routes)
{
	static const struct {
		const char *pattern, *method, *path;
		bool match;
	} t[] = {
		{ "/v1/sandboxes", "GET", "/v1/sandboxes", true },
		{ "/v1/sandboxes", "GET", "/v1/sandboxes?status=running", true },
		{ "/v1/sandboxes", "GET", "/v1/sandboxes/x", false },
		{ "/v1/sandboxes/*", "GET", "/v1/sandboxes/x", true },
		{ "/v1/sandboxes/*", "GET", "/v1/sandboxes", false },
		{ "/v1/sandboxes/*", "GET", "/v1/sandboxes/x/exec", false },
		{ "/v1/sandboxes/{id}/exec", "POST", "/v1/sandboxes/x/exec", true },
		{ "/v1/**", "POST", "/v1/sandboxes/x/exec", true },
		{ "/v1/**", "POST", "/v1/x", true },
		{ "/v1/**", "POST", "/v2/x", false },
		{ "/v1/sand*", "GET", "/v1/sandboxes", false },
		{ "POST /v1/sandboxes", "POST", "/v1/sandboxes", true },
		{ "post /v1/sandboxes", "POST", "/v1/sandboxes", true },
		{ "POST /v1/sandboxes", "GET", "/v1/sandboxes", false },
		{ "* /v1/sandboxes", "GET", "/v1/sandboxes", true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++)
		cr_assert(fault_route_match(t[i].pattern, t[i].method, t[i].path) == t[i].match, "%s / %s %s",
			  t[i].pattern, t[i].method, t[i].path);
}

static const char *header(void *arg, const char *name)
{
	return strcmp(name, "X-Test") == 0 ? arg : NULL;
}

static struct faults *table;
static const struct fault_rule *add(const char *text)
{
	const struct fault_rule *added;
	struct fault_rule r;
	struct err e;

	if (!table)
		cr_assert(faults_new(&table) == 0);
	cr_assert(parse(text, &r, &e) == 0, "%s: %s", text, e.msg);
	cr_assert(faults_add(table, &r, &added, &e) == 0);
	return added;
}

static const struct fault_rule *fire(const char *method, const char *path, const char *account, const char *sandbox,
				     const char *value)
{
	return faults_fire(table,
			   &(struct fault_call){ method, path, account, sandbox, header, (void *)(uintptr_t)value });
}

Test(fault, matching)
{
	(void)add("route=GET /a; account=acc_1; sandbox=sbx_1; header=X-Test: v; status=500");
	cr_assert(fire("GET", "/a", "acc_1", "sbx_1", "v"));
	cr_assert_not(fire("PUT", "/a", "acc_1", "sbx_1", "v"));
	cr_assert_not(fire("GET", "/b", "acc_1", "sbx_1", "v"));
	cr_assert_not(fire("GET", "/a", "acc_2", "sbx_1", "v"));
	cr_assert_not(fire("GET", "/a", NULL, "sbx_1", "v"));
	cr_assert_not(fire("GET", "/a", "acc_1", NULL, "v"));
	cr_assert_not(fire("GET", "/a", "acc_1", "sbx_1", "w"));
	cr_assert_not(fire("GET", "/a", "acc_1", "sbx_1", NULL));
	cr_assert(faults_at(table, 0)->seen == 1 && faults_at(table, 0)->hits == 1, "only what matches is counted");
	faults_free(table);
	table = NULL;
}

Test(fault, how_often)
{
	const struct fault_rule *r = add("route=/a; nth=3; times=2; status=500");
	const bool wanted[] = { false, false, true, true, false, false };

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		cr_assert((fire("GET", "/a", NULL, NULL, NULL) != NULL) == wanted[i], "call %zu", i + 1);
	r = faults_at(table, 0);
	cr_assert(r->seen == 6 && r->hits == 2);
	/* The first that fires is the only one. */
	(void)add("route=/b; times=1; status=500");
	(void)add("route=/b; status=501");
	cr_assert(fire("GET", "/b", NULL, NULL, NULL)->effect.status == 500);
	cr_assert(fire("GET", "/b", NULL, NULL, NULL)->effect.status == 501);
	faults_free(table);
	table = NULL;
}

Test(fault, the_same_seed_rolls_the_same)
{
	char seen[2][201] = { "", "" };
	size_t hits = 0;

	for (int k = 0; k < 2; k++) {
		(void)add("route=/a; probability=0.3; seed=11; status=500");
		for (size_t i = 0; i < 200; i++)
			seen[k][i] = fire("GET", "/a", NULL, NULL, NULL) ? 'x' : '.';
		faults_free(table);
		table = NULL;
	}
	cr_assert_str_eq(seen[0], seen[1]);
	for (size_t i = 0; i < 200; i++)
		hits += seen[0][i] == 'x';
	cr_assert(hits > 40 && hits < 80, "%zu of 200 at 0.3", hits);
}

Test(fault, the_table)
{
	struct err e = ERR_INIT;
	const struct fault_rule *r = NULL;
	struct fault_rule one;

	(void)add("account=acc_1; status=500");
	(void)add("account=acc_2; status=500");
	(void)add("status=500");
	cr_assert_str_eq(faults_at(table, 1)->id, "flt_2");
	cr_assert(faults_get(table, "flt_3", &r, &e) == 0 && faults_remove(table, "flt_3", &e) == 0);
	cr_assert(faults_remove(table, "flt_3", &e) < 0 && e.kind == ERR_NOT_FOUND);
	cr_assert(faults_clear(table, "acc_2") == 1 && faults_count(table) == 1);
	(void)add("status=500");
	cr_assert_str_eq(faults_at(table, 1)->id, "flt_4", "an id is never given twice");
	cr_assert(faults_clear(table, NULL) == 2 && faults_count(table) == 0 && faults_count(NULL) == 0);
	cr_assert(parse("status=500", &one, &e) == 0);
	for (int i = 0; i < FAULTS_MAX; i++)
		cr_assert(faults_add(table, &one, &r, &e) == 0);
	cr_assert(faults_add(table, &one, &r, &e) < 0 && e.kind == ERR_CAPACITY);
	faults_free(table);
	table = NULL;
}

/* ---- latencies ---- */

static void measure(const char *text, double *ret_mean, double *ret_deviation, uint32_t *ret_min, uint32_t *ret_max)
{
	struct fault_latency l;
	struct err e;
	uint64_t dice = 5;
	double sum = 0, squares = 0;
	const int n = 20000;

	*ret_min = UINT32_MAX;
	*ret_max = 0;
	cr_assert(fault_latency_parse(text, &l, &e) == 0, "%s", e.msg);
	for (int i = 0; i < n; i++) {
		uint32_t ms = fault_latency_next(&l, &dice);

		sum += ms;
		squares += (double)ms * ms;
		*ret_min = MIN(*ret_min, ms);
		*ret_max = MAX(*ret_max, ms);
	}
	*ret_mean = sum / n;
	*ret_deviation = sqrt(squares / n - *ret_mean * *ret_mean);
}

Test(fault, distributions)
{
	double mean, deviation;
	uint32_t min, max;

	measure("250", &mean, &deviation, &min, &max);
	cr_assert(min == 250 && max == 250);
	measure("uniform(100,300)", &mean, &deviation, &min, &max);
	cr_assert(min >= 100 && max <= 300 && fabs(mean - 200) < 3 && fabs(deviation - 200 / sqrt(12)) < 3);
	measure("normal(500,50)", &mean, &deviation, &min, &max);
	cr_assert(fabs(mean - 500) < 3 && fabs(deviation - 50) < 3);
	measure("exponential(400)", &mean, &deviation, &min, &max);
	cr_assert(fabs(mean - 400) < 12 && fabs(deviation - 400) < 16);
	measure("normal(1,1000)", &mean, &deviation, &min, &max);
	cr_assert(min == 0, "never less than nothing");
	measure("exponential(600000)", &mean, &deviation, &min, &max);
	cr_assert(max <= FAULT_LATENCY_MAX);
}

Test(fault, a_latency_as_text_parses_to_itself)
{
	static const char *const all[] = { "250", "uniform(1.5,20)", "normal(100,20)", "exponential(50)" };
	struct fault_latency l;
	char text[64];
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		cr_assert(fault_latency_parse(all[i], &l, &e) == 0);
		cr_assert(fault_latency_text(&l, text, sizeof(text)) > 0);
		cr_assert_str_eq(text, all[i]);
	}
}
