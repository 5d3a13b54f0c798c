/* The grammar of fault rules, see fault.h. Every refusal says what is allowed. */

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/fault.h"

static int bad(struct err *e, const char *name, const char *wanted)
{
	return err_set(e, ERR_INVALID, EINVAL, "invalid_fault", "%.40s: %s", name, wanted);
}

/* ---- values ---- */

/* Digits with at most one point: no sign, no exponent, no locale. */
static int parse_decimal(const char *s, size_t n, double max, double *ret)
{
	double v = 0, scale = 0;

	for (size_t i = 0; i < n; i++) {
		if (s[i] == '.' && scale == 0 && i > 0 && i + 1 < n) {
			scale = 1;
			continue;
		}
		if (s[i] < '0' || s[i] > '9')
			return -EINVAL;
		v = v * 10 + (s[i] - '0');
		scale *= 10;
	}
	if (scale > 0)
		v /= scale;
	*ret = v;
	return n > 0 && n < 20 && v <= max ? 0 : -EINVAL;
}

static int set_number(const char *name, const char *value, uint64_t min, uint64_t max, uint64_t *ret, struct err *e)
{
	char wanted[80];

	if (text_parse_u64(value, min, max, ret) == 0)
		return 0;
	(void)snprintf(wanted, sizeof(wanted), "a whole number from %llu to %llu", (unsigned long long)min,
		       (unsigned long long)max);
	return bad(e, name, wanted);
}

static int set_text(const char *name, const char *value, char *ret, size_t cap, struct err *e)
{
	char wanted[80];

	for (const char *p = value; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return bad(e, name, "no control characters");
	if (*value && text_format(ret, cap, "%s", value) >= 0)
		return 0;
	(void)snprintf(wanted, sizeof(wanted), "1 to %zu characters", cap - 1);
	return bad(e, name, wanted);
}

static int set_choice(const char *name, const char *value, const char *const *choices, int *ret, struct err *e)
{
	char wanted[120] = "one of";
	size_t n = strlen(wanted);

	for (int i = 0; choices[i]; i++) {
		if (strcmp(choices[i], value) == 0) {
			*ret = i;
			return 0;
		}
		n += (size_t)snprintf(wanted + n, sizeof(wanted) - n, "%s %s", i ? "," : "", choices[i]);
	}
	return bad(e, name, wanted);
}

/* ---- latency ---- */

static const struct {
	const char *name;
	int args;
} spreads[] = {
	[FAULT_FIXED] = { "", 1 },
	[FAULT_UNIFORM] = { "uniform", 2 },
	[FAULT_NORMAL] = { "normal", 2 },
	[FAULT_EXPONENTIAL] = { "exponential", 1 },
};

static bool parse_args(const char *s, size_t n, int want, struct fault_latency *ret)
{
	const char *comma = memchr(s, ',', n);
	size_t first = comma ? (size_t)(comma - s) : n;
	const char *second = comma ? comma + 1 + strspn(comma + 1, " ") : NULL;

	if ((want == 2) != (comma != NULL) || parse_decimal(s, first, FAULT_LATENCY_MAX, &ret->a) < 0)
		return false;
	return !comma || parse_decimal(second, (size_t)(s + n - second), FAULT_LATENCY_MAX, &ret->b) == 0;
}

int fault_latency_parse(const char *s, struct fault_latency *ret, struct err *e)
{
	const char *open = strchr(s, '(');
	size_t n = open ? (size_t)(open - s) : 0, len = strlen(s);

	for (size_t i = 0; i < ARRAY_SIZE(spreads); i++) {
		struct fault_latency l = { .spread = (enum fault_spread)i };

		if (strlen(spreads[i].name) != n || memcmp(spreads[i].name, s, n) != 0 || (open && s[len - 1] != ')'))
			continue;
		if (!parse_args(open ? open + 1 : s, open ? len - n - 2 : len, spreads[i].args, &l) ||
		    (l.spread == FAULT_UNIFORM && l.b < l.a))
			break;
		*ret = l;
		return 0;
	}
	return bad(e, "latency",
		   "milliseconds up to 600000, as 250, uniform(10,50), normal(100,20) or exponential(50)");
}

int fault_latency_text(const struct fault_latency *l, char *ret, size_t cap)
{
	switch (l->spread) {
	case FAULT_FIXED:
		return text_format(ret, cap, "%g", l->a);
	case FAULT_EXPONENTIAL:
		return text_format(ret, cap, "exponential(%g)", l->a);
	case FAULT_UNIFORM:
	case FAULT_NORMAL:
		return text_format(ret, cap, "%s(%g,%g)", spreads[l->spread].name, l->a, l->b);
	}
	return -EINVAL;
}

/* splitmix64 (Steele, Lea, Flood 2014): small, seedable, the same everywhere. */
double fault_dice(uint64_t *dice)
{
	uint64_t z = *dice += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return ((double)((z ^ (z >> 31)) >> 11) + 0.5) * 0x1p-53;
}

uint32_t fault_latency_next(const struct fault_latency *l, uint64_t *dice)
{
	double ms = l->a, u;

	switch (l->spread) {
	case FAULT_FIXED:
		break;
	case FAULT_UNIFORM:
		ms += (l->b - l->a) * fault_dice(dice);
		break;
	case FAULT_NORMAL: /* Box and Muller */
		u = fault_dice(dice);
		ms += l->b * sqrt(-2 * log(u)) * cos(2 * M_PI * fault_dice(dice));
		break;
	case FAULT_EXPONENTIAL:
		ms *= -log(fault_dice(dice));
		break;
	}
	return ms <= 0 ? 0 : ms >= FAULT_LATENCY_MAX ? FAULT_LATENCY_MAX : (uint32_t)(ms + 0.5);
}

/* ---- one name ---- */

static int set_route(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	static const char wanted[] =
		"[METHOD ]PATTERN, as in \"POST /v1/sandboxes/*/exec\"; * is one segment, ** at the "
		"end the rest";
	const char *space = strchr(value, ' '), *path = space ? space + strspn(space, " ") : value;
	size_t n = space ? (size_t)(space - value) : 0;

	if (n >= sizeof(r->method) || *path != '/' || strchr(path, ' '))
		return bad(e, name, wanted);
	for (size_t i = 0; i < n; i++)
		if (!isalpha((unsigned char)value[i]) && !(n == 1 && value[0] == '*'))
			return bad(e, name, wanted);
	r->route_implied = false;
	(void)snprintf(r->method, sizeof(r->method), "%.*s", n == 1 && value[0] == '*' ? 0 : (int)n, value);
	return set_text(name, path, r->path, sizeof(r->path), e);
}

static int set_header(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	const char *colon = strchr(value, ':');
	size_t n = colon ? (size_t)(colon - value) : strlen(value);

	if (n == 0 || n >= sizeof(r->header) || strcspn(value, " \t") < n)
		return bad(e, name, "NAME or NAME: VALUE of a request's header");
	memcpy(r->header, value, n);
	r->header[n] = '\0';
	if (!colon)
		return 0;
	colon += 1 + strspn(colon + 1, " \t");
	return set_text(name, colon, r->header_value, sizeof(r->header_value), e);
}

static int set_code(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	if (!*value || strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(value))
		return bad(e, name, "an error's code, as in rate_limited");
	return set_text(name, value, r->effect.code, sizeof(r->effect.code), e);
}

static int set_which(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	if (strcmp(name, "route") == 0)
		return set_route(r, name, value, e);
	if (strcmp(name, "account") == 0)
		return set_text(name, value, r->account, sizeof(r->account), e);
	if (strcmp(name, "key") == 0)
		return set_text(name, value, r->key, sizeof(r->key), e);
	if (strcmp(name, "sandbox") == 0)
		return set_text(name, value, r->sandbox, sizeof(r->sandbox), e);
	if (strcmp(name, "header") == 0)
		return set_header(r, name, value, e);
	if (strcmp(name, "host") == 0)
		return set_text(name, value, r->host, sizeof(r->host), e);
	return -ENOENT;
}

static int set_how_often(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	if (strcmp(name, "nth") == 0)
		return set_number(name, value, 1, INT64_MAX, &r->nth, e);
	if (strcmp(name, "times") == 0) {
		r->has_times = true;
		return set_number(name, value, 0, INT64_MAX, &r->times, e);
	}
	if (strcmp(name, "seed") == 0)
		return set_number(name, value, 0, UINT64_MAX, &r->seed, e);
	if (strcmp(name, "probability") == 0)
		return parse_decimal(value, strlen(value), 1, &r->probability) < 0
			       ? bad(e, name, "a number from 0 to 1, as in 0.25")
			       : 0;
	return -ENOENT;
}

/* Short for what is often wanted. */
static int set_ready_made(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	int i = 0, k;

	if (strcmp(name, "disk") == 0) {
		k = set_choice(name, value, (const char *const[]){ "full", NULL }, &i, e);
		return k < 0 ? k : set_code(r, "code", "disk_full", e);
	}
	k = set_choice(name, value, (const char *const[]){ "fail", NULL }, &i, e);
	if (k >= 0 && !r->path[0]) {
		k = set_route(r, "route", "POST /v1/sandboxes/*/resume", e);
		r->route_implied = true;
	}
	return k < 0 ? k : set_code(r, "code", "snapshot_damaged", e);
}

static int set_breakage(struct fault_effect *fx, const char *name, const char *value, struct err *e)
{
	uint64_t n = 0;
	int i = 0, k;

	if (strcmp(name, "reset") == 0) {
		k = set_choice(name, value, (const char *const[]){ "before", "body", "after", NULL }, &i, e);
		fx->reset = (enum fault_reset)(FAULT_RESET_BEFORE + i);
		return k;
	}
	if (strcmp(name, "cut") == 0) {
		k = set_number(name, value, 0, INT64_MAX, &n, e);
		fx->cut = (int64_t)n;
		return k;
	}
	if (strcmp(name, "last_chunk") == 0) {
		fx->no_last_chunk = true;
		return set_choice(name, value, (const char *const[]){ "missing", NULL }, &i, e);
	}
	if (strcmp(name, "exec") == 0) {
		k = set_choice(name, value, (const char *const[]){ "kill", "oom", NULL }, &i, e);
		fx->exec = (enum fault_exec)(FAULT_EXEC_KILL + i);
		return k;
	}
	if (strcmp(name, "exec_after") == 0) {
		k = set_number(name, value, 0, 3600000, &n, e);
		fx->exec_after_ms = (uint32_t)n;
		return k;
	}
	if (strcmp(name, "dns") == 0) {
		fx->dns_servfail = true;
		return set_choice(name, value, (const char *const[]){ "servfail", NULL }, &i, e);
	}
	return -ENOENT;
}

static int set_effect(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	struct fault_effect *fx = &r->effect;
	uint64_t n = 0;
	int k;

	if (strcmp(name, "status") == 0) {
		k = set_number(name, value, 400, 599, &n, e);
		fx->status = (unsigned int)n;
		return k;
	}
	if (strcmp(name, "code") == 0)
		return set_code(r, name, value, e);
	if (strcmp(name, "detail") == 0)
		return set_text(name, value, fx->detail, sizeof(fx->detail), e);
	if (strcmp(name, "retry_after") == 0) {
		k = set_number(name, value, 0, 86400, &n, e);
		fx->retry_after = (int64_t)n;
		return k;
	}
	if (strcmp(name, "latency") == 0) {
		fx->has_latency = true;
		return fault_latency_parse(value, &fx->latency, e);
	}
	if (strcmp(name, "disk") == 0 || strcmp(name, "resume") == 0)
		return set_ready_made(r, name, value, e);
	return set_breakage(fx, name, value, e);
}

int fault_rule_set(struct fault_rule *r, const char *name, const char *value, struct err *e)
{
	int k = set_which(r, name, value, e);

	if (k == -ENOENT)
		k = set_how_often(r, name, value, e);
	if (k == -ENOENT)
		k = set_effect(r, name, value, e);
	if (k != -ENOENT)
		return k;
	return err_set(
		e, ERR_INVALID, EINVAL, "invalid_fault",
		"\"%.40s\" is not known. Which calls: route, account, key, sandbox, header; how often: nth, times, "
		"probability, seed; what: status, code, detail, retry_after, latency, reset, cut, last_chunk, exec, "
		"exec_after, disk, resume, dns with host",
		name);
}

/* ---- a whole rule ---- */

static char *trim(char *s)
{
	size_t n;

	s += strspn(s, " \t\r\n");
	for (n = strlen(s); n > 0 && strchr(" \t\r\n", s[n - 1]); n--)
		s[n - 1] = '\0';
	return s;
}

int fault_rule_parse(struct fault_rule *r, const char *text, struct err *e)
{
	char copy[FAULT_TEXT_MAX + 1], *p = copy, *next;

	if (text_format(copy, sizeof(copy), "%s", text) < 0)
		return err_set(e, ERR_INVALID, E2BIG, "invalid_fault", "a rule has at most %d characters",
			       FAULT_TEXT_MAX);
	for (; p; p = next) {
		char *eq;
		int k;

		next = strchr(p, ';');
		if (next)
			*next++ = '\0';
		p = trim(p);
		if (!*p)
			continue;
		eq = strchr(p, '=');
		if (!eq)
			return bad(e, p, "wanted is name=value; name=value, as in \"status=503; times=2\"");
		*eq = '\0';
		k = fault_rule_set(r, trim(p), trim(eq + 1), e);
		if (k < 0)
			return k;
	}
	return 0;
}

static bool says_which(const struct fault_rule *r)
{
	return (r->path[0] && !r->route_implied) || r->account[0] || r->key[0] || r->sandbox[0] || r->header[0] ||
	       r->nth || r->times;
}

int fault_rule_check(struct fault_rule *r, bool per_request, struct err *e)
{
	const struct fault_effect *fx = &r->effect;
	bool own_answer = fault_effect_answers(fx);
	bool any = own_answer || fx->has_latency || fx->reset || fx->cut >= 0 || fx->no_last_chunk || fx->exec;

	if (!any && !fx->dns_servfail)
		return bad(e, "rule",
			   "it has no effect: give a status, code, latency, reset, cut, last_chunk, exec, disk, "
			   "resume or dns");
	if (per_request && (fx->dns_servfail || says_which(r)))
		return bad(e, "X-Orkestr-Fault",
			   "of which calls and names a rule of one request can't speak: only effects, "
			   "probability and seed");
	if (fx->dns_servfail && (any || r->path[0] || r->header[0] || r->probability < 1 || r->nth))
		return bad(e, "dns", "goes with host, sandbox and times only");
	if (fx->dns_servfail && !r->host[0])
		return bad(e, "dns", "needs host, a name, *.NAME for all below it, or * for all");
	if (r->host[0] && !fx->dns_servfail)
		return bad(e, "host", "goes with dns=servfail only");
	if ((fx->detail[0] || fx->retry_after >= 0) && !own_answer)
		return bad(e, fx->detail[0] ? "detail" : "retry_after", "goes with a status or a code only");
	if (own_answer && (fx->exec || fx->cut >= 0 || fx->no_last_chunk))
		return bad(e, "rule",
			   "with a status or a code nothing is carried out, so exec, cut and last_chunk say nothing");
	if (fx->exec_after_ms && !fx->exec)
		return bad(e, "exec_after", "goes with exec only");
	if (r->nth && !r->has_times)
		r->times = 1;
	return 0;
}
