/* What is used and what may be used (wire.md, "Limits" and "Metrics"), and the emulator's own way to set it. */

#include "api/api.h"

#include <errno.h>
#include <string.h>

#include "api/validate.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define BODY_MAX 4096

static struct json_object *number(double d)
{
	char s[40];

	(void)snprintf(s, sizeof(s), (double)(int64_t)d == d ? "%.1f" : "%.10g", d);
	return json_object_new_double_s(d, s);
}

static void add_sizes(struct json_object *o, const struct plan *p)
{
	struct json_object *sizes = json_object_new_array(), *names = json_object_new_array();

	for (unsigned int i = 0; i < SIZE_COUNT; i++) {
		const struct size_spec *s = &size_menu[i];
		bool allowed = p->sizes & 1u << i;
		struct json_object *item = json_object_new_object();

		json_object_object_add(item, "size", json_object_new_string(s->name));
		json_object_object_add(item, "cpu", number(s->cpu_millis / 1000.0));
		json_object_object_add(item, "memory_mb", json_object_new_int64(s->memory_mb));
		json_object_object_add(item, "allowed", json_object_new_boolean(allowed));
		json_object_array_add(sizes, item);
		if (allowed)
			json_object_array_add(names, json_object_new_string(s->name));
	}
	json_object_object_add(o, "sizes", sizes);
	json_object_object_add(o, "allowed_sizes", names);
}

/* Where no cgroup counts, /proc is asked (emulator/procusage.h). */
static void name_estimate(struct req *r)
{
	const struct cgroup_features *f = cgroup_root_features(req_api(r)->cgroups);

	if (!f->cpu_reading || !f->memory_reading)
		req_divergence(r, "usage-estimated");
}

static void handle_limits(struct req *r)
{
	const struct plan *p = plan_get(req_account(r)->plan);
	struct json_object *o, *regions;
	char resets[CLOCK_ISO_SIZE];
	struct err e = ERR_INIT;
	struct usage u;

	if (sandboxes_usage(req_api(r)->sandboxes, req_account(r), &u, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	o = json_object_new_object();
	regions = json_object_new_array();
	clock_iso(clock_next_month_ms(clock_now_ms()), resets);
	for (size_t i = 0; api_regions[i]; i++)
		json_object_array_add(regions, json_object_new_string(api_regions[i]));
	json_object_object_add(o, "plan", json_object_new_string(p->name));
	add_sizes(o, p);
	json_object_object_add(o, "max_concurrent", json_object_new_int64(p->max_concurrent));
	json_object_object_add(o, "usage_gb_hours_used", number(usage_gb_hours(&u)));
	json_object_object_add(o, "usage_gb_hours_included", number(p->gb_hours));
	json_object_object_add(o, "usage_cpu_hours_used", number(usage_cpu_hours(&u)));
	json_object_object_add(o, "usage_cpu_hours_included", number(p->cpu_hours));
	json_object_object_add(o, "usage_resets_at", json_object_new_string(resets));
	json_object_object_add(o, "regions", regions);
	json_object_object_add(o, "max_snapshots", json_object_new_int64(p->max_snapshots));
	json_object_object_add(o, "max_timeout_seconds", json_object_new_int64(p->max_timeout_s));
	name_estimate(r);
	req_reply_json(r, 200, o);
}

/* ---- metrics ---- */

/* ISO 8601, or seconds since the epoch with or without a fraction; so large a number that they would be after the year
 * 5000 is in milliseconds, as JavaScript has them. */
static int parse_since(const char *s, int64_t *ret_ms)
{
	char *end;
	double n;

	if (clock_parse_iso(s, ret_ms) == 0)
		return 0;
	if (!*s || strspn(s, "0123456789.") != strlen(s))
		return -EINVAL;
	errno = 0;
	n = strtod(s, &end);
	if (*end || errno || n > 1e15)
		return -EINVAL;
	*ret_ms = n >= 1e11 ? (int64_t)n : (int64_t)(n * 1000);
	return 0;
}

static double rounded(double d)
{
	return (double)(int64_t)(d * 10000 + 0.5) / 10000;
}

static struct json_object *live_cpu(const struct sandbox_metrics *m)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "usage_percent", number(rounded(m->used_cores / m->cores * 100)));
	json_object_object_add(o, "usage_cores", number(rounded(m->used_cores)));
	json_object_object_add(o, "cores", number(m->cores));
	return o;
}

static struct json_object *live_memory(const struct sandbox_metrics *m)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "usage_bytes", json_object_new_int64((int64_t)m->used_bytes));
	json_object_object_add(o, "usage_percent",
			       number(rounded((double)m->used_bytes / (double)m->limit_bytes * 100)));
	json_object_object_add(o, "limit_bytes", json_object_new_int64((int64_t)m->limit_bytes));
	return o;
}

static struct json_object *lifetime(const struct meter_totals *t)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "cpu_seconds", number((double)t->used.cpu_usec / 1e6));
	json_object_object_add(o, "memory_gb_seconds", number(usage_gb_hours(&t->used) * 3600));
	json_object_object_add(o, "running_seconds", number((double)t->run_ms / 1000));
	json_object_object_add(o, "memory_peak_bytes", json_object_new_int64((int64_t)t->peak_bytes));
	return o;
}

static struct json_object *samples(const struct sandbox_metrics *m)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < m->n_samples; i++) {
		const struct meter_sample *s = &m->samples[i];
		struct json_object *o = json_object_new_object();
		char iso[CLOCK_ISO_SIZE];

		clock_iso(s->t_ms, iso);
		json_object_object_add(o, "t", json_object_new_string(iso));
		json_object_object_add(o, "cpu_percent", number(rounded(s->cores / m->cores * 100)));
		json_object_object_add(o, "mem_bytes", json_object_new_int64((int64_t)s->mem_bytes));
		json_object_array_add(list, o);
	}
	return list;
}

static void handle_metrics(struct req *r)
{
	const char *since = req_query(r, "since");
	struct sandbox_metrics m;
	struct err e = ERR_INIT;
	struct json_object *o;
	int64_t since_ms = 0;

	if (since && *since && parse_since(since, &since_ms) < 0) {
		req_reply_invalid(r, "query", "since", "datetime_parsing",
				  "Input should be an ISO 8601 time (2026-05-01T00:00:00Z) or seconds since the epoch");
		return;
	}
	if (sandbox_metrics(req_api(r)->sandboxes, req_account(r), req_param(r, "id"), since_ms, &m, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "sandbox_status", json_object_new_string(sandbox_status_name(m.status)));
	json_object_object_add(o, "sample_interval_seconds", json_object_new_int(METER_INTERVAL_MS / 1000));
	json_object_object_add(o, "cpu", m.live ? live_cpu(&m) : NULL);
	json_object_object_add(o, "memory", m.live ? live_memory(&m) : NULL);
	json_object_object_add(o, "lifetime", lifetime(&m.lifetime));
	json_object_object_add(o, "samples", samples(&m));
	name_estimate(r);
	req_reply_json(r, 200, o);
}

/* ---- the emulator's own ---- */

static void reply_usage(struct req *r, const char *account)
{
	struct json_object *o;
	struct err e = ERR_INIT;
	struct usage u;

	if (meter_usage(sandboxes_meter(req_api(r)->sandboxes), account, &u, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "account", json_object_new_string(account));
	json_object_object_add(o, "gb_hours", number(usage_gb_hours(&u)));
	json_object_object_add(o, "cpu_hours", number(usage_cpu_hours(&u)));
	req_reply_json(r, 200, o);
}

static void handle_usage(struct req *r)
{
	reply_usage(r, req_account(r)->id);
}

struct usage_body {
	double gb_hours, cpu_hours;
};

#define HOURS_MAX 1e6
static const struct validate_field usage_fields[] = {
	{ "gb_hours", VALIDATE_NUMBER, .min = 0, .max = HOURS_MAX, .offset = offsetof(struct usage_body, gb_hours) },
	{ "cpu_hours", VALIDATE_NUMBER, .min = 0, .max = HOURS_MAX, .offset = offsetof(struct usage_body, cpu_hours) },
};

static void handle_set_usage(struct req *r)
{
	struct meter *m = sandboxes_meter(req_api(r)->sandboxes);
	const char *account = req_account(r)->id;
	struct validate_errors errs = { 0 };
	struct usage_body b = { -1, -1 };
	struct json_object *o = req_json(r);
	struct err e = ERR_INIT;
	struct usage u;

	if (!o)
		return;
	validate_object(o, usage_fields, ARRAY_SIZE(usage_fields), &b, &errs);
	if (validate_reply(r, &errs))
		return;
	validate_unknown(r, o, usage_fields, ARRAY_SIZE(usage_fields));
	if (meter_usage(m, account, &u, &e) >= 0) {
		if (b.gb_hours >= 0)
			u.mem_kib_ms = (uint64_t)(b.gb_hours * USAGE_KIB_MS_PER_GB_HOUR);
		if (b.cpu_hours >= 0)
			u.cpu_usec = (uint64_t)(b.cpu_hours * USAGE_USEC_PER_CPU_HOUR);
		if (meter_usage_set(m, account, &u, &e) >= 0) {
			reply_usage(r, account);
			return;
		}
	}
	req_reply_err(r, &e);
}

static const struct route routes[] = {
	{ "GET", "/v1/sandboxes/limits", SCOPE_READ, 0, handle_limits, NULL, NULL },
	{ "GET", "/v1/limits", SCOPE_READ, 0, handle_limits, NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}/metrics", SCOPE_READ, 0, handle_metrics, NULL, NULL },
	{ "GET", "/_emulator/usage", SCOPE_READ, 0, handle_usage, NULL, NULL },
	{ "PUT", "/_emulator/usage", SCOPE_WRITE, BODY_MAX, handle_set_usage, NULL, NULL },
};

void api_add_usage_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
