/* What a run came to: for `orkestr-emulator exec`, which prints it, and GET /_emulator/summary. */

#include "api/summary.h"

#include "api/control.h"
#include "api/sandbox_json.h"
#include "emulator/base/log.h"

static int add_live(void *arg, const struct sandbox_row *row)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "id", row->id);
	json_add_text(o, "account", row->account);
	json_add_text(o, "template", row->template_name);
	json_add_text(o, "status", sandbox_status_name(row->status));
	json_add_time(o, "created_at", row->created_ms);
	json_object_array_add(arg, o);
	return 0;
}

static struct json_object *sandboxes_object(const struct api *api)
{
	struct json_object *o = json_object_new_object(), *live = json_object_new_array();
	struct sandboxes_counts n = { 0 };

	sandboxes_count(api->sandboxes, &n);
	json_object_object_add(o, "created", json_object_new_uint64(n.created));
	json_object_object_add(o, "terminated", json_object_new_uint64(n.terminated));
	json_object_object_add(o, "failed", json_object_new_uint64(n.failed));
	(void)sandboxes_each(api->sandboxes, add_live, live);
	json_object_object_add(o, "live", live);
	return o;
}

static struct json_object *slowest(const struct journal *j)
{
	struct json_object *list = json_object_new_array();
	struct journal_slow slow[JOURNAL_SLOWEST];
	size_t n = j ? journal_slowest(j, slow) : 0;

	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_new_object();

		json_add_text(o, "method", slow[i].method);
		json_add_text(o, "path", slow[i].path);
		json_object_object_add(o, "status", json_object_new_int64(slow[i].status));
		json_object_object_add(o, "duration_ms", json_object_new_double((double)slow[i].duration_us / 1000));
		json_object_array_add(list, o);
	}
	return list;
}

/* Of every account; of an earlier run in the same state dir, too. */
static struct json_object *usage_object(const struct api *api)
{
	struct json_object *o = json_object_new_object();
	struct usage u = { 0 };
	struct err e = ERR_INIT;

	if (meter_flush(sandboxes_meter(api->sandboxes), &e) < 0 ||
	    store_usage_total(api->store, &u.cpu_usec, &u.mem_kib_ms, &e) < 0)
		log_warn("the usage of this run can't be told: %s", e.msg);
	json_object_object_add(o, "cpu_seconds", json_object_new_double(usage_cpu_hours(&u) * 3600));
	json_object_object_add(o, "gb_seconds", json_object_new_double(usage_gb_hours(&u) * 3600));
	return o;
}

struct json_object *api_summary(const struct api *api)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "sandboxes", sandboxes_object(api));
	json_object_object_add(o, "usage", usage_object(api));
	json_object_object_add(o, "slowest", slowest(api->journal));
	return o;
}
