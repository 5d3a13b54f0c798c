#include "api/sandbox_json.h"

#include <string.h>

#include "emulator/base/clock.h"

static struct json_object *text_or_null(const char *s)
{
	return s && *s ? json_object_new_string(s) : NULL;
}

struct json_object *json_time_or_null(int64_t ms)
{
	char iso[CLOCK_ISO_SIZE];

	if (ms == 0)
		return NULL;
	clock_iso(ms, iso);
	return json_object_new_string(iso);
}

void json_add_text(struct json_object *o, const char *name, const char *s)
{
	json_object_object_add(o, name, s ? json_object_new_string(s) : NULL);
}

void json_add_time(struct json_object *o, const char *name, int64_t ms)
{
	json_object_object_add(o, name, json_time_or_null(ms));
}

/* Thousandths as the shortest decimal: 500 is 0.5, not 0.50000000000000000. */
static struct json_object *millis(uint32_t n)
{
	char s[24];

	(void)snprintf(s, sizeof(s), "%u.%03u", n / 1000, n % 1000);
	for (size_t i = 0; i < 2; i++) {
		char *last = s + strlen(s) - 1;

		if (*last == '0')
			*last = '\0';
	}
	return json_object_new_double_s((double)n / 1000, s);
}

struct json_object *sandbox_to_json(const struct sandbox_row *row)
{
	struct json_object *o = json_object_new_object(), *metadata = NULL;

	if (row->metadata)
		metadata = json_tokener_parse(row->metadata);
	if (!json_object_is_type(metadata, json_type_object)) {
		json_object_put(metadata);
		metadata = json_object_new_object();
	}
	json_object_object_add(o, "id", json_object_new_string(row->id));
	json_object_object_add(o, "status", json_object_new_string(sandbox_status_name(row->status)));
	json_object_object_add(o, "template", text_or_null(row->template_name));
	json_object_object_add(o, "size", text_or_null(row->size));
	json_object_object_add(o, "cpu", millis(row->cpu_millis));
	json_object_object_add(o, "memory_mb", json_object_new_int64(row->memory_mb));
	json_object_object_add(o, "network", text_or_null(row->network));
	json_object_object_add(o, "timeout_seconds", json_object_new_int64(row->timeout_s));
	json_object_object_add(o, "region", text_or_null(row->region));
	json_object_object_add(o, "metadata", metadata);
	json_object_object_add(o, "created_at", json_time_or_null(row->created_ms));
	json_object_object_add(o, "started_at", json_time_or_null(row->started_ms));
	json_object_object_add(o, "expires_at", json_time_or_null(row->expires_ms));
	json_object_object_add(o, "paused_at", json_time_or_null(row->status == SANDBOX_PAUSED ? row->paused_ms : 0));
	json_object_object_add(o, "terminated_at", json_time_or_null(row->terminated_ms));
	json_object_object_add(o, "termination_reason", text_or_null(row->termination_reason));
	return o;
}
