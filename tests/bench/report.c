#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/utsname.h>

#include "emulator/base/text.h"
#include "tests/bench/bench.h"

void bench_figure(struct bench *b, const char *name, const char *unit, double value, double limit, bool at_least)
{
	struct figure *f;

	if (b->n_figures == FIGURES_MAX) {
		(void)fprintf(stderr, "bench: no room for the figure \"%s\"\n", name);
		return;
	}
	f = &b->figures[b->n_figures++];
	(void)text_format(f->name, sizeof(f->name), "%s", name);
	(void)text_format(f->unit, sizeof(f->unit), "%s", unit);
	f->value = value;
	f->limit = limit;
	f->at_least = at_least;
}

double bench_p50(struct bench *b, enum series s)
{
	return samples_percentile(&b->s[s], 0.5);
}

double bench_ratio(struct bench *b, enum series s, enum series base)
{
	return b->s[s].n > 0 && b->s[base].n > 0 ? bench_p50(b, s) / bench_p50(b, base) : -1;
}

static double ratio_of_sum(struct bench *b, enum series s, enum series base, enum series more)
{
	return b->s[s].n > 0 && b->s[base].n > 0 && b->s[more].n > 0
		       ? bench_p50(b, s) / (bench_p50(b, base) + bench_p50(b, more))
		       : -1;
}

/* The figures that follow from the series come before those that a part has added. */
static void add_targets(struct bench *b)
{
	bool memory = b->memory.inits > 0;
	struct figure parts[FIGURES_MAX];
	size_t n = b->n_figures;

	memcpy(parts, b->figures, sizeof(parts));
	b->n_figures = 0;
	bench_figure(b, "create + first exec / bwrap", "x", bench_ratio(b, S_CREATE_EXEC, S_BWRAP), 2, false);
	bench_figure(b, "the same with serve --warm 0", "x", bench_ratio(b, S_COLD_CREATE_EXEC, S_BWRAP), 2, false);
	bench_figure(b, "warm exec / fork+exec on the host", "x", bench_ratio(b, S_WARM_EXEC, S_SPAWN), 2, false);
	bench_figure(b, "warm exec / (fork+exec + a loopback request)", "x",
		     ratio_of_sum(b, S_WARM_EXEC, S_SPAWN, S_LOOPBACK), 1.5, false);
	bench_figure(b, "terminate", "ms", bench_p50(b, S_TERMINATE) / 1e3, 5, false);
	bench_figure(b, "ready after start, templates present", "ms", bench_p50(b, S_READY) / 1e3, 50, false);
	bench_figure(b, "daemon RSS with all live", "MB", memory ? b->memory.daemon_rss_kib / 1024 : -1, 15, false);
	bench_figure(b, "init PSS, mean", "KiB", memory && b->memory.init_pss_kib > 0 ? b->memory.init_pss_kib : -1,
		     400, false);
	for (size_t i = 0; i < n && b->n_figures < FIGURES_MAX; i++)
		b->figures[b->n_figures++] = parts[i];
}

static const char *verdict(const struct figure *f)
{
	if (f->value < 0)
		return "not measured";
	if (f->limit <= 0)
		return "";
	return (f->at_least ? f->value >= f->limit : f->value <= f->limit) ? "met" : "MISSED";
}

static void print_figures(const struct bench *b)
{
	printf("\n%-50s %10s %10s\n", "figure", "value", "target");
	for (size_t i = 0; i < b->n_figures; i++) {
		const struct figure *f = &b->figures[i];
		char value[32] = "-", limit[32] = "";

		if (f->value >= 0)
			(void)snprintf(value, sizeof(value), "%.2f", f->value);
		if (f->limit > 0)
			(void)snprintf(limit, sizeof(limit), "%s %.4g", f->at_least ? ">=" : "<=", f->limit);
		printf("%-50s %10s %10s %-5s %s\n", f->name, value, limit, f->unit, verdict(f));
	}
}

static void print_table(struct bench *b)
{
	printf("%-46s %10s %10s %8s\n", "p50 and p95 in ms", "p50", "p95", "n");
	for (size_t i = 0; i < SERIES_COUNT; i++) {
		if (b->s[i].n > 0)
			printf("%-46s %10.3f %10.3f %8zu\n", series_names[i], bench_p50(b, (enum series)i) / 1e3,
			       samples_percentile(&b->s[i], 0.95) / 1e3, b->s[i].n);
		else if (b->absent[i][0])
			printf("%-46s not run: %s\n", series_names[i], b->absent[i]);
	}
	printf("\n%-46s %10s\n", "memory in KiB", "");
	printf("%-46s %10.0f\n", "daemon RSS, no sandbox", b->idle.daemon_rss_kib);
	printf("%-46s %10.0f\n", "daemon RSS, all live", b->memory.daemon_rss_kib);
	printf("%-46s %10.0f\n", "keeper RSS, all live", b->memory.keeper_rss_kib);
	printf("%-46s %10.0f\n", "other processes' RSS, all live", b->memory.others_rss_kib);
	if (b->memory.inits > 0 && b->memory.init_pss_kib <= 0)
		printf("%-46s not readable as this user (%zu inits)\n", "init PSS, mean", b->memory.inits);
	else
		printf("%-46s %10.0f (max %.0f, %zu inits)\n", "init PSS, mean", b->memory.init_pss_kib,
		       b->memory.init_pss_max_kib, b->memory.inits);
	print_figures(b);
}

/* Three decimals are what the clock is good for. */
static struct json_object *number(double v)
{
	char text[32];

	(void)snprintf(text, sizeof(text), "%.3f", v);
	return json_object_new_double_s(v, text);
}

static struct json_object *series_json(struct bench *b)
{
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < SERIES_COUNT; i++) {
		struct json_object *s = json_object_new_object();

		if (b->s[i].n > 0) {
			json_object_object_add(s, "p50_us", number(bench_p50(b, (enum series)i)));
			json_object_object_add(s, "p95_us", number(samples_percentile(&b->s[i], 0.95)));
			json_object_object_add(s, "n", json_object_new_int64((int64_t)b->s[i].n));
		} else {
			json_object_object_add(s, "not_run", json_object_new_string(b->absent[i]));
		}
		json_object_object_add(o, series_keys[i], s);
	}
	return o;
}

static struct json_object *ratios_json(struct bench *b)
{
	static const struct {
		const char *name;
		enum series a, base;
	} rows[] = {
		{ "create_exec_to_bwrap", S_CREATE_EXEC, S_BWRAP }, { "create_exec_to_runc", S_CREATE_EXEC, S_RUNC },
		{ "create_exec_to_floor", S_CREATE_EXEC, S_FLOOR }, { "warm_exec_to_spawn", S_WARM_EXEC, S_SPAWN },
		{ "health_to_loopback", S_HEALTH, S_LOOPBACK },
	};
	struct json_object *o = json_object_new_object();

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		double v = bench_ratio(b, rows[i].a, rows[i].base);

		json_object_object_add(o, rows[i].name, v < 0 ? NULL : number(v));
	}
	json_object_object_add(o, "warm_exec_to_spawn_and_loopback",
			       number(bench_p50(b, S_WARM_EXEC) / (bench_p50(b, S_SPAWN) + bench_p50(b, S_LOOPBACK))));
	return o;
}

static struct json_object *memory_json(const struct bench *b)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "sandboxes", json_object_new_int64((int64_t)b->memory.inits));
	json_object_object_add(o, "daemon_rss_idle_kib", number(b->idle.daemon_rss_kib));
	json_object_object_add(o, "daemon_rss_kib", number(b->memory.daemon_rss_kib));
	json_object_object_add(o, "keeper_rss_kib", number(b->memory.keeper_rss_kib));
	json_object_object_add(o, "others_rss_kib", number(b->memory.others_rss_kib));
	json_object_object_add(o, "init_pss_mean_kib", number(b->memory.init_pss_kib));
	json_object_object_add(o, "init_pss_max_kib", number(b->memory.init_pss_max_kib));
	return o;
}

static struct json_object *figures_json(const struct bench *b)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < b->n_figures; i++) {
		const struct figure *f = &b->figures[i];
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "name", json_object_new_string(f->name));
		json_object_object_add(o, "unit", json_object_new_string(f->unit));
		json_object_object_add(o, "value", f->value < 0 ? NULL : number(f->value));
		json_object_object_add(o, "limit", f->limit > 0 ? number(f->limit) : NULL);
		json_object_object_add(o, "at_least", json_object_new_boolean(f->at_least));
		json_object_object_add(o, "verdict", json_object_new_string(verdict(f)));
		json_object_array_add(list, o);
	}
	return list;
}

int report(struct bench *b, struct err *e)
{
	struct utsname u = { 0 };
	struct json_object *o = json_object_new_object();
	int r = 0;

	(void)uname(&u);
	add_targets(b);
	printf("%ld cores, Linux %s; template %s, %zu rounds\n\n", sysconf(_SC_NPROCESSORS_ONLN), u.release,
	       b->template_name, b->rounds);
	print_table(b);
	for (size_t i = 0; i < b->n_figures; i++)
		b->missed += strcmp(verdict(&b->figures[i]), "MISSED") == 0;

	json_object_object_add(o, "cores", json_object_new_int64(sysconf(_SC_NPROCESSORS_ONLN)));
	json_object_object_add(o, "kernel", json_object_new_string(u.release));
	json_object_object_add(o, "template", json_object_new_string(b->template_name));
	json_object_object_add(o, "rounds", json_object_new_int64((int64_t)b->rounds));
	json_object_object_add(o, "series", series_json(b));
	json_object_object_add(o, "ratios", ratios_json(b));
	json_object_object_add(o, "memory", memory_json(b));
	json_object_object_add(o, "figures", figures_json(b));
	if (json_object_to_file_ext(b->json, o, JSON_C_TO_STRING_PRETTY) < 0)
		r = err_set(e, ERR_IO, EIO, NULL, "can't write %s: %s", b->json, json_util_get_last_err());
	json_object_put(o);
	return r;
}
