/* Theory of operation
 *
 * POST carries the file inside JSON, decoded as it arrives into a file that has no name yet
 * (emulator/files.h). Members may come in any order, so when the content begins the path or the encoding
 * may still be unknown. Then
 *
 *   HELD     up to HOLD_MAX characters are just kept: most files are small, and all is known at the end;
 *   GUESS    beyond, with the path known: it is taken for base 64, as nearly always it is. Plain base 64
 *            only, from which the text can be made again should it turn out to be something else;
 *   SPOOLED  what can't be guessed goes as text to an unnamed file in the state dir, and from there to
 *            its place at the end: a small one at once, a large one by a worker process.
 *
 * A guess that fails late costs reading back what was written, so it is bounded by REDO_MAX.
 *
 * PUT carries the bytes themselves; everything is known from the start. */

#include "api/routes_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>

#include "api/base64.h"
#include "api/json_stream.h"
#include "api/req.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/worker.h"

#define HOLD_MAX (8u << 10)
#define REDO_MAX (64u << 20)
#define INLINE_MAX (1u << 20)  /* a spool up to this size is copied at once */
#define CHECK_EVERY (8u << 20) /* bytes between two looks at whether the sandbox still runs */
#define BLOCK (48u << 10)

static const char *const content_names[] = { "content", "content_b64", "content_base64", "data", NULL };

enum how { HELD, DIRECT, GUESS, SPOOLED };
enum coding { CODING_UNKNOWN, CODING_BASE64, CODING_TEXT };

struct upload {
	struct req *r;
	struct files_ctx c;
	struct json_stream *js; /* NULL: PUT */
	const char *path;	/* borrowed from the members or the query; NULL: not seen */
	uint32_t mode;
	enum how how;
	enum coding coding;
	bool begun; /* the content has */
	struct buf held;
	struct base64_in b64;
	struct files_write *w;
	uint64_t written;   /* bytes in w */
	uint64_t unchecked; /* bytes since the last look at the sandbox */
	int spool;
	uint64_t spooled;
	struct finish_job *job;
	const char *fault_field, *fault_type; /* of an error "validation_error" */
};

/* What a worker and the daemon share while a large spool is copied. */
struct finish_job {
	struct upload *u; /* NULL: the request is over */
	struct err *shared;
};

static void upload_drop(struct upload *u)
{
	files_write_abort(TAKE_PTR(u->w));
	closep(&u->spool);
	closep(&u->c.root_fd);
	buf_free(&u->held);
}

static void upload_free(void *arg)
{
	struct upload *u = arg;

	if (!u)
		return;
	if (u->job)
		u->job->u = NULL;
	upload_drop(u);
	json_stream_free(u->js);
	free(u);
}

static int fault(struct upload *u, struct err *e, const char *field, const char *type, const char *msg)
{
	u->fault_field = field;
	u->fault_type = type;
	return err_set(e, ERR_INVALID, EINVAL, "validation_error", "%s", msg);
}

static bool has_reason(const struct err *e, const char *reason)
{
	return e->reason && strcmp(e->reason, reason) == 0;
}

static void reply_bad_json(struct upload *u, const struct err *e)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	struct json_object *item = json_object_new_object(), *loc = json_object_new_array();

	json_object_array_add(loc, json_object_new_string("body"));
	json_object_array_add(loc, json_object_new_uint64(json_stream_at(u->js)));
	json_object_object_add(item, "loc", loc);
	json_object_object_add(item, "msg", json_object_new_string(e->msg));
	json_object_object_add(item, "type", json_object_new_string("json_invalid"));
	json_object_array_add(list, item);
	json_object_object_add(o, "detail", list);
	json_object_object_add(o, "code", json_object_new_string("validation_error"));
	req_reply_json(u->r, 422, o);
}

/* Answers with the error and lets go of everything, for the rest of the body may be long in coming. */
static void fail(struct upload *u, const struct err *e)
{
	upload_drop(u);
	if (has_reason(e, "validation_error"))
		req_reply_invalid(u->r, u->js ? "body" : "query", u->fault_field, u->fault_type, "%s", e->msg);
	else if (has_reason(e, "json_invalid"))
		reply_bad_json(u, e);
	else if (has_reason(e, "string_type"))
		req_reply_invalid(u->r, "body", json_stream_name(u->js), "string_type", "%s", e->msg);
	else
		req_reply_err(u->r, e);
}

/* ---- what the members say ---- */

static bool parse_octal(const char *s, uint32_t *ret)
{
	uint32_t v = 0;

	if (s[0] == '0' && (s[1] == 'o' || s[1] == 'O'))
		s += 2;
	if (s[0] == '\0' || strlen(s) > 5)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '7')
			return false;
		v = v << 3 | (uint32_t)(*s - '0');
	}
	*ret = v;
	return v <= 07777;
}

/* "0644" is octal, as people write it; a number is what the number is: 420. */
static bool parse_mode(struct json_object *o, uint32_t *ret)
{
	int64_t v;

	if (!o)
		return true;
	if (json_object_is_type(o, json_type_string))
		return parse_octal(json_object_get_string(o), ret);
	if (!json_object_is_type(o, json_type_int))
		return false;
	v = json_object_get_int64(o);
	*ret = (uint32_t)v;
	return v >= 0 && v <= 07777;
}

static bool parse_coding(struct json_object *o, enum coding *ret)
{
	static const char *const texts[] = { "utf-8", "utf8", "text", "plain" };
	const char *s;

	*ret = CODING_BASE64;
	if (!o)
		return true;
	if (!json_object_is_type(o, json_type_string))
		return false;
	s = json_object_get_string(o);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (strcasecmp(s, texts[i]) == 0)
			*ret = CODING_TEXT;
	return *ret == CODING_TEXT || strcasecmp(s, "base64") == 0;
}

static int read_path(struct upload *u, struct json_object *o, struct err *e)
{
	if (!json_object_is_type(o, json_type_string))
		return fault(u, e, "path", "string_type", "Input should be a valid string");
	u->path = json_object_get_string(o);
	if (strlen(u->path) != (size_t)json_object_get_string_len(o))
		return err_set(e, ERR_INVALID, EINVAL, "path_invalid", "the path has a NUL character in it");
	return 0;
}

/* Takes what is known by now; final: the object is complete. */
static int read_members(struct upload *u, bool final, struct err *e)
{
	struct json_object *all = json_stream_members(u->js), *o;
	const char *name = json_stream_name(u->js);
	bool named = name && (strcmp(name, "content_b64") == 0 || strcmp(name, "content_base64") == 0);
	enum coding coding;
	int r;

	if (json_object_object_get_ex(all, "path", &o)) {
		r = read_path(u, o, e);
		if (r < 0)
			return r;
	} else if (final) {
		return fault(u, e, "path", "missing", "Field required");
	}
	if (final && !name)
		return fault(u, e, "content", "missing", "Field required");
	if (json_object_object_get_ex(all, "mode", &o) && !parse_mode(o, &u->mode))
		return fault(u, e, "mode", "value_error", "Input should be permission bits, such as \"0644\"");
	if (json_object_object_get_ex(all, "encoding", &o)) {
		if (!parse_coding(o, &coding) || (named && coding == CODING_TEXT))
			return fault(u, e, "encoding", "enum", "Input should be 'base64' or 'utf-8'");
		u->coding = coding;
	} else if (final || named) {
		u->coding = CODING_BASE64;
	}
	return 0;
}

/* ---- where the content goes ---- */

static int check_sandbox(struct upload *u, struct err *e)
{
	struct files_ctx c;
	int r = routes_files_open(u->r, &c, e);

	if (r >= 0)
		(void)close(c.root_fd);
	u->unchecked = 0;
	return r;
}

static int write_bytes(struct upload *u, const void *p, size_t n, struct err *e)
{
	int r = files_write_data(u->w, p, n, e);

	u->written += n;
	u->unchecked += n;
	if (r < 0 || u->unchecked < CHECK_EVERY)
		return r;
	return check_sandbox(u, e);
}

static int bad_base64(struct upload *u, struct err *e)
{
	char msg[96];

	(void)snprintf(msg, sizeof(msg), "not base64 at character %llu", (unsigned long long)u->b64.taken);
	return fault(u, e, "content", "base64", msg);
}

/* Decodes into the file. *ret_used < n: the character there is none of base 64. */
static int write_base64(struct upload *u, const char *p, size_t n, size_t *ret_used, struct err *e)
{
	unsigned char raw[BLOCK / 4 * 3 + 3];

	*ret_used = 0;
	while (*ret_used < n) {
		size_t part = MIN(n - *ret_used, (size_t)BLOCK), used;
		size_t len = base64_in(&u->b64, p + *ret_used, part, raw, &used);
		int r = write_bytes(u, raw, len, e);

		*ret_used += used;
		if (r < 0)
			return r;
		if (used < part)
			break;
	}
	return 0;
}

/* Content whose encoding is known, into the file. */
static int write_coded(struct upload *u, const char *p, size_t n, struct err *e)
{
	size_t used;
	int r;

	if (u->coding == CODING_TEXT)
		return write_bytes(u, p, n, e);
	r = write_base64(u, p, n, &used, e);
	return r < 0 || used == n ? r : bad_base64(u, e);
}

static int end_coded(struct upload *u, struct err *e)
{
	unsigned char rest[2];
	int n;

	if (u->coding == CODING_TEXT)
		return 0;
	n = base64_in_end(&u->b64, rest);
	if (n < 0)
		return bad_base64(u, e);
	return write_bytes(u, rest, (size_t)n, e);
}

static int open_file(struct upload *u, struct err *e)
{
	files_write_abort(TAKE_PTR(u->w));
	u->b64 = (struct base64_in){ 0 };
	u->written = 0;
	return files_write_begin(&u->c, u->path, u->mode, &u->w, e);
}

static int open_spool(struct upload *u, struct err *e)
{
	int dir = req_api(u->r)->state_fd;
	char name[40];
	uint64_t rnd;

	u->how = SPOOLED;
	u->spool = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (u->spool < 0) {
		text_random(&rnd, sizeof(rnd));
		(void)snprintf(name, sizeof(name), ".upload-%016llx", (unsigned long long)rnd);
		u->spool = openat(dir, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (u->spool >= 0)
			(void)unlinkat(dir, name, 0);
	}
	return u->spool < 0 ? err_errno(e, errno, "keep an upload in the state directory") : 0;
}

static int spool_text(struct upload *u, const char *p, size_t n, struct err *e)
{
	int r = fd_write_all(u->spool, p, n);

	u->spooled += n;
	return r < 0 ? err_errno(e, -r, "keep an upload in the state directory") : 0;
}

/* The guess was wrong: makes the text again that was decoded so far, and keeps it as text. */
static int undo_guess(struct upload *u, struct err *e)
{
	static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char raw[BLOCK], text[BLOCK / 3 * 4 + 1], tail[8];
	uint64_t total = u->written;
	size_t n_tail = 0;
	int r;

	if (total > REDO_MAX)
		return err_set(e, ERR_TOO_LARGE, EFBIG, "payload_too_large",
			       "content of this size must be preceded by its encoding, or be plain base64");
	r = open_spool(u, e);
	for (uint64_t at = 0; at < total && r >= 0;) {
		size_t n = (size_t)MIN(total - at, (uint64_t)BLOCK);

		r = files_write_reread(u->w, at, raw, n, e);
		if (r >= 0)
			r = spool_text(u, text, text_base64_encode(raw, n, text), e);
		at += n;
	}
	/* What waits for the rest of its group of four was not written yet. */
	for (int i = u->b64.chars; i > 0; i--)
		tail[n_tail++] = alphabet[u->b64.acc >> (6 * (i - 1)) & 63];
	for (int i = 0; i < u->b64.pads; i++)
		tail[n_tail++] = '=';
	if (r >= 0)
		r = spool_text(u, tail, n_tail, e);
	files_write_abort(TAKE_PTR(u->w));
	return r;
}

static int guess(struct upload *u, const char *p, size_t n, struct err *e)
{
	size_t used;
	int r = write_base64(u, p, n, &used, e);

	if (r < 0 || used == n)
		return r;
	r = undo_guess(u, e);
	return r < 0 ? r : spool_text(u, p + used, n - used, e);
}

static int sink(struct upload *u, const char *p, size_t n, struct err *e)
{
	switch (u->how) {
	case DIRECT:
		return write_coded(u, p, n, e);
	case GUESS:
		return guess(u, p, n, e);
	case SPOOLED:
		return spool_text(u, p, n, e);
	default:
		return buf_add(&u->held, p, n) < 0 ? err_errno(e, ENOMEM, "keep an upload") : 0;
	}
}

/* From HELD to where there is room, with what was held. */
static int stop_holding(struct upload *u, enum how how, struct err *e)
{
	int r = how == SPOOLED ? open_spool(u, e) : open_file(u, e);

	if (r < 0)
		return r;
	u->how = how;
	u->b64.plain = how == GUESS;
	r = sink(u, u->held.p, u->held.len, e);
	buf_free(&u->held);
	return r;
}

static int on_text(void *arg, const char *p, size_t n, struct err *e)
{
	struct upload *u = arg;
	int r = 0;

	if (!u->begun) {
		u->begun = true;
		r = read_members(u, false, e);
		if (r >= 0 && u->path && u->coding != CODING_UNKNOWN)
			r = stop_holding(u, DIRECT, e);
	}
	if (r >= 0 && u->how == HELD && u->held.len + n > HOLD_MAX)
		r = stop_holding(u, u->path ? GUESS : SPOOLED, e);
	return r < 0 ? r : sink(u, p, n, e);
}

/* ---- the end ---- */

/* All there is to write is in u->w. */
static void commit(struct upload *u)
{
	struct files_entry en;
	struct err e = ERR_INIT;
	struct json_object *o;
	bool replaced;

	/* The sandbox may have ended while the body came in: its disk is then nobody's any more. */
	if (check_sandbox(u, &e) < 0) {
		fail(u, &e);
		return;
	}
	replaced = files_write_replaces(u->w);
	files_write_set_mode(u->w, u->mode);
	if (files_write_commit(TAKE_PTR(u->w), &en, &e) < 0) {
		fail(u, &e);
		return;
	}
	o = json_object_new_object();
	json_object_object_add(o, "path", routes_files_text(u->path, strlen(u->path)));
	routes_files_add_entry(o, &en);
	upload_drop(u);
	req_reply_json(u->r, replaced ? 200 : 201, o);
}

/* Copies the spooled text to the file, decoded. */
static int copy_spool(struct upload *u, struct err *e)
{
	char block[BLOCK];
	uint64_t at = 0;
	int r = 0;

	while (at < u->spooled && r >= 0) {
		ssize_t n = pread(u->spool, block, (size_t)MIN(u->spooled - at, (uint64_t)BLOCK), (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_errno(e, n < 0 ? errno : EIO, "read a spooled upload");
		r = write_coded(u, block, (size_t)n, e);
		at += (uint64_t)n;
		u->unchecked = 0; /* commit looks */
	}
	return r < 0 ? r : end_coded(u, e);
}

static void job_free(struct finish_job *j)
{
	if (!j)
		return;
	routes_files_shared_err_free(j->shared);
	free(j);
}

static int copy_job(void *arg)
{
	struct finish_job *j = arg;

	return copy_spool(j->u, j->shared) < 0;
}

static void on_copied(void *arg, int status)
{
	struct finish_job *j = arg;
	struct upload *u = j->u;

	if (u)
		u->job = NULL;
	if (u && status == 0) {
		commit(u);
	} else if (u) {
		/* Which field was to blame stayed in the worker; there is but one it can find fault with. */
		u->fault_field = "content";
		u->fault_type = "base64";
		if (j->shared->kind == ERR_NONE)
			(void)err_set(j->shared, ERR_INTERNAL, 0, NULL, "the upload's copy ended with status %d",
				      status);
		fail(u, j->shared);
	}
	job_free(j);
}

static int copy_in_worker(struct upload *u, struct err *e)
{
	struct finish_job *j = calloc(1, sizeof(*j));
	int r;

	if (j)
		j->shared = routes_files_shared_err();
	if (!j || !j->shared) {
		job_free(j);
		return err_errno(e, ENOMEM, "finish an upload");
	}
	j->u = u;
	r = worker_run(req_loop(u->r), copy_job, j, on_copied, j, e);
	if (r < 0)
		job_free(j);
	else
		u->job = j;
	return r;
}

/* Everything is known now. 0: commit; 1: it will be; or an error. */
static int finish(struct upload *u, struct err *e)
{
	int r = 0;

	if (u->how == HELD)
		r = stop_holding(u, DIRECT, e);
	else if (u->how == GUESS && u->coding == CODING_TEXT)
		r = undo_guess(u, e);
	if (r < 0)
		return r;
	if (u->how != SPOOLED)
		return end_coded(u, e);
	r = open_file(u, e);
	if (r < 0)
		return r;
	if (u->spooled <= INLINE_MAX)
		return copy_spool(u, e);
	r = copy_in_worker(u, e);
	return r < 0 ? r : 1;
}

/* ---- the routes ---- */

static struct upload *upload_new(struct req *r, struct err *e)
{
	struct upload *u = calloc(1, sizeof(*u));

	if (!u) {
		(void)err_errno(e, ENOMEM, "take an upload");
		return NULL;
	}
	u->r = r;
	u->c.root_fd = u->spool = -1;
	u->mode = UINT32_MAX;
	u->held = BUF_INIT(HOLD_MAX);
	if (routes_files_open(r, &u->c, e) < 0) {
		upload_free(u);
		return NULL;
	}
	req_set_data(r, u, upload_free);
	return u;
}

void routes_files_post_begin(struct req *r)
{
	struct json_stream_config c = { .names = content_names, .text = on_text };
	struct err e = ERR_INIT;
	struct upload *u = upload_new(r, &e);

	if (!u) {
		req_reply_err(r, &e);
		return;
	}
	c.arg = u;
	if (json_stream_new(&c, &u->js) < 0) {
		(void)err_errno(&e, ENOMEM, "take an upload");
		req_reply_err(r, &e);
	}
}

void routes_files_post_data(struct req *r, const char *p, size_t n)
{
	struct upload *u = req_data(r);
	struct err e = ERR_INIT;

	if (json_stream_feed(u->js, p, n, &e) < 0)
		fail(u, &e);
}

void routes_files_post(struct req *r)
{
	struct upload *u = req_data(r);
	struct err e = ERR_INIT;
	int k = json_stream_finish(u->js, &e);

	if (k >= 0)
		k = read_members(u, true, &e);
	if (k >= 0)
		k = finish(u, &e);
	if (k < 0)
		fail(u, &e);
	else if (k == 0)
		commit(u);
}

void routes_files_put_begin(struct req *r)
{
	const char *path = req_query(r, "path"), *mode = req_query(r, "mode");
	struct err e = ERR_INIT;
	struct upload *u;

	if (!path) {
		req_reply_invalid(r, "query", "path", "missing", "Field required");
		return;
	}
	u = upload_new(r, &e);
	if (!u) {
		req_reply_err(r, &e);
		return;
	}
	u->path = path;
	u->how = DIRECT;
	u->coding = CODING_TEXT;
	if (mode && !parse_octal(mode, &u->mode))
		(void)fault(u, &e, "mode", "value_error", "Input should be permission bits, such as 0644");
	else
		(void)open_file(u, &e);
	if (e.kind != ERR_NONE)
		fail(u, &e);
}

void routes_files_put_data(struct req *r, const char *p, size_t n)
{
	struct upload *u = req_data(r);
	struct err e = ERR_INIT;

	if (write_bytes(u, p, n, &e) < 0)
		fail(u, &e);
}

void routes_files_put(struct req *r)
{
	commit(req_data(r));
}
