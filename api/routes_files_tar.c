/* A directory as a tar archive, both ways (emulator/files_tar.h): GET with `Accept: application/x-tar`, PUT or
 * POST with `Content-Type: application/x-tar`. Bytes pass through as they come; when the worker or the client
 * is slower, the other one waits.
 *
 * An archive that is refused half-way answers at the end of the body, as every upload does, with what was
 * written by then. A download that fails half-way is cut off: its chunks have no end. */

#include "api/routes_files.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "api/req.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/files_tar.h"

#define TAR_TYPE "application/x-tar"

struct tar_job {
	struct req *r;
	struct files_tar *t;
	const char *path; /* borrowed from the query */
	bool body_over, done;
	struct err err; /* once done */
	struct files_tar_result res;
};

static void job_free(void *arg)
{
	struct tar_job *j = arg;

	if (!j)
		return;
	files_tar_drop(j->t);
	free(j);
}

static void on_ready(void *arg)
{
	struct tar_job *j = arg;

	req_wake(j->r);
}

static int on_check(void *arg, struct err *e)
{
	struct tar_job *j = arg;
	_cleanup_files_ctx_ struct files_ctx c = { .root_fd = -1 };

	return routes_files_open(j->r, &c, e);
}

static struct tar_job *job_new(struct req *r, const char *path, struct err *e)
{
	struct tar_job *j = calloc(1, sizeof(*j));

	if (!j) {
		(void)err_errno(e, ENOMEM, "start an archive");
		return NULL;
	}
	j->r = r;
	j->path = path;
	return j;
}

/* ---- out ---- */

static ssize_t on_pull(void *arg, char *p, size_t cap)
{
	struct tar_job *j = arg;
	ssize_t n = files_tar_read(j->t, p, cap);

	if (n > 0)
		return n;
	if (n < 0 || !j->done)
		return 0;
	return j->err.kind == ERR_NONE ? -1 : -2;
}

static void on_packed(void *arg, const struct err *e, const struct files_tar_result *res)
{
	struct tar_job *j = arg;

	j->done = true;
	j->err = *e;
	j->res = *res;
	if (e->kind != ERR_NONE)
		log_info("%s: an archive is cut off after %llu entries: %s", req_id(j->r),
			 (unsigned long long)res->entries, e->msg);
	req_wake(j->r);
}

void routes_files_pack(struct req *r, const struct files_ctx *c, const char *path)
{
	struct err e = ERR_INIT;
	struct tar_job *j = job_new(r, path, &e);
	struct files_tar_events ev = { on_ready, on_packed, on_check, j };

	if (j && files_tar_pack(req_loop(r), c, path, &ev, &j->t, &e) >= 0) {
		req_reply_stream(r, 200, TAR_TYPE, on_pull, job_free, j);
		return;
	}
	job_free(j);
	req_reply_err(r, &e);
}

/* ---- in ---- */

bool routes_files_is_tar(const struct req *r)
{
	static const char *const types[] = { TAR_TYPE, "application/tar", "application/x-gtar" };
	const char *type = req_header(r, "Content-Type");
	size_t n;

	if (!type)
		return false;
	type += strspn(type, " \t");
	n = strcspn(type, "; \t");
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (n == strlen(types[i]) && strncasecmp(type, types[i], n) == 0)
			return true;
	return false;
}

static void answer(struct tar_job *j)
{
	struct json_object *o = json_object_new_object();

	if (j->err.kind != ERR_NONE) {
		json_object_object_add(o, "entries_written", json_object_new_uint64(j->res.entries));
		req_reply_err_with(j->r, &j->err, o);
		return;
	}
	json_object_object_add(o, "path", routes_files_text(j->path, strlen(j->path)));
	json_object_object_add(o, "is_dir", json_object_new_boolean(true));
	json_object_object_add(o, "entries_written", json_object_new_uint64(j->res.entries));
	json_object_object_add(o, "size", json_object_new_uint64(j->res.file_bytes));
	json_object_object_add(o, "devices_skipped", json_object_new_uint64(j->res.skipped));
	req_reply_json(j->r, 200, o);
}

static void on_unpacked(void *arg, const struct err *e, const struct files_tar_result *res)
{
	struct tar_job *j = arg;

	j->done = true;
	j->err = *e;
	j->res = *res;
	if (j->body_over || e->kind != ERR_NONE)
		answer(j);
	else
		req_wake(j->r); /* what follows the archive's end need not be read by anybody */
}

static bool get_limit(struct req *r, const char *name, uint64_t most, uint64_t *ret)
{
	const char *s = req_query(r, name);

	*ret = most;
	if (!s || text_parse_u64(s, 1, most, ret) == 0)
		return true;
	req_reply_invalid(r, "query", name, "int_range", "Input should be an integer from 1 to %llu",
			  (unsigned long long)most);
	return false;
}

void routes_files_unpack_begin(struct req *r)
{
	_cleanup_files_ctx_ struct files_ctx c = { .root_fd = -1 };
	const char *path = req_query(r, "path");
	struct files_tar_events ev = { on_ready, on_unpacked, on_check, NULL };
	uint64_t max_bytes, max_entries;
	struct err e = ERR_INIT;
	struct tar_job *j;

	if (!path) {
		req_reply_invalid(r, "query", "path", "missing", "Field required");
		return;
	}
	if (!get_limit(r, "max_bytes", FILES_TAR_MAX_BYTES, &max_bytes) ||
	    !get_limit(r, "max_entries", FILES_TAR_MAX_ENTRIES, &max_entries))
		return;
	j = ev.arg = job_new(r, path, &e);
	if (j && routes_files_open(r, &c, &e) >= 0 &&
	    files_tar_unpack(req_loop(r), &c, path, max_bytes, max_entries, &ev, &j->t, &e) >= 0) {
		req_set_data(r, j, job_free);
		return;
	}
	job_free(j);
	req_reply_err(r, &e);
}

void routes_files_unpack_data(struct req *r, const char *p, size_t n)
{
	struct tar_job *j = req_data(r);
	size_t taken = files_tar_write(j->t, p, n);

	if (taken < n)
		req_hold(r, n - taken);
}

void routes_files_unpack(struct req *r)
{
	struct tar_job *j = req_data(r);

	j->body_over = true;
	files_tar_end(j->t);
	if (j->done)
		answer(j);
}
