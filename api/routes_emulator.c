/* The emulator's own routes (wire.md): is it up, and what is it really. No token is asked for, and nothing
 * here is a secret. */

#include "api/api.h"

#include <string.h>

#include "api/sandbox_json.h"
#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "rootfs/template.h"

static void handle_health(struct req *r)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "status", json_object_new_string("ok"));
	req_reply_json(r, 200, o);
}

static const char *idmap_name(enum idmap_kind kind)
{
	switch (kind) {
	case IDMAP_ROOT:
		return "root";
	case IDMAP_SUBUID:
		return "subuid";
	case IDMAP_SINGLE:
		return "single";
	}
	return "unknown";
}

static void add_divergence(struct json_object *list, const char *slug, const char *what)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "slug", slug);
	json_add_text(o, "detail", what);
	json_object_array_add(list, o);
}

/* One template as it really is; a stand-in also becomes a divergence. */
struct template_lists {
	struct json_object *templates, *divergences;
};

static int add_template(void *arg, const struct template *t)
{
	struct template_lists *l = arg;
	struct json_object *o = json_object_new_object();
	char iso[CLOCK_ISO_SIZE], what[320];

	clock_iso(t->created_ms, iso);
	json_add_text(o, "name", t->name);
	json_add_text(o, "distribution", t->distribution);
	json_add_text(o, "interpreter", t->interpreter);
	json_add_text(o, "source", t->source);
	json_add_text(o, "digest", t->digest);
	json_add_text(o, "stand_in", t->stand_in);
	json_object_object_add(o, "layers", json_object_new_int64((int64_t)t->n_layers));
	json_object_object_add(o, "size_bytes", json_object_new_int64((int64_t)t->size_bytes));
	json_add_text(o, "created_at", iso);
	json_object_array_add(l->templates, o);
	if (t->stand_in) {
		(void)snprintf(what, sizeof(what), "%s: %s", t->name, t->stand_in);
		add_divergence(l->divergences, "template-stand-in", what);
	}
	return 0;
}

static struct json_object *cgroup_object(struct cgroup_root *root)
{
	const struct cgroup_features *f = cgroup_root_features(root);
	struct json_object *o = json_object_new_object();
	const char *why = cgroup_why(root);

	json_add_text(o, "backend", cgroup_backend_name(cgroup_root_backend(root)));
	json_object_object_add(o, "cpu", json_object_new_boolean(f->cpu));
	json_object_object_add(o, "memory", json_object_new_boolean(f->memory));
	json_object_object_add(o, "pids", json_object_new_boolean(f->pids));
	json_object_object_add(o, "freeze", json_object_new_boolean(f->freeze));
	json_object_object_add(o, "kill", json_object_new_boolean(f->kill));
	json_add_text(o, "why", why && *why ? why : NULL);
	return o;
}

static struct json_object *counts_object(const struct api *api)
{
	struct json_object *o = json_object_new_object();
	struct sandboxes_counts n = { 0 };

	sandboxes_count(api->sandboxes, &n);
	json_object_object_add(o, "live", json_object_new_int64(n.live));
	json_object_object_add(o, "warm", json_object_new_int64(n.warm));
	json_object_object_add(o, "execs", json_object_new_int64(n.execs));
	json_object_object_add(o, "created", json_object_new_int64((int64_t)n.created));
	json_object_object_add(o, "terminated", json_object_new_int64((int64_t)n.terminated));
	json_object_object_add(o, "failed", json_object_new_int64((int64_t)n.failed));
	return o;
}

static void add_host_divergences(const struct api *api, struct json_object *list)
{
	const struct cgroup_features *f = cgroup_root_features(api->cgroups);
	const char *why = cgroup_why(api->cgroups);
	char what[256];

	if (!f->cpu_reading || !f->memory_reading)
		add_divergence(
			list, "usage-estimated",
			"No cgroup counts CPU time and memory here: usage and metrics are estimates from /proc.");
	if (api->idmap->kind == IDMAP_SINGLE) {
		(void)snprintf(what, sizeof(what), "A sandbox has one user id only, root: %s", api->idmap->why_single);
		add_divergence(list, "single-id", what);
	}
	if (!f->cpu || !f->memory || !f->pids)
		add_divergence(list, "limits-unenforced",
			       why && *why ? why : "Some limits are not enforced on this host.");
}

static void handle_info(struct req *r)
{
	const struct api *api = req_api(r);
	struct json_object *o = json_object_new_object();
	struct template_lists l = { json_object_new_array(), json_object_new_array() };
	int64_t now = clock_real_ms();
	char iso[CLOCK_ISO_SIZE];
	struct err e;

	clock_iso(api->started_ms, iso);
	add_host_divergences(api, l.divergences);
	if (template_each(api->state_fd, add_template, &l, &e) < 0)
		log_warn("%s: the templates can't be listed: %s", req_id(r), e.msg);
	json_add_text(o, "name", "orkestr-emulator");
	json_add_text(o, "version", ORKESTR_VERSION);
	json_add_text(o, "started_at", iso);
	json_object_object_add(o, "uptime_seconds",
			       json_object_new_int64(now > api->started_ms ? (now - api->started_ms) / 1000 : 0));
	json_add_text(o, "id_map", idmap_name(api->idmap->kind));
	json_object_object_add(o, "cgroups", cgroup_object(api->cgroups));
	json_object_object_add(o, "sandboxes", counts_object(api));
	json_object_object_add(o, "templates", l.templates);
	json_object_object_add(o, "divergences", l.divergences);
	req_reply_json(r, 200, o);
}

static const struct route routes[] = {
	{ "GET", "/_emulator/health", 0, 0, handle_health, NULL, NULL },
	{ "GET", "/_emulator/info", 0, 0, handle_info, NULL, NULL },
};

void api_add_emulator_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
