/* The routes under /v1/sandboxes/{id}/files: which there are, listings, and removal. Reading is in
 * routes_files_read.c, writing in routes_files_write.c, archives of directories in routes_files_tar.c.
 *
 * What is quick is done at once. A tree is removed by a worker process, for it may take long. */

#include "api/routes_files.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "api/req.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "emulator/worker.h"

#define PAGE_MAX 10000
#define LIST_BLOCK (32u << 10)

int routes_files_open(struct req *r, struct files_ctx *ret, struct err *e)
{
	const struct api *api = req_api(r);
	int fd = sandbox_root(api->sandboxes, req_account(r), req_param(r, "id"), e);

	ret->root_fd = fd;
	ret->uid = idmap_sandbox_uid(api->idmap, 0);
	return fd < 0 ? fd : 0;
}

struct err *routes_files_shared_err(void)
{
	void *p = mmap(NULL, sizeof(struct err), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void routes_files_shared_err_free(struct err *e)
{
	if (e)
		(void)munmap(e, sizeof(*e));
}

struct json_object *routes_files_text(const char *p, size_t n)
{
	_cleanup_buf_ struct buf b = BUF_INIT(3 * n + 1);

	if (text_utf8_sanitize(p, n, true, &b, NULL) < 0)
		return NULL;
	return json_object_new_string_len(b.p ? b.p : "", (int)b.len);
}

void routes_files_add_entry(struct json_object *o, const struct files_entry *en)
{
	char mode[8], iso[CLOCK_ISO_SIZE];

	(void)snprintf(mode, sizeof(mode), "%04o", en->mode & 07777u);
	clock_iso(en->modified_ms, iso);
	json_object_object_add(o, "is_dir", json_object_new_boolean(en->is_dir));
	json_object_object_add(o, "size", json_object_new_uint64(en->size));
	json_object_object_add(o, "mode", json_object_new_string(mode));
	json_object_object_add(o, "modified_at", json_object_new_string(iso));
}

/* ---- listings ---- */

enum list_stage { LIST_HEAD, LIST_ENTRIES, LIST_OVER };

struct listing {
	struct files_dir *d;
	char *path; /* without slashes at its end, but for the root's */
	enum list_stage stage;
	bool first;
	char last[256];
	struct buf out;
	size_t sent;
};

static void listing_free(void *arg)
{
	struct listing *l = arg;

	if (!l)
		return;
	files_dir_free(l->d);
	buf_free(&l->out);
	free(l->path);
	free(l);
}

static void listing_freep(struct listing **l)
{
	listing_free(*l);
}

static void add_base64(struct json_object *o, const char *key, const char *p, size_t n)
{
	char *text = malloc((n + 2) / 3 * 4 + 1);

	if (!text)
		return;
	(void)text_base64_encode(p, n, text);
	json_object_object_add(o, key, json_object_new_string(text));
	free(text);
}

static int put_object(struct buf *b, struct json_object *o)
{
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	int r = s ? buf_puts(b, s) : -ENOMEM;

	json_object_put(o);
	return r;
}

static int put_entry(struct listing *l, const struct files_entry *en)
{
	struct json_object *o = json_object_new_object();
	size_t n = strlen(en->name);
	char path[4096 + 256 + 2];
	int len, r;

	len = snprintf(path, sizeof(path), "%s%s%s", l->path, strcmp(l->path, "/") == 0 ? "" : "/", en->name);
	json_object_object_add(o, "name", routes_files_text(en->name, n));
	json_object_object_add(o, "path", routes_files_text(path, (size_t)len));
	routes_files_add_entry(o, en);
	json_object_object_add(o, "is_symlink", json_object_new_boolean(en->is_symlink));
	if (!text_utf8_valid(en->name, n))
		add_base64(o, "name_base64", en->name, n);
	(void)snprintf(l->last, sizeof(l->last), "%s", en->name);
	r = l->first ? 0 : buf_puts(&l->out, ",");
	l->first = false;
	return r < 0 ? r : put_object(&l->out, o);
}

static int put_head(struct listing *l)
{
	struct json_object *path = routes_files_text(l->path, strlen(l->path));
	int r = buf_puts(&l->out, "{\"path\":");

	if (r >= 0)
		r = put_object(&l->out, path);
	return r < 0 ? r : buf_puts(&l->out, ",\"is_dir\":true,\"entries\":[");
}

static int put_end(struct listing *l)
{
	bool more = files_dir_more(l->d) && l->last[0] != '\0';
	size_t n = strlen(l->last);
	struct json_object *o;
	int r = buf_puts(&l->out, "],");

	if (r < 0)
		return r;
	o = json_object_new_object();
	json_object_object_add(o, "next_after", more ? routes_files_text(l->last, n) : NULL);
	if (more && !text_utf8_valid(l->last, n))
		add_base64(o, "next_after_base64", l->last, n);
	/* The object's own members continue the one that is open. */
	n = l->out.len;
	r = put_object(&l->out, o);
	if (r >= 0)
		memmove(l->out.p + n, l->out.p + n + 1, l->out.len-- - n);
	return r;
}

static int fill(struct listing *l)
{
	struct files_entry en;
	struct err e = ERR_INIT;
	int r = 0;

	if (l->stage == LIST_HEAD) {
		l->stage = LIST_ENTRIES;
		return put_head(l);
	}
	while (l->stage == LIST_ENTRIES && l->out.len < LIST_BLOCK && r >= 0) {
		r = files_dir_next(l->d, &en, &e);
		if (r == 1) {
			r = put_entry(l, &en);
		} else if (r == 0) {
			l->stage = LIST_OVER;
			r = put_end(l);
		}
	}
	return r;
}

static ssize_t listing_pull(void *arg, char *p, size_t cap)
{
	struct listing *l = arg;
	size_t n;

	if (l->sent == l->out.len) {
		buf_reset(&l->out);
		l->sent = 0;
		if (l->stage == LIST_OVER)
			return -1;
		if (fill(l) < 0)
			return -2; /* cut: half a listing must not look like one */
	}
	n = MIN(cap, l->out.len - l->sent);
	memcpy(p, l->out.p + l->sent, n);
	l->sent += n;
	return (ssize_t)n;
}

/* `after` and `after_base64` of the query, in buf. False: answered. */
static bool get_after(struct req *r, char buf[static 1024], const char **ret)
{
	const char *plain = req_query(r, "after"), *coded = req_query(r, "after_base64");
	ssize_t n;

	*ret = plain;
	if (!coded)
		return true;
	n = strlen(coded) > 1024 ? -1 : text_base64_decode(coded, strlen(coded), buf);
	if (n < 0 || memchr(buf, '\0', (size_t)n)) {
		req_reply_invalid(r, "query", "after_base64", "value_error", "not the base64 of a name");
		return false;
	}
	buf[n] = '\0';
	*ret = buf;
	return true;
}

static struct listing *listing_new(const char *path)
{
	struct listing *l = calloc(1, sizeof(*l));
	size_t n = strlen(path);

	if (!l)
		return NULL;
	while (n > 1 && path[n - 1] == '/')
		n--;
	l->first = true;
	l->out = BUF_INIT(LIST_BLOCK + (64u << 10));
	l->path = strndup(path, n);
	if (!l->path) {
		free(l);
		return NULL;
	}
	return l;
}

static void list(struct req *r, const struct files_ctx *c, const char *path)
{
	_cleanup_(listing_freep) struct listing *l = NULL;
	const char *text = req_query(r, "limit"), *after;
	char buf[1024];
	uint64_t limit = 0;
	struct err e = ERR_INIT;

	if (text && text_parse_u64(text, 1, PAGE_MAX, &limit) < 0) {
		req_reply_invalid(r, "query", "limit", "int_range", "Input should be an integer from 1 to %d",
				  PAGE_MAX);
		return;
	}
	if (!get_after(r, buf, &after))
		return;
	l = listing_new(path);
	if (!l) {
		(void)err_errno(&e, ENOMEM, "list a directory");
		req_reply_err(r, &e);
		return;
	}
	if (files_dir_open(c, path, after, (uint32_t)limit, &l->d, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	req_reply_stream(r, 200, "application/json", listing_pull, listing_free, TAKE_PTR(l));
}

/* ---- GET ---- */

static const char *query_path(struct req *r)
{
	const char *path = req_query(r, "path");

	if (!path)
		req_reply_invalid(r, "query", "path", "missing", "Field required");
	return path;
}

static void handle_get(struct req *r)
{
	_cleanup_files_ctx_ struct files_ctx c = { .root_fd = -1 };
	const char *path = query_path(r);
	struct files_entry en;
	struct err e = ERR_INIT;
	int fd;

	if (!path)
		return;
	if (routes_files_open(r, &c, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	if (req_accepts(r, "application/x-tar")) {
		routes_files_pack(r, &c, path);
		return;
	}
	fd = files_open(&c, path, &en, &e);
	if (fd >= 0)
		routes_files_read(r, path, fd);
	else if (e.errnum == EISDIR)
		list(r, &c, path);
	else
		req_reply_err(r, &e);
}

/* ---- DELETE ---- */

struct removal {
	struct req *r; /* NULL: nobody waits for the answer any more */
	struct files_ctx c;
	char *path;
	struct err *shared;
};

static void removal_free(struct removal *m)
{
	if (!m)
		return;
	routes_files_shared_err_free(m->shared);
	closep(&m->c.root_fd);
	free(m->path);
	free(m);
}

static int remove_job(void *arg)
{
	struct removal *m = arg;

	return files_remove(&m->c, m->path, true, m->shared) < 0;
}

static void on_removed(void *arg, int status)
{
	struct removal *m = arg;

	if (m->r && status == 0) {
		req_reply_empty(m->r, 204);
	} else if (m->r) {
		if (m->shared->kind == ERR_NONE)
			(void)err_set(m->shared, ERR_INTERNAL, 0, NULL, "the removal ended with status %d", status);
		req_reply_err(m->r, m->shared);
	}
	removal_free(m);
}

static void on_remover_gone(void *arg)
{
	struct removal *m = arg;

	m->r = NULL;
}

static void remove_in_worker(struct req *r, struct files_ctx *c, const char *path)
{
	struct removal *m = calloc(1, sizeof(*m));
	struct err e = ERR_INIT;

	if (m) {
		m->r = r;
		m->c = *c;
		m->c.root_fd = TAKE_FD(c->root_fd);
		m->shared = routes_files_shared_err();
		m->path = strdup(path);
	}
	if (!m || !m->shared || !m->path) {
		(void)err_errno(&e, ENOMEM, "remove a directory");
	} else if (worker_run(req_loop(r), remove_job, m, on_removed, m, &e) >= 0) {
		req_on_gone(r, on_remover_gone, m);
		return;
	}
	req_reply_err(r, &e);
	removal_free(m);
}

static bool get_flag(struct req *r, const char *name, bool *ret)
{
	static const char *const yes[] = { "true", "1", "yes", "on" }, *const no[] = { "false", "0", "no", "off" };
	const char *v = req_query(r, name);

	*ret = false;
	if (!v)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		*ret = *ret || strcasecmp(v, yes[i]) == 0;
		if (*ret || strcasecmp(v, no[i]) == 0)
			return true;
	}
	req_reply_invalid(r, "query", name, "bool_parsing", "Input should be a valid boolean");
	return false;
}

static void handle_delete(struct req *r)
{
	_cleanup_files_ctx_ struct files_ctx c = { .root_fd = -1 };
	const char *path = query_path(r);
	struct err e = ERR_INIT;
	bool recursive;

	if (!path || !get_flag(r, "recursive", &recursive))
		return;
	if (routes_files_open(r, &c, &e) < 0) {
		req_reply_err(r, &e);
		return;
	}
	/* Most often a file, or a folder that is empty. */
	if (files_remove(&c, path, false, &e) >= 0)
		req_reply_empty(r, 204);
	else if (e.kind == ERR_EXISTS && recursive)
		remove_in_worker(r, &c, path);
	else
		req_reply_err(r, &e);
}

/* ---- POST and PUT ---- */

static void post_begin(struct req *r)
{
	if (routes_files_is_tar(r))
		routes_files_unpack_begin(r);
	else
		routes_files_post_begin(r);
}

static void post_data(struct req *r, const char *p, size_t n)
{
	if (routes_files_is_tar(r))
		routes_files_unpack_data(r, p, n);
	else
		routes_files_post_data(r, p, n);
}

static void handle_post(struct req *r)
{
	if (routes_files_is_tar(r))
		routes_files_unpack(r);
	else
		routes_files_post(r);
}

static void put_begin(struct req *r)
{
	if (routes_files_is_tar(r))
		routes_files_unpack_begin(r);
	else
		routes_files_put_begin(r);
}

static void put_data(struct req *r, const char *p, size_t n)
{
	if (routes_files_is_tar(r))
		routes_files_unpack_data(r, p, n);
	else
		routes_files_put_data(r, p, n);
}

static void handle_put(struct req *r)
{
	if (routes_files_is_tar(r))
		routes_files_unpack(r);
	else
		routes_files_put(r);
}

static const struct route routes[] = {
	{ .method = "POST",
	  .pattern = "/v1/sandboxes/{id}/files",
	  .scope = SCOPE_WRITE,
	  .begin = post_begin,
	  .data = post_data,
	  .handle = handle_post },
	{ .method = "PUT",
	  .pattern = "/v1/sandboxes/{id}/files",
	  .scope = SCOPE_WRITE,
	  .begin = put_begin,
	  .data = put_data,
	  .handle = handle_put },
	{ .method = "GET", .pattern = "/v1/sandboxes/{id}/files", .scope = SCOPE_READ, .handle = handle_get },
	{ .method = "DELETE", .pattern = "/v1/sandboxes/{id}/files", .scope = SCOPE_WRITE, .handle = handle_delete },
};

void api_add_file_routes(struct http *h)
{
	http_add_routes(h, routes, ARRAY_SIZE(routes));
}
