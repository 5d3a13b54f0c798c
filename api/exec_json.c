#include "api/exec_json.h"

#include <signal.h>
#include <string.h>
#include <strings.h>

#include "api/json_text.h"
#include "api/sandbox_json.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"

#define OUTCOME_MAX (128u << 10) /* with EXEC_BLOCKED_MAX names of hosts */

void exec_signal_name(int sig, char ret[static EXEC_SIGNAL_NAME_SIZE])
{
	const char *name = sigabbrev_np(sig);

	if (name)
		(void)snprintf(ret, EXEC_SIGNAL_NAME_SIZE, "SIG%s", name);
	else
		(void)snprintf(ret, EXEC_SIGNAL_NAME_SIZE, "SIG%d", sig);
}

int exec_signal_number(const char *name)
{
	if (strncasecmp(name, "SIG", 3) == 0)
		name += 3;
	for (int sig = 1; sig < SIGRTMIN; sig++) {
		const char *known = sigabbrev_np(sig);

		if (known && strcasecmp(known, name) == 0)
			return sig;
	}
	return 0;
}

/* A signal's name in quotes, or null. */
static void quoted_signal(int sig, char ret[static EXEC_SIGNAL_NAME_SIZE + 2])
{
	char name[EXEC_SIGNAL_NAME_SIZE] = "";

	if (sig != 0)
		exec_signal_name(sig, name);
	(void)snprintf(ret, EXEC_SIGNAL_NAME_SIZE + 2, sig != 0 ? "\"%s\"" : "null%s", name);
}

/* What the reason rests on. exit_code is here only what exit(3) was given. */
static int add_evidence(struct buf *b, const struct exec_result *r, const char *sig)
{
	const char *by = exec_ender_name(r->by), *quote = by ? "\"" : "";
	char code[16] = "null", limit[16] = "null";

	if (r->signal == 0)
		(void)snprintf(code, sizeof(code), "%d", r->exit_code);
	if (r->timeout_s != EXEC_NO_TIMEOUT)
		(void)snprintf(limit, sizeof(limit), "%u", r->timeout_s);
	return buf_printf(b,
			  ",\"evidence\":{\"exit_code\":%s,\"signal\":%s,\"ended_by\":%s%s%s,\"timeout_seconds\":%s,"
			  "\"oom_kills\":%llu,\"pids_denied\":%llu}",
			  code, sig, quote, by ? by : "null", quote, limit, (unsigned long long)r->oom_kills,
			  (unsigned long long)r->pids_denied);
}

/* A string member, null when empty. */
static int add_nullable(struct buf *b, const char *name, const char *value)
{
	int r = buf_printf(b, "\"%s\":", name);

	if (r < 0)
		return r;
	return *value ? json_text_string(b, value, strlen(value), true, NULL) : buf_puts(b, "null");
}

int exec_json_blocked(struct buf *b, const char *name, const struct exec_result *x)
{
	int r = buf_printf(b, "\"%s\":[", name);

	for (size_t i = 0; i < x->n_blocked && r >= 0; i++) {
		const struct exec_blocked *en = &x->blocked[i];

		r = buf_puts(b, i ? ",{" : "{");
		if (r >= 0)
			r = add_nullable(b, "host", en->host);
		if (r >= 0)
			r = buf_puts(b, ",");
		if (r >= 0)
			r = add_nullable(b, "ip", en->ip);
		if (r >= 0)
			r = en->port ? buf_printf(b, ",\"port\":%u", en->port) : buf_puts(b, ",\"port\":null");
		if (r >= 0)
			r = buf_printf(b, ",\"proto\":\"%s\",", en->proto);
		if (r >= 0)
			r = add_nullable(b, "rule", en->rule);
		if (r >= 0)
			r = buf_puts(b, ",");
		if (r >= 0)
			r = add_nullable(b, "exec", en->owner);
		if (r >= 0)
			r = buf_puts(b, "}");
	}
	return r < 0 ? r : buf_puts(b, "]");
}

int exec_json_outcome(struct buf *b, const struct exec_result *r)
{
	char sig[EXEC_SIGNAL_NAME_SIZE + 2];
	int k;

	quoted_signal(r->signal, sig);
	k = buf_printf(b, "\"exit_code\":%d,\"duration_ms\":%llu,\"reason\":\"%s\",\"signal\":%s", r->exit_code,
		       (unsigned long long)r->duration_ms, exec_reason_name(r->reason), sig);
	if (k >= 0)
		k = add_evidence(b, r, sig);
	if (k >= 0 && r->background < 0)
		k = buf_puts(b, ",\"background_processes\":null");
	else if (k >= 0)
		k = buf_printf(b, ",\"background_processes\":%d", r->background);
	return k;
}

/* ---- the state ---- */

/* The command came as UTF-8; where it was cut may have split a character. */
static struct json_object *clean(const char *s)
{
	_cleanup_buf_ struct buf b = BUF_INIT(8192);

	if (text_utf8_sanitize(s, strlen(s), true, &b, NULL) < 0 || !b.p)
		return json_object_new_string("");
	return json_object_new_string_len(b.p, (int)b.len);
}

static struct json_object *command_of(const struct exec_info *i)
{
	struct json_object *list;
	const char *p = i->args;

	if (i->shell)
		return clean(p ? p : "");
	list = json_object_new_array();
	for (size_t n = 0; n < i->n_args; n++, p += strlen(p) + 1)
		json_object_array_add(list, clean(p));
	return list;
}

static void add_outcome(struct json_object *o, const struct exec_result *r)
{
	_cleanup_buf_ struct buf b = BUF_INIT(OUTCOME_MAX);
	struct json_object *parsed;

	if (buf_puts(&b, "{") < 0 || exec_json_outcome(&b, r) < 0 || buf_puts(&b, ",") < 0 ||
	    exec_json_blocked(&b, "network_blocked", r) < 0 || buf_puts(&b, "}") < 0)
		return;
	parsed = json_tokener_parse(b.p);
	json_object_object_foreach(parsed, key, value)
	{
		json_object_object_add(o, key, json_object_get(value));
	}
	json_object_put(parsed);
}

static void add_no_outcome(struct json_object *o)
{
	static const char *const names[] = { "exit_code", "duration_ms",	  "reason",	    "signal",
					     "evidence",  "background_processes", "network_blocked" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		json_object_object_add(o, names[i], NULL);
}

static struct json_object *size_of(struct exec_size s)
{
	struct json_object *o;

	if (s.rows == 0)
		return NULL;
	o = json_object_new_object();
	json_object_object_add(o, "rows", json_object_new_int(s.rows));
	json_object_object_add(o, "cols", json_object_new_int(s.cols));
	return o;
}

struct json_object *exec_json_info(const struct exec_info *i)
{
	struct json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	json_add_text(o, "exec_id", i->id);
	json_add_text(o, "state", i->running ? "running" : "ended");
	json_object_object_add(o, "command", command_of(i));
	json_object_object_add(o, "command_truncated", json_object_new_boolean(i->args_cut));
	json_object_object_add(o, "pid", i->pid ? json_object_new_int(i->pid) : NULL);
	json_object_object_add(o, "pty", size_of(i->pty));
	json_object_object_add(o, "background", json_object_new_boolean(i->background));
	json_object_object_add(o, "stream", json_object_new_boolean(i->streamed));
	json_object_object_add(o, "detach_on_disconnect", json_object_new_boolean(i->detach));
	json_object_object_add(o, "stdin_open", json_object_new_boolean(i->stdin_open));
	json_object_object_add(o, "timeout_seconds",
			       i->timeout_s == EXEC_NO_TIMEOUT ? NULL : json_object_new_int64(i->timeout_s));
	json_add_time(o, "started_at", i->started_ms);
	json_add_time(o, "ended_at", i->ended_ms);
	json_object_object_add(o, "stdout_bytes", json_object_new_uint64(i->bytes[EXEC_STDOUT]));
	json_object_object_add(o, "stderr_bytes", json_object_new_uint64(i->bytes[EXEC_STDERR]));
	json_object_object_add(o, "last_seq", json_object_new_uint64(i->last_id));
	if (i->result)
		add_outcome(o, i->result);
	else
		add_no_outcome(o);
	return o;
}
