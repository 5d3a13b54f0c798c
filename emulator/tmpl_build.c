/* One build, from its row to its end.
 *
 *   CREATING --sandbox runs--> RUNNING --each step exits 0--> ENDING --no process left--> SAVING --layer--> ready
 *       `-------------------------+----any failure, a delete, the stop--------+--------------'--> OVER
 *
 * The row is settled, the log ended and every watcher told the moment it is known how the build ends; the
 * object stays (OVER) until what it has asked for has answered: the sandbox's end, the worker's.
 *
 * The upper folder is taken in the very call that says that no process is left in the sandbox: right after
 * it the folder goes to the trash (sandbox_slot.c). */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <utlist.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/idmap.h"
#include "emulator/tmpl-internal.h"
#include "emulator/worker.h"

#define BUILD_CPU_MILLIS 2000u
#define BUILD_MEMORY_MB 4096u
/* Beyond what the emulator's clock can be moved by: a build's limit is its own, by the host's clock. */
#define SANDBOX_TIMEOUT_S UINT32_MAX

static void next_step(struct tmpl_build *b);

/* The account builds of this one run under. */
static void build_account(const char *account, enum plan_id plan, struct account *ret)
{
	const char *tail = strchr(account, '_');

	*ret = (struct account){ .plan = plan, .scopes = SCOPE_READ | SCOPE_WRITE };
	(void)snprintf(ret->id, sizeof(ret->id), SANDBOX_BUILD_ACCOUNT "%.19s", tail ? tail + 1 : account);
}

struct tmpl_build *tmpl_build_find(struct tmpls *t, const char *id)
{
	struct tmpl_build *b;

	DL_FOREACH(t->builds, b)
	{
		if (strcmp(b->row.id, id) == 0)
			return b;
	}
	return NULL;
}

/* ---- its memory ---- */

static void free_memory(struct tmpl_build *b)
{
	if (b->shared)
		(void)munmap(b->shared, sizeof(*b->shared));
	json_object_put(b->steps);
	tmpl_row_clear(&b->row);
	buf_free(&b->tail);
	closep(&b->log.fd);
	free(b);
}

static void on_handle_closed(uv_handle_t *h)
{
	struct tmpl_build *b = h->data;

	if (--b->handles == 0)
		free_memory(b);
}

/* Out of the list, once nothing points at it any more. */
static void leave(struct tmpl_build *b)
{
	DL_DELETE(b->t->builds, b);
	uv_close((uv_handle_t *)&b->limit, on_handle_closed);
	uv_close((uv_handle_t *)&b->soon, on_handle_closed);
	tmpls_check_stopped(b->t);
}

static void on_leave(uv_timer_t *timer)
{
	leave(timer->data);
}

static void tell_watchers(struct tmpl_build *b, bool over)
{
	struct tmpl_watch *w, *next;

	DL_FOREACH_SAFE(b->watches, w, next)
	{
		if (over) {
			DL_DELETE(b->watches, w);
			w->build = NULL;
		}
		w->wake(w->arg);
	}
}

/* ---- the end ---- */

static void on_sandbox_gone(void *arg, const struct err *e, const struct sandbox_row *row);

/* What the build has asked for ends, and then the build. */
static void dispose(struct tmpl_build *b)
{
	struct err e = ERR_INIT;

	b->state = BUILD_OVER;
	(void)uv_timer_stop(&b->limit);
	(void)uv_timer_stop(&b->soon);
	exec_reader_free(TAKE_PTR(b->reader));
	if (b->pending)
		return;
	if (b->sandbox_id[0]) {
		b->pending = true;
		if (sandbox_terminate(b->t->c.sandboxes, &b->account, b->sandbox_id, on_sandbox_gone, b, &e) == 0)
			return;
		log_warn("%s: its sandbox can't be ended: %s", b->row.id, e.msg);
		b->pending = false;
	}
	(void)uv_timer_start(&b->soon, on_leave, 0, 0);
}

static void on_sandbox_gone(void *arg, const struct err *e _unused_, const struct sandbox_row *row _unused_)
{
	struct tmpl_build *b = arg;

	b->pending = false;
	b->sandbox_id[0] = '\0';
	dispose(b);
}

static void settle(struct tmpl_build *b)
{
	struct err e = ERR_INIT;

	b->row.ended_ms = clock_now_ms();
	if (!b->deleted && store_tmpl_update(b->t->c.store, &b->row, &e) < 0)
		log_error("%s: its row can't be written: %s", b->row.id, e.msg);
	tmpl_log_end(&b->log, b->deleted ? NULL : &b->row);
	log_info("%s: %s%s%s", b->row.id, b->deleted ? "deleted" : tmpl_status_name(b->row.status),
		 b->row.error ? ": " : "", b->row.error ? b->row.error : "");
	tell_watchers(b, true);
}

void tmpl_build_fail(struct tmpl_build *b, const char *code, const char *why)
{
	if (b->state == BUILD_OVER)
		return;
	b->row.status = TMPL_FAILED;
	(void)snprintf(b->row.error_code, sizeof(b->row.error_code), "%s", code);
	free(b->row.error);
	b->row.error = strdup(why);
	settle(b);
	dispose(b);
}

/* As the API shows errors: what has no reason may be a strerror with a path of the host, and is for the log. */
static void fail_with(struct tmpl_build *b, const struct err *e)
{
	bool ours = !e->reason && (e->kind == ERR_IO || e->kind == ERR_INTERNAL || e->kind == ERR_NOT_FOUND);

	const char *code = e->reason			? e->reason
			   : e->kind == ERR_FULL	? "disk_full"
			   : e->kind == ERR_TOO_LARGE	? "template_too_large"
			   : e->kind == ERR_CAPACITY	? "capacity"
			   : e->kind == ERR_UNAVAILABLE ? "unavailable"
							: "internal_error";

	if (ours)
		log_error("%s: %s", b->row.id, e->msg);
	tmpl_build_fail(b, code, ours ? "the emulator failed to build it; see its log" : e->msg);
}

void tmpl_build_delete(struct tmpl_build *b)
{
	bool saving = b->state == BUILD_SAVING;

	b->deleted = true;
	if (b->state != BUILD_OVER) {
		settle(b);
		dispose(b);
	}
	/* A worker that makes the layer is not stopped half-way; on_saved removes what it made. */
	if (!saving)
		tmpl_remove_files(b->t, b->row.id);
}

/* ---- a step ---- */

static void keep_tail(struct tmpl_build *b, const char *p, size_t n)
{
	if (n > TMPL_OUTPUT_MAX) {
		p += n - TMPL_OUTPUT_MAX;
		n = TMPL_OUTPUT_MAX;
		b->tail_cut = true;
	}
	if (b->tail.len + n > 2 * (size_t)TMPL_OUTPUT_MAX) {
		memmove(b->tail.p, b->tail.p + b->tail.len - TMPL_OUTPUT_MAX, TMPL_OUTPUT_MAX);
		b->tail.len = TMPL_OUTPUT_MAX;
		b->tail_cut = true;
	}
	if (buf_add(&b->tail, p, n) < 0)
		b->tail_cut = true;
}

static struct json_object *blocked_list(const struct exec_result *r)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < r->n_blocked; i++) {
		const struct exec_blocked *x = &r->blocked[i];
		struct json_object *o = json_object_new_object();

		json_object_object_add(o, "host", x->host[0] ? tmpl_text(x->host, strlen(x->host)) : NULL);
		json_object_object_add(o, "ip", x->ip[0] ? json_object_new_string(x->ip) : NULL);
		json_object_object_add(o, "port", json_object_new_int(x->port));
		json_object_object_add(o, "proto", json_object_new_string(x->proto));
		json_object_object_add(o, "rule", json_object_new_string(x->rule));
		json_object_array_add(list, o);
	}
	return list;
}

static const char *command_of(const struct tmpl_build *b)
{
	return json_object_get_string(json_object_array_get_idx(b->steps, b->step));
}

static void keep_failed_step(struct tmpl_build *b, const struct exec_result *r)
{
	struct json_object *o = json_object_new_object();
	const char *command = command_of(b), *text;
	size_t over = b->tail.len > TMPL_OUTPUT_MAX ? b->tail.len - TMPL_OUTPUT_MAX : 0;

	json_object_object_add(o, "number", json_object_new_int64((int64_t)b->step + 1));
	json_object_object_add(o, "command", tmpl_text(command, strlen(command)));
	json_object_object_add(o, "exit_code", json_object_new_int(r->exit_code));
	json_object_object_add(o, "signal", r->signal ? json_object_new_int(r->signal) : NULL);
	json_object_object_add(o, "reason", json_object_new_string(exec_reason_name(r->reason)));
	json_object_object_add(o, "duration_ms", json_object_new_uint64(r->duration_ms));
	json_object_object_add(o, "output", tmpl_text(b->tail.p ? b->tail.p + over : "", b->tail.len - over));
	json_object_object_add(o, "output_truncated", json_object_new_boolean(b->tail_cut || over > 0));
	json_object_object_add(o, "network_blocked", blocked_list(r));
	text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	free(b->row.failed_step);
	b->row.failed_step = text ? strdup(text) : NULL;
	json_object_put(o);
}

static void step_failed(struct tmpl_build *b, const struct exec_result *r)
{
	char why[128];

	keep_failed_step(b, r);
	if (r->reason == EXEC_TIMEOUT) {
		(void)snprintf(why, sizeof(why), "step %zu was still running after the build's %u s", b->step + 1,
			       b->row.timeout_s);
		tmpl_build_fail(b, "build_timeout", why);
		return;
	}
	if (r->reason == EXEC_TERMINATED) {
		(void)snprintf(why, sizeof(why), "the build's sandbox ended in step %zu", b->step + 1);
		tmpl_build_fail(b, "sandbox_lost", why);
		return;
	}
	if (r->reason == EXEC_OOM)
		(void)snprintf(why, sizeof(why), "step %zu ran out of memory", b->step + 1);
	else if (r->signal)
		(void)snprintf(why, sizeof(why), "step %zu was ended by signal %d", b->step + 1, r->signal);
	else
		(void)snprintf(why, sizeof(why), "step %zu ended with exit code %d%s", b->step + 1, r->exit_code,
			       r->n_blocked ? "; the network policy refused something" : "");
	tmpl_build_fail(b, "step_failed", why);
}

static void on_soon(uv_timer_t *timer)
{
	next_step(timer->data);
}

static void step_ended(struct tmpl_build *b, const struct exec_result *r)
{
	tmpl_log_step_end(&b->log, b->step + 1, r);
	if (r->exit_code != 0 || (r->reason != EXEC_EXITED && r->reason != EXEC_OOM)) {
		step_failed(b, r);
		return;
	}
	exec_reader_free(TAKE_PTR(b->reader));
	b->step++;
	/* Not from inside a reader's call. */
	(void)uv_timer_start(&b->soon, on_soon, 0, 0);
}

static void on_output(void *arg)
{
	struct tmpl_build *b = arg;
	struct exec_event ev;

	while (b->reader && exec_reader_next(b->reader, &ev)) {
		if (ev.kind == EXEC_EVENT_END) {
			step_ended(b, ev.result);
			break;
		}
		if (ev.kind == EXEC_EVENT_GAP) {
			b->log.missed += ev.missed;
			b->tail_cut = true;
			continue;
		}
		keep_tail(b, ev.p, ev.n);
		tmpl_log_output(&b->log, b->step + 1, ev.stream, ev.p, ev.n);
	}
	tell_watchers(b, false);
}

/* ---- the layer ---- */

static int save_main(void *arg)
{
	struct tmpl_build *b = arg;
	const struct idmap *map = b->t->c.idmap;
	struct template_custom_spec s = {
		.state_fd = b->t->c.state_fd,
		.sandbox_uid = idmap_sandbox_uid(map, 0),
		.single_id = map->kind == IDMAP_SINGLE,
		.id = b->row.id,
		.name = b->row.name,
		.base = b->row.base,
		.base_digest = b->base_digest,
		.n_steps = b->n_steps,
	};

	if (worker_keep_only(&s.state_fd, 1) < 0)
		return 1;
	return template_custom_capture(&s, &b->shared->r, &b->shared->e) < 0;
}

static void drop_taken(struct tmpl_build *b)
{
	struct err e = ERR_INIT;

	if (template_custom_drop(b->t->c.state_fd, b->row.id, &e) < 0)
		log_warn("%s: %s", b->row.id, e.msg);
	sandboxes_kick_trash(b->t->c.sandboxes);
}

static void on_saved(void *arg, int status)
{
	struct tmpl_build *b = arg;
	struct tmpls *t = b->t;
	struct err e = ERR_INIT;

	t->n_workers--;
	b->pending = false;
	if (status != 0) {
		e = b->shared->e;
		e.msg[sizeof(e.msg) - 1] = '\0';
		if (e.kind == ERR_NONE)
			(void)err_set(&e, ERR_INTERNAL, EIO, NULL,
				      "the worker that makes the layer ended with status %d", status);
		drop_taken(b);
	}
	if (b->state == BUILD_OVER) {
		if (b->deleted)
			tmpl_remove_files(t, b->row.id);
		dispose(b);
		return;
	}
	if (status != 0) {
		fail_with(b, &e);
		return;
	}
	b->row.status = TMPL_READY;
	b->row.layer_bytes = b->shared->r.layer_bytes;
	b->row.size_bytes = b->shared->r.size_bytes;
	(void)snprintf(b->row.digest, sizeof(b->row.digest), "%.79s", b->shared->r.digest);
	settle(b);
	dispose(b);
}

static int start_save(struct tmpl_build *b, struct err *e)
{
	int r = template_custom_take(b->t->c.state_fd, b->slot, b->row.id, e);

	if (r < 0)
		return r;
	r = worker_run(b->t->c.loop, save_main, b, on_saved, b, e);
	if (r < 0) {
		drop_taken(b);
		return r;
	}
	b->state = BUILD_SAVING;
	b->pending = true;
	b->t->n_workers++;
	tmpl_log_note(&b->log, "the steps are through; making the layer");
	tell_watchers(b, false);
	return 0;
}

/* No process is left in the sandbox. */
static void on_steps_over(void *arg, const struct err *err, const struct sandbox_row *row)
{
	struct tmpl_build *b = arg;
	struct err e = ERR_INIT;

	b->pending = false;
	b->sandbox_id[0] = '\0';
	if (b->state == BUILD_OVER) {
		dispose(b);
		return;
	}
	if (err)
		e = *err;
	else if (strcmp(row->termination_reason, "user") != 0)
		(void)err_set(&e, ERR_INTERNAL, EIO, "sandbox_lost", "the build's sandbox ended by itself (%s)",
			      row->termination_reason);
	if (e.kind != ERR_NONE || start_save(b, &e) < 0)
		fail_with(b, &e);
}

/* ---- from step to step ---- */

static void end_sandbox(struct tmpl_build *b)
{
	struct err e = ERR_INIT;

	b->state = BUILD_ENDING;
	b->pending = true;
	if (sandbox_terminate(b->t->c.sandboxes, &b->account, b->sandbox_id, on_steps_over, b, &e) < 0) {
		b->pending = false;
		fail_with(b, &e);
	}
}

static void next_step(struct tmpl_build *b)
{
	int64_t left_s = (b->deadline_us - clock_mono_us() + 999999) / 1000000;
	struct exec_reader_config rc = { .primary = true, .wake = on_output, .arg = b };
	struct exec_spec s = { .cwd = "/", .streamed = true, .timeout_s = (uint32_t)MAX(left_s, 1) };
	struct err e = ERR_INIT;
	struct exec *x;

	if (b->step == b->n_steps) {
		end_sandbox(b);
		return;
	}
	s.command = command_of(b);
	s.timeout_s = MIN(s.timeout_s, (uint32_t)EXEC_MAX_TIMEOUT_S);
	buf_reset(&b->tail);
	b->tail_cut = false;
	tmpl_log_step(&b->log, b->step + 1, s.command);
	tell_watchers(b, false);
	if (exec_start(b->t->c.sandboxes, &b->account, b->sandbox_id, &s, NULL, &x, &e) < 0 ||
	    exec_reader_new(x, &rc, &b->reader, &e) < 0)
		fail_with(b, &e);
}

/* It bounds what no step's own limit does; a step that runs is ended by its own, and says more. */
static void on_limit(uv_timer_t *timer)
{
	struct tmpl_build *b = timer->data;
	char why[96];

	(void)snprintf(why, sizeof(why), "the build was not through after %u s", b->row.timeout_s);
	if (b->state != BUILD_SAVING)
		tmpl_build_fail(b, "build_timeout", why);
}

static void on_created(void *arg, const struct err *e, const struct sandbox_row *row)
{
	struct tmpl_build *b = arg;

	b->pending = false;
	if (row) {
		(void)snprintf(b->sandbox_id, sizeof(b->sandbox_id), "%s", row->id);
		(void)snprintf(b->slot, sizeof(b->slot), "%s", row->slot);
	}
	if (b->state == BUILD_OVER) {
		dispose(b);
	} else if (e) {
		fail_with(b, e);
	} else {
		b->state = BUILD_RUNNING;
		next_step(b);
	}
}

/* ---- the beginning ---- */

static struct tmpl_build *build_new(struct tmpls *t, const struct tmpl_row *row, const char *base_digest)
{
	struct tmpl_build *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	*b = (struct tmpl_build){ .log = { .fd = -1 }, .tail = BUF_INIT(2 * (size_t)TMPL_OUTPUT_MAX) };
	b->shared = mmap(NULL, sizeof(*b->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b->shared == MAP_FAILED)
		b->shared = NULL;
	b->steps = json_tokener_parse(row->steps);
	if (!b->shared || !b->steps || tmpl_row_copy(row, &b->row) < 0) {
		free_memory(b);
		return NULL;
	}
	b->n_steps = json_object_array_length(b->steps);
	(void)snprintf(b->base_digest, sizeof(b->base_digest), "%s", base_digest);
	b->t = t;
	(void)uv_timer_init(t->c.loop, &b->limit);
	(void)uv_timer_init(t->c.loop, &b->soon);
	b->limit.data = b->soon.data = b;
	b->handles = 2;
	DL_APPEND(t->builds, b);
	return b;
}

int tmpl_build_start(struct tmpls *t, const struct tmpl_row *row, const struct account *a, const char *base_digest,
		     struct err *e)
{
	const struct plan *p = plan_get(a->plan);
	struct sandbox_spec s = {
		.template_name = row->base,
		.cpu_millis = MIN(BUILD_CPU_MILLIS, p->max_cpu_millis),
		.memory_mb = MIN(BUILD_MEMORY_MB, p->max_memory_mb),
		.network = row->network,
		.timeout_s = SANDBOX_TIMEOUT_S,
		.build = true,
	};
	struct tmpl_build *b = build_new(t, row, base_digest);
	int r;

	if (!b)
		return err_errno(e, ENOMEM, "can't build a template");
	build_account(a->id, a->plan, &b->account);
	b->deadline_us = clock_mono_us() + (int64_t)row->timeout_s * 1000000;
	r = tmpl_log_start(&b->log, t->c.state_fd, row->id, e);
	if (r >= 0) {
		b->pending = true;
		r = sandbox_create(t->c.sandboxes, &b->account, &s, on_created, b, e);
	}
	if (r < 0) {
		closep(&b->log.fd);
		tmpl_log_delete(t->c.state_fd, row->id);
		leave(b);
		return r;
	}
	(void)uv_timer_start(&b->limit, on_limit, (uint64_t)row->timeout_s * 1000 + 5000, 0);
	return 0;
}
