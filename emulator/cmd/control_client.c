#include "emulator/cmd/control_client.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/idmap.h"
#include "emulator/statedir.h"
#include "rootfs/proc.h"

#define CURL_NOT_FOUND 125
#define CURL_CONNECT 7
#define ANSWER_MAX (16u << 20)

/* ---- where it is ---- */

static int read_line(int dir_fd, const char *name, char *ret, size_t cap)
{
	ssize_t n = fd_read_file(dir_fd, name, ret, cap);

	if (n <= 0)
		return -ENOENT;
	ret[strcspn(ret, "\n")] = '\0';
	return 0;
}

static int set(const char *what, const char *value, char *ret, size_t cap, struct err *e)
{
	size_t n = strlen(value);

	while (n > 0 && value[n - 1] == '/')
		n--;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)value[i] <= ' ' || value[i] == '"' || value[i] == '\\' || value[i] == 0x7f)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "%s has a character that can't be in it", what);
	if (n == 0 || n >= cap)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s has 1 to %zu characters", what, cap - 1);
	memcpy(ret, value, n);
	ret[n] = '\0';
	return 0;
}

/* A client's own variable serves if it can't be the cloud's: a command that changes things is not for that. */
static const char *from_environment(void)
{
	const char *url = getenv("ORKESTR_EMULATOR_URL"), *base = getenv("ORKESTR_BASE_URL");

	return url || !base || strncmp(base, "http://", 7) != 0 ? url : base;
}

int control_find(const struct control_at *at, struct control *ret, struct err *e)
{
	const char *url = at->url, *key = at->key;
	_cleanup_close_ int fd = -1;
	char path[4096], known_url[300] = "", known_key[300] = "";
	struct idmap m;
	int r;

	if (!url && !at->state_dir)
		url = from_environment();
	if (!key)
		key = getenv("ORKESTR_API_KEY");
	idmap_choose(&m);
	if ((!url || !key) && statedir_open_existing(at->state_dir, &m, &fd, path, sizeof(path), NULL) >= 0) {
		if (!url && read_line(fd, CONTROL_STATE_FILE, known_url, sizeof(known_url)) == 0)
			url = known_url;
		if (!key && read_line(fd, "api-key", known_key, sizeof(known_key)) == 0)
			key = known_key;
	}
	if (!url)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL,
			       "no emulator is known to run; give its address with --url, or its --state-dir");
	r = set("the address", url, ret->url, sizeof(ret->url), e);
	/* Without any, one that --auth any takes. */
	return r < 0 ? r : set("the API key", key ? key : "ork_emulator_cli", ret->key, sizeof(ret->key), e);
}

/* ---- curl ---- */

/* A value of curl's configuration (curl(1), --config) in its quotes. */
static int add_quoted(struct buf *b, const char *s)
{
	int r = buf_puts(b, "\"");

	for (; *s && r >= 0; s++) {
		if (*s == '"' || *s == '\\')
			r = buf_printf(b, "\\%c", *s);
		else if (*s == '\n')
			r = buf_puts(b, "\\n");
		else
			r = buf_add(b, s, 1);
	}
	return r < 0 ? r : buf_puts(b, "\"\n");
}

static int make_config(const struct control *c, const struct control_call *call, bool stream, int *ret_fd)
{
	_cleanup_buf_ struct buf b = BUF_INIT(64u << 10);
	int r;

	r = buf_printf(&b, "header = \"Authorization: Bearer %s\"\nrequest = \"%s\"\nurl = \"%s%s\"\n", c->key,
		       call->method, c->url, call->path);
	if (r >= 0 && stream)
		r = buf_puts(&b, "header = \"Accept: text/event-stream\"\nno-buffer\nfail\n");
	if (r >= 0 && !stream)
		r = buf_puts(&b, "write-out = \"\\n%{http_code}\"\nmax-time = 600\n");
	if (r >= 0 && (call->body || call->body_file))
		r = buf_puts(&b, "header = \"Content-Type: application/json\"\ndata-binary = ");
	if (r >= 0 && call->body)
		r = add_quoted(&b, call->body);
	if (r >= 0 && call->body_file) {
		r = buf_puts(&b, "\"@");
		for (const char *p = call->body_file; *p && r >= 0; p++)
			r = *p == '"' || *p == '\\' ? buf_printf(&b, "\\%c", *p) : buf_add(&b, p, 1);
		if (r >= 0)
			r = buf_puts(&b, "\"\n");
	}
	if (r < 0)
		return r;
	*ret_fd = fd_memfile("curl-config", b.p, b.len);
	explicit_bzero(b.p, b.len);
	return MIN(*ret_fd, 0);
}

static const char *const curl_argv[] = {
	"curl", "-q", "--silent", "--show-error", "--noproxy", "*", "--connect-timeout", "5", "--config", "-", NULL
};

static int start(struct proc *p, struct proc_spec *s, const struct control *c, const struct control_call *call,
		 bool stream, int *config, struct err *e)
{
	int r = make_config(c, call, stream, config);

	if (r < 0)
		return err_errno(e, -r, "curl's configuration");
	*s = (struct proc_spec){ .argv = curl_argv, .env = (const char *const *)environ, .stdin_fd = *config };
	return proc_start(p, s, e);
}

static int ended(struct proc *p, const struct control *c, struct err *e)
{
	int status = 0, r = proc_finish(p, &status, e);

	if (r < 0 && status == CURL_NOT_FOUND)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL, "curl is missing: apt-get install -y curl");
	if (r < 0 && status == CURL_CONNECT)
		return err_set(e, ERR_UNAVAILABLE, ECONNREFUSED, NULL, "no emulator answers at %s", c->url);
	return r;
}

/* 0 and the status, whatever it is. */
static int call_one(const struct control *c, const struct control_call *call, struct buf *out, unsigned int *ret_status,
		    struct err *e)
{
	_cleanup_proc_ struct proc p = PROC_INIT;
	_cleanup_close_ int config = -1;
	struct proc_spec s;
	char piece[16384];
	uint64_t status;
	ssize_t n;
	int r = start(&p, &s, c, call, false, &config, e);

	if (r < 0)
		return r;
	while ((n = proc_read(&p, piece, sizeof(piece))) > 0)
		if (buf_add(out, piece, (size_t)n) < 0)
			return err_set(e, ERR_TOO_LARGE, EFBIG, NULL, "the answer is larger than %zu bytes", out->max);
	r = ended(&p, c, e);
	if (r < 0)
		return r;
	/* --write-out: the status, a line of its own behind the body. */
	if (out->len < 4 || text_parse_u64(out->p + out->len - 3, 100, 599, &status) < 0)
		return err_set(e, ERR_IO, EPROTO, NULL, "%s gave no answer that makes sense", c->url);
	out->len -= 4;
	out->p[out->len] = '\0';
	*ret_status = (unsigned int)status;
	return 0;
}

int control_ask(const struct control_at *at, const struct control_call *call, struct buf *out, struct err *e)
{
	struct json_object *answer, *detail = NULL;
	unsigned int status = 0;
	struct control c;
	int r = control_find(at, &c, e);

	if (r >= 0)
		r = call_one(&c, call, out, &status, e);
	if (r < 0 || status < 400)
		return r;
	answer = out->len > 0 ? json_tokener_parse(out->p) : NULL;
	if (json_object_is_type(answer, json_type_object))
		(void)json_object_object_get_ex(answer, "detail", &detail);
	r = err_set(e, ERR_INVALID, EINVAL, NULL, "%u: %s", status,
		    detail ? json_object_get_string(detail) : "no detail");
	json_object_put(answer);
	return r;
}

int control_ask_json(const struct control_at *at, const struct control_call *call, struct json_object **ret,
		     struct err *e)
{
	_cleanup_buf_ struct buf b = BUF_INIT(ANSWER_MAX);
	int r = control_ask(at, call, &b, e);

	if (r < 0)
		return r;
	*ret = b.len > 0 ? json_tokener_parse(b.p) : NULL;
	return *ret ? 0 : err_set(e, ERR_IO, EPROTO, NULL, "the answer is no JSON");
}

const char *control_text(struct json_object *o, const char *name, const char *missing)
{
	struct json_object *v = NULL;

	return o && json_object_object_get_ex(o, name, &v) && v ? json_object_get_string(v) : missing;
}

struct follow {
	void (*fn)(void *arg, const char *event, const char *data);
	void *arg;
	char event[32];
};

static void take_line(struct follow *f, const char *line)
{
	if (strncmp(line, "event: ", 7) == 0)
		(void)snprintf(f->event, sizeof(f->event), "%s", line + 7);
	else if (strncmp(line, "data: ", 6) == 0)
		f->fn(f->arg, f->event, line + 6);
	else if (!*line)
		f->event[0] = '\0';
}

int control_follow(const struct control *c, const char *path,
		   void (*fn)(void *arg, const char *event, const char *data), void *arg, struct err *e)
{
	const struct control_call call = { .method = "GET", .path = path };
	_cleanup_proc_ struct proc p = PROC_INIT;
	_cleanup_buf_ struct buf b = BUF_INIT(1u << 20);
	_cleanup_close_ int config = -1;
	struct follow f = { .fn = fn, .arg = arg };
	struct proc_spec s;
	char piece[16384];
	ssize_t n;
	int r = start(&p, &s, c, &call, true, &config, e);

	while (r >= 0 && (n = proc_read(&p, piece, sizeof(piece))) > 0) {
		char *end;

		r = buf_add(&b, piece, (size_t)n);
		while (r >= 0 && b.len > 0 && (end = memchr(b.p, '\n', b.len))) {
			*end = '\0';
			take_line(&f, b.p);
			buf_consume(&b, (size_t)(end - b.p) + 1);
		}
	}
	if (r < 0)
		return r;
	return ended(&p, c, e);
}

int control_escape(struct buf *b, const char *s)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
	int r = 0;

	for (; *s && r >= 0; s++)
		r = strchr(plain, *s) ? buf_add(b, s, 1) : buf_printf(b, "%%%02X", (unsigned char)*s);
	return r;
}
