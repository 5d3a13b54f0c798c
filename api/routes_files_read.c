/* Reading a file: as JSON with base 64 in it, made as it is sent, or the bytes themselves, with ranges.
 *
 * A file may change while it is sent. What was promised at the start (its size) is sent exactly; if the
 * file no longer has that much, the connection is cut, so nobody takes a part for the whole. Small files
 * are read at once and can't change. Files that claim to be empty are asked for their end, because those
 * of /proc have contents all the same. */

#include "api/routes_files.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

#define SMALL (48u << 10)	/* read at once */
#define SIZELESS_MAX (1u << 20) /* of a file whose size says 0 */
#define TEXT_MAX (4u << 20)	/* encoding=utf-8: must be checked before it is promised */
#define BLOCK (24u << 10)	/* divisible by 3 */

struct reader {
	int fd;
	uint64_t left; /* of the file, to be sent */
	bool over;
	struct buf out;
	size_t sent;
	unsigned char raw[BLOCK];
};

static void reader_free(void *arg)
{
	struct reader *s = arg;

	closep(&s->fd);
	buf_free(&s->out);
	free(s);
}

static int fill(struct reader *s)
{
	size_t n = (size_t)MIN(s->left, (uint64_t)BLOCK), len;
	char *to;
	int r;

	buf_reset(&s->out);
	s->sent = 0;
	if (n == 0) {
		s->over = true;
		return buf_puts(&s->out, "\"}");
	}
	if (fd_read_all(s->fd, s->raw, n) != (ssize_t)n)
		return -EIO;
	s->left -= n;
	r = buf_reserve(&s->out, (n + 2) / 3 * 4, &to);
	if (r < 0)
		return r;
	len = text_base64_encode(s->raw, n, to);
	buf_commit(&s->out, len);
	return 0;
}

static ssize_t reader_pull(void *arg, char *p, size_t cap)
{
	struct reader *s = arg;
	size_t n;

	if (s->sent == s->out.len) {
		if (s->over)
			return -1;
		if (fill(s) < 0)
			return -2;
	}
	n = MIN(cap, s->out.len - s->sent);
	memcpy(p, s->out.p + s->sent, n);
	s->sent += n;
	return (ssize_t)n;
}

static struct json_object *file_object(const char *path, uint64_t size, const char *encoding)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "path", routes_files_text(path, strlen(path)));
	json_object_object_add(o, "is_dir", json_object_new_boolean(false));
	json_object_object_add(o, "size", json_object_new_uint64(size));
	json_object_object_add(o, "encoding", json_object_new_string(encoding));
	return o;
}

/* The file's JSON up to where its content begins. */
static int put_head(struct buf *b, const char *path, uint64_t size)
{
	struct json_object *o = file_object(path, size, "base64");
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	int r = s ? buf_add(b, s, strlen(s) - 1) : -ENOMEM;

	json_object_put(o);
	return r < 0 ? r : buf_puts(b, ",\"content\":\"");
}

static void reply_stream(struct req *r, const char *path, int fd, uint64_t size)
{
	struct reader *s = calloc(1, sizeof(*s));
	struct err e = ERR_INIT;

	if (s) {
		s->fd = fd;
		s->left = size;
		s->out = BUF_INIT(64u << 10);
		if (put_head(&s->out, path, size) >= 0) {
			req_reply_stream(r, 200, "application/json", reader_pull, reader_free, s);
			return;
		}
		s->fd = -1;
		reader_free(s);
	}
	(void)close(fd);
	(void)err_errno(&e, ENOMEM, "read a file");
	req_reply_err(r, &e);
}

static void reply_whole(struct req *r, const char *path, const char *p, size_t n, bool as_text)
{
	struct json_object *o;
	char *text = NULL;

	if (as_text && text_utf8_valid(p, n)) {
		o = file_object(path, n, "utf-8");
		json_object_object_add(o, "content", json_object_new_string_len(p, (int)n));
	} else {
		o = file_object(path, n, "base64");
		text = malloc((n + 2) / 3 * 4 + 1);
		if (text)
			(void)text_base64_encode(p, n, text);
		json_object_object_add(o, "content", json_object_new_string(text ? text : ""));
		free(text);
	}
	req_reply_json(r, 200, o);
}

/* The file from its beginning in memory, at most max bytes. *ret_more: it goes on. False: answered. */
static bool read_whole(struct req *r, int fd, size_t max, struct buf *b, bool *ret_more)
{
	struct err e = ERR_INIT;
	char *to;
	ssize_t n = buf_reserve(b, max + 1, &to);

	if (n >= 0)
		n = fd_read_all(fd, to, max + 1);
	if (n < 0) {
		if (n == -ENOMEM)
			(void)err_errno(&e, ENOMEM, "read a file");
		else
			(void)err_set(&e, ERR_INVALID, (int)-n, "not_a_file", "the file can't be read: %s",
				      strerror((int)-n));
		req_reply_err(r, &e);
		return false;
	}
	*ret_more = (size_t)n > max;
	buf_commit(b, MIN((size_t)n, max));
	return true;
}

/* ---- the bytes themselves ---- */

/* One range of RFC 9110, section 14.1.2, in a file of this size. 1 and its first byte and length; 0: there
 * is none to heed (absent, malformed, several); -ERANGE. */
static int parse_range(const char *s, uint64_t size, uint64_t *ret_from, uint64_t *ret_n)
{
	uint64_t from = 0, to = UINT64_MAX;
	char first[24], last[24];
	const char *dash;

	if (!s || strncasecmp(s, "bytes=", 6) != 0)
		return 0;
	s += 6;
	dash = strchr(s, '-');
	if (!dash || (size_t)(dash - s) >= sizeof(first) || strlen(dash + 1) >= sizeof(last))
		return 0;
	memcpy(first, s, (size_t)(dash - s));
	first[dash - s] = '\0';
	memcpy(last, dash + 1, strlen(dash + 1) + 1);
	if (last[0] != '\0' && text_parse_u64(last, 0, UINT64_MAX, &to) < 0)
		return 0;
	if (first[0] == '\0') { /* the last so many bytes */
		if (last[0] == '\0')
			return 0;
		if (to == 0 || size == 0)
			return -ERANGE;
		*ret_n = MIN(to, size);
		*ret_from = size - *ret_n;
		return 1;
	}
	if (text_parse_u64(first, 0, UINT64_MAX, &from) < 0 || from > to)
		return 0;
	if (from >= size)
		return -ERANGE;
	*ret_from = from;
	*ret_n = MIN(to, size - 1) - from + 1;
	return 1;
}

static void reply_bad_range(struct req *r, uint64_t size)
{
	struct json_object *o = json_object_new_object();
	char text[64];

	(void)snprintf(text, sizeof(text), "bytes */%llu", (unsigned long long)size);
	req_add_header(r, "Content-Range", text);
	json_object_object_add(o, "detail", json_object_new_string("the range is outside the file"));
	json_object_object_add(o, "code", json_object_new_string("range_not_satisfiable"));
	req_reply_json(r, 416, o);
}

static void add_validators(struct req *r, const struct stat *st, char etag[static 96])
{
	char date[64];
	struct tm tm;

	(void)snprintf(etag, 96, "\"%llx-%llx-%llx.%lx\"", (unsigned long long)st->st_ino,
		       (unsigned long long)st->st_size, (unsigned long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	req_add_header(r, "ETag", etag);
	/* No locale was ever set, so the names are those of HTTP. */
	if (gmtime_r(&st->st_mtim.tv_sec, &tm) && strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm) > 0)
		req_add_header(r, "Last-Modified", date);
}

static void reply_raw(struct req *r, int fd, const struct stat *st)
{
	const char *range = req_header(r, "Range"), *if_range = req_header(r, "If-Range"),
		   *if_none = req_header(r, "If-None-Match");
	uint64_t size = (uint64_t)st->st_size, from = 0, n = size;
	char etag[96], text[96];
	int k;

	add_validators(r, st, etag);
	req_add_header(r, "Accept-Ranges", "bytes");
	if (if_none && strstr(if_none, etag)) {
		(void)close(fd);
		req_reply_empty(r, 304);
		return;
	}
	if (if_range && strcmp(if_range, etag) != 0)
		range = NULL;
	k = parse_range(range, size, &from, &n);
	if (k < 0) {
		(void)close(fd);
		reply_bad_range(r, size);
		return;
	}
	if (k == 1) {
		(void)snprintf(text, sizeof(text), "bytes %llu-%llu/%llu", (unsigned long long)from,
			       (unsigned long long)(from + n - 1), (unsigned long long)size);
		req_add_header(r, "Content-Range", text);
	}
	req_reply_fd(r, k == 1 ? 206 : 200, "application/octet-stream", fd, from, n);
}

static void read_sizeless(struct req *r, const char *path, int fd, bool raw, bool as_text)
{
	_cleanup_buf_ struct buf b = BUF_INIT(SIZELESS_MAX + 1);
	struct err e = ERR_INIT;
	bool more;

	if (!read_whole(r, fd, SIZELESS_MAX, &b, &more))
		return;
	if (more) {
		(void)err_set(&e, ERR_TOO_LARGE, EFBIG, "payload_too_large",
			      "the file has no size and does not end within %u bytes", SIZELESS_MAX);
		req_reply_err(r, &e);
	} else if (raw) {
		req_reply_bytes(r, 200, "application/octet-stream", b.p, b.len);
	} else {
		reply_whole(r, path, b.p, b.len, as_text);
	}
}

/* False: answered, or refused. */
static bool wants_text(struct req *r, bool *ret)
{
	const char *v = req_query(r, "encoding");

	*ret = v && (strcasecmp(v, "utf-8") == 0 || strcasecmp(v, "utf8") == 0 || strcasecmp(v, "text") == 0);
	if (!v || *ret || strcasecmp(v, "base64") == 0)
		return true;
	req_reply_invalid(r, "query", "encoding", "enum", "Input should be 'base64' or 'utf-8'");
	return false;
}

void routes_files_read(struct req *r, const char *path, int fd)
{
	_cleanup_close_ int owned = fd;
	_cleanup_buf_ struct buf b = BUF_INIT(TEXT_MAX + 1);
	bool as_text, more, raw = req_accepts(r, "application/octet-stream");
	struct err e = ERR_INIT;
	struct stat st;
	size_t max;

	if (!wants_text(r, &as_text))
		return;
	if (fstat(fd, &st) < 0) {
		(void)err_errno(&e, errno, "read a file");
		req_reply_err(r, &e);
		return;
	}
	if (st.st_size <= 0) {
		read_sizeless(r, path, fd, raw, as_text);
		return;
	}
	if (raw) {
		reply_raw(r, TAKE_FD(owned), &st);
		return;
	}
	max = as_text ? TEXT_MAX : SMALL;
	if ((uint64_t)st.st_size > max) {
		reply_stream(r, path, TAKE_FD(owned), (uint64_t)st.st_size);
		return;
	}
	if (read_whole(r, fd, (size_t)st.st_size, &b, &more))
		reply_whole(r, path, b.p, b.len, as_text);
}
