/* What is remembered of commands that have ended: the last REGISTRY_MAX of a sandbox, REGISTRY_MS long,
 * and all of them together no more than REGISTRY_BYTES of output; the oldest goes first. With its sandbox
 * all of it goes. A reader keeps the one it reads in memory. */

#include <errno.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/exec-internal.h"

static void forget(struct exec *x)
{
	struct sandboxes *m = x->m;

	DL_DELETE(x->sb->ended, x);
	x->sb->n_ended--;
	DL_DELETE2(m->ended, x, prev_ended, next_ended);
	m->ended_bytes -= log_memory(&x->log);
	/* A time-out's grace that is still running is cut short. */
	if (x->phase == PHASE_TERM)
		exec_signal_tree(x, SIGKILL);
	x->phase = PHASE_KILL;
	(void)uv_timer_stop(&x->timer);
	x->sb = NULL;
	exec_put(x);
}

static void on_timer(uv_timer_t *t);

void registry_expire(struct sandboxes *m)
{
	int64_t now = clock_now_us();

	while (m->ended && (now - m->ended->ended_us) / 1000 >= REGISTRY_MS)
		forget(m->ended);
	while (m->ended && m->ended_bytes > REGISTRY_BYTES)
		forget(m->ended);
	if (!m->ended)
		(void)uv_timer_stop(&m->ended_timer);
	else if (!uv_is_active((uv_handle_t *)&m->ended_timer))
		(void)uv_timer_start(&m->ended_timer, on_timer, REGISTRY_MS / 10, REGISTRY_MS / 10);
}

static void on_timer(uv_timer_t *t)
{
	registry_expire(t->data);
}

void registry_add(struct exec *x)
{
	struct sandbox *sb = x->sb;
	struct sandboxes *m = x->m;

	DL_APPEND(sb->ended, x);
	sb->n_ended++;
	DL_APPEND2(m->ended, x, prev_ended, next_ended);
	m->ended_bytes += log_memory(&x->log);
	x->refs++; /* it may be the one to go */
	if (sb->n_ended > REGISTRY_MAX)
		forget(sb->ended);
	registry_expire(m);
	exec_put(x);
}

void registry_forget_all(struct sandbox *sb)
{
	while (sb->ended)
		forget(sb->ended);
	registry_expire(sb->m);
}

/* ---- looking ---- */

/* In memory, whatever it is doing; else as sandbox_find_running says. */
static int find_sandbox(struct sandboxes *m, const struct account *a, const char *id, struct sandbox **ret,
			struct err *e)
{
	*ret = sandbox_find(m, a, id);
	return *ret ? 0 : sandbox_find_running(m, a, id, ret, e);
}

static struct exec *find_in(struct exec *list, const char *id)
{
	struct exec *x;

	DL_FOREACH(list, x)
	{
		if (strcmp(x->name, id) == 0)
			return x;
	}
	return NULL;
}

int exec_find(struct sandboxes *m, const struct account *a, const char *sandbox_id, const char *id, struct exec **ret,
	      struct err *e)
{
	struct sandbox *sb;
	struct exec *x;
	int r = find_sandbox(m, a, sandbox_id, &sb, e);

	if (r < 0)
		return r;
	registry_expire(m);
	x = find_in(sb->execs, id);
	if (!x)
		x = find_in(sb->ended, id);
	if (!x)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "exec_not_found",
			       "exec \"%.40s\" does not exist in this sandbox, or ended too long ago", id);
	*ret = x;
	return 0;
}

void exec_get_info(const struct exec *x, struct exec_info *ret)
{
	*ret = (struct exec_info){
		.id = x->name,
		.args = x->args,
		.n_args = x->n_args,
		.shell = x->shell,
		.args_cut = x->args_cut,
		.running = !x->finished,
		.pid = x->pid,
		.started_ms = x->started_ms,
		.ended_ms = x->ended_ms,
		.pty = x->spec.pty,
		.streamed = x->spec.streamed,
		.background = x->spec.background,
		.detach = x->spec.detach,
		.stdin_open = x->in.open,
		.timeout_s = x->spec.timeout_s,
		.bytes = { x->log.bytes[0], x->log.bytes[1] },
		.last_id = log_end(&x->log) + (x->finished ? 2 : 1),
		.result = x->finished ? &x->res : NULL,
	};
}

/* Ids sort by time. */
static int newest_first(const void *a, const void *b)
{
	return strcmp((*(const struct exec *const *)b)->name, (*(const struct exec *const *)a)->name);
}

int exec_each(struct sandboxes *m, const struct account *a, const char *sandbox_id,
	      int (*fn)(void *arg, const struct exec_info *i), void *arg, struct err *e)
{
	struct exec *all[SANDBOX_MAX_EXECS + REGISTRY_MAX], *x;
	struct exec_info info;
	struct sandbox *sb;
	size_t n = 0;
	int r = find_sandbox(m, a, sandbox_id, &sb, e);

	if (r < 0)
		return r;
	registry_expire(m);
	DL_FOREACH(sb->execs, x)
	{
		all[n++] = x;
	}
	DL_FOREACH(sb->ended, x)
	{
		all[n++] = x;
	}
	qsort(all, n, sizeof(void *), newest_first);
	for (size_t i = 0; i < n && r >= 0; i++) {
		exec_get_info(all[i], &info);
		r = fn(arg, &info);
	}
	return r;
}

int exec_text(const struct exec *x, enum exec_stream s, struct buf *ret, bool *ret_truncated)
{
	return log_text(&x->log, s, ret, ret_truncated);
}
