#include "emulator/snapshot_row.h"

#include <errno.h>
#include <string.h>

#include "emulator/account.h"
#include "rootfs/json.h"
#include "rootfs/snapshot.h"

#define TEXTS_MAX (256u << 10) /* 64 KiB of env and metadata, every byte escaped, and their quotes */
#define DEPTH_MAX 8

static struct json_object *parsed(const char *text)
{
	struct json_object *o = NULL;

	(void)json_parse(text ? text : "{}", strlen(text ? text : "{}"), DEPTH_MAX, &o, NULL);
	return o;
}

struct json_object *snapshot_row_to_json(const struct sandbox_row *row)
{
	struct json_object *o = json_object_new_object();

	if (o && json_put(o, "account", json_object_new_string(row->account)) &&
	    json_put(o, "size", json_object_new_string(row->size)) &&
	    json_put(o, "cpu_millis", json_object_new_uint64(row->cpu_millis)) &&
	    json_put(o, "memory_mb", json_object_new_uint64(row->memory_mb)) &&
	    json_put(o, "network", json_object_new_string(row->network)) &&
	    json_put(o, "timeout_s", json_object_new_uint64(row->timeout_s)) &&
	    (!row->region || json_put(o, "region", json_object_new_string(row->region))) &&
	    json_put(o, "created_ms", json_object_new_int64(row->created_ms)) &&
	    json_put(o, "started_ms", json_object_new_int64(row->started_ms)) &&
	    json_put(o, "expires_ms", json_object_new_int64(row->expires_ms)) &&
	    json_put(o, "metadata", parsed(row->metadata)) && json_put(o, "env", parsed(row->env)))
		return o;
	json_object_put(o);
	return NULL;
}

static int wrong(const char *member, struct err *e)
{
	return err_set(e, ERR_INVALID, EINVAL, "snapshot_damaged", "the manifest's row makes no sense: %s", member);
}

/* An object of strings, back to its text. */
static int read_strings(struct json_object *o, const char *key, char **ret, struct err *e)
{
	struct json_object *v;
	const char *text;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_object))
		return wrong(key, e);
	json_object_object_foreach(v, name, value)
	{
		if (!*name || !json_object_is_type(value, json_type_string) ||
		    strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
			return wrong(key, e);
	}
	text = json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	if (!text || strlen(text) > TEXTS_MAX)
		return wrong(key, e);
	*ret = strdup(text);
	return *ret ? 0 : err_errno(e, ENOMEM, "manifest");
}

static int read_u32(struct json_object *o, const char *key, uint32_t min, uint32_t max, uint32_t *ret, struct err *e)
{
	uint64_t v;

	if (json_get_u64(o, key, &v) < 0 || v < min || v > max)
		return wrong(key, e);
	*ret = (uint32_t)v;
	return 0;
}

static int read_ms(struct json_object *o, const char *key, int64_t *ret, struct err *e)
{
	uint64_t v;

	if (json_get_u64(o, key, &v) < 0 || v > INT64_MAX / 4)
		return wrong(key, e);
	*ret = (int64_t)v;
	return 0;
}

static int read_names(struct json_object *o, struct sandbox_row *row, struct err *e)
{
	char region[16];
	enum size_id size;

	if (json_get_string(o, "account", row->account, sizeof(row->account)) < 0 || !account_id_valid(row->account))
		return wrong("account", e);
	if (json_get_string(o, "size", row->size, sizeof(row->size)) < 0 ||
	    (row->size[0] && size_parse(row->size, &size) < 0))
		return wrong("size", e);
	if (json_get_string(o, "network", row->network, sizeof(row->network)) < 0 ||
	    (strcmp(row->network, "off") != 0 && strcmp(row->network, "restricted") != 0 &&
	     strcmp(row->network, "open") != 0))
		return wrong("network", e);
	switch (json_get_string(o, "region", region, sizeof(region))) {
	case -ENOENT:
		return 0;
	case 0:
		row->region = strdup(region);
		return row->region ? 0 : err_errno(e, ENOMEM, "manifest");
	default:
		return wrong("region", e);
	}
}

static int read_row(struct json_object *o, struct sandbox_row *row, struct err *e)
{
	const struct plan *most = plan_get(PLAN_TEAM);
	int r = read_names(o, row, e);

	if (r == 0)
		r = read_u32(o, "cpu_millis", 1, most->max_cpu_millis, &row->cpu_millis, e);
	if (r == 0)
		r = read_u32(o, "memory_mb", 1, most->max_memory_mb, &row->memory_mb, e);
	if (r == 0)
		r = read_u32(o, "timeout_s", 1, most->max_timeout_s, &row->timeout_s, e);
	if (r == 0)
		r = read_ms(o, "created_ms", &row->created_ms, e);
	if (r == 0)
		r = read_ms(o, "started_ms", &row->started_ms, e);
	if (r == 0)
		r = read_ms(o, "expires_ms", &row->expires_ms, e);
	if (r == 0)
		r = read_strings(o, "metadata", &row->metadata, e);
	return r < 0 ? r : read_strings(o, "env", &row->env, e);
}

int snapshot_row_from_json(struct json_object *manifest, struct sandbox_row *ret, struct err *e)
{
	struct sandbox_row row = { .status = SANDBOX_PAUSED };
	struct snapshot_info info;
	struct json_object *o;
	int r;

	if (!snapshot_read_info(manifest, &info))
		return err_set(e, ERR_INVALID, EINVAL, "snapshot_damaged",
			       "the manifest makes no sense, or is of another version");
	if (strlen(info.id) >= sizeof(row.id))
		return wrong("sandbox", e);
	if (!json_object_object_get_ex(manifest, "row", &o) || !json_object_is_type(o, json_type_object))
		return wrong("it has none", e);
	memcpy(row.id, info.id, strlen(info.id) + 1);
	row.paused_ms = info.paused_ms;
	row.template_name = strdup(info.template_name);
	r = row.template_name ? read_row(o, &row, e) : err_errno(e, ENOMEM, "manifest");
	/* The time it has left is of the row's own making: no more than its plan's. */
	if (r == 0 &&
	    (row.expires_ms < row.paused_ms || row.expires_ms - row.paused_ms > (int64_t)row.timeout_s * 1000))
		r = wrong("expires_ms", e);
	if (r < 0) {
		sandbox_row_clear(&row);
		return r;
	}
	*ret = row;
	return 0;
}
