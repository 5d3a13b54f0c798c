/* A build's log: one JSON object a line in templates/<id>.log, written as it comes, so that any number of
 * readers read it from any place, a restart keeps it, and none of it is in memory. A line's number for a
 * reader is where it ends in the file.
 *
 * Output is hostile: it is cut off at TMPL_LOG_MAX bytes, and what is not UTF-8 becomes U+FFFD. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/tmpl-internal.h"

static void path_of(const char *id, char ret[static 64])
{
	(void)text_format(ret, 64, "templates/%.40s.log", id);
}

int tmpl_log_start(struct tmpl_log *l, int state_fd, const char *id, struct err *e)
{
	char path[64];

	path_of(id, path);
	*l = (struct tmpl_log){ .fd = -1 };
	l->fd = openat(state_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	return l->fd < 0 ? err_errno(e, errno, "cannot make the build's log") : 0;
}

int tmpl_log_reopen(struct tmpl_log *l, int state_fd, const char *id)
{
	char path[64], last = '\n';
	off_t end;

	path_of(id, path);
	*l = (struct tmpl_log){ .fd = -1 };
	l->fd = openat(state_fd, path, O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (l->fd < 0)
		return -errno;
	end = lseek(l->fd, 0, SEEK_END);
	if (end > 0 && pread(l->fd, &last, 1, end - 1) == 1 && last != '\n')
		(void)fd_write_all(l->fd, "\n", 1);
	return 0;
}

int tmpl_log_open_read(int state_fd, const char *id, struct err *e)
{
	char path[64];
	int fd;

	path_of(id, path);
	fd = openat(state_fd, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "log_not_found", "the log of template %.40s is gone", id);
	return fd < 0 ? err_errno(e, errno, "cannot open the build's log") : fd;
}

void tmpl_log_delete(int state_fd, const char *id)
{
	char path[64];

	path_of(id, path);
	if (unlinkat(state_fd, path, 0) < 0 && errno != ENOENT)
		log_warn("%s: its log can't be removed: %s", id, strerror(errno));
}

struct json_object *tmpl_text(const char *p, size_t n)
{
	_cleanup_buf_ struct buf b = BUF_INIT(3 * n + 1);

	if (n == 0 || text_utf8_sanitize(p, n, true, &b, NULL) < 0)
		return json_object_new_string("");
	return json_object_new_string_len(b.p ? b.p : "", (int)b.len);
}

static struct json_object *line_new(const char *type, size_t step)
{
	struct json_object *o = json_object_new_object();
	char iso[CLOCK_ISO_SIZE];

	clock_iso(clock_now_ms(), iso);
	json_object_object_add(o, "t", json_object_new_string(iso));
	json_object_object_add(o, "type", json_object_new_string(type));
	if (step > 0)
		json_object_object_add(o, "step", json_object_new_int64((int64_t)step));
	return o;
}

/* Takes o. A disk that is full loses lines, not the build. */
static void put(struct tmpl_log *l, struct json_object *o)
{
	const char *s = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	_cleanup_buf_ struct buf b = BUF_INIT(1u << 20);
	int r = s ? buf_puts(&b, s) : -ENOMEM;

	json_object_put(o);
	if (r >= 0)
		r = buf_puts(&b, "\n");
	if (l->fd < 0 || l->broken)
		return;
	if (r >= 0)
		r = fd_write_all(l->fd, b.p, b.len);
	if (r < 0) {
		log_warn("a build's log can't be written any more: %s", strerror(-r));
		l->broken = true;
	}
}

void tmpl_log_step(struct tmpl_log *l, size_t number, const char *command)
{
	struct json_object *o = line_new("step", number);

	json_object_object_add(o, "command", tmpl_text(command, strlen(command)));
	put(l, o);
}

void tmpl_log_output(struct tmpl_log *l, size_t number, enum exec_stream s, const char *p, size_t n)
{
	struct json_object *o;

	if (l->bytes + n > TMPL_LOG_MAX) {
		l->missed += n;
		return;
	}
	l->bytes += n;
	o = line_new("output", number);
	json_object_object_add(o, "stream", json_object_new_string(s == EXEC_STDERR ? "stderr" : "stdout"));
	json_object_object_add(o, "data", tmpl_text(p, n));
	put(l, o);
}

void tmpl_log_step_end(struct tmpl_log *l, size_t number, const struct exec_result *r)
{
	struct json_object *o = line_new("step_end", number);

	json_object_object_add(o, "exit_code", json_object_new_int(r->exit_code));
	json_object_object_add(o, "reason", json_object_new_string(exec_reason_name(r->reason)));
	json_object_object_add(o, "duration_ms", json_object_new_uint64(r->duration_ms));
	if (l->missed > 0)
		json_object_object_add(o, "missed_bytes", json_object_new_uint64(l->missed));
	l->missed = 0;
	put(l, o);
}

void tmpl_log_note(struct tmpl_log *l, const char *text)
{
	struct json_object *o = line_new("note", 0);

	json_object_object_add(o, "text", json_object_new_string(text));
	put(l, o);
}

void tmpl_log_end(struct tmpl_log *l, const struct tmpl_row *row)
{
	struct json_object *o = line_new("end", 0);

	json_object_object_add(o, "status", json_object_new_string(row ? tmpl_status_name(row->status) : "deleted"));
	if (row && row->status == TMPL_FAILED) {
		json_object_object_add(o, "code", json_object_new_string(row->error_code));
		json_object_object_add(o, "error", json_object_new_string(row->error ? row->error : ""));
	}
	json_object_object_add(o, "is_final", json_object_new_boolean(true));
	put(l, o);
	closep(&l->fd);
}
