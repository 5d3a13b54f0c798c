/* The manager itself: what it holds, who may see what, and its own end. */

#include "emulator/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"
#include "rootfs/tree.h"

/* A stop that waits for nothing but the trash: says so after the one, gives up after the other. */
#define STOP_SILENT_MS 1000
#define STOP_TRASH_MS 7000

static const char lost_text[] = "the emulator stopped without ending it";

static void on_handle_closed(uv_handle_t *h)
{
	struct sandboxes *m = h->data;

	m->handles--;
	sandboxes_maybe_free(m);
}

static void add_timer(struct sandboxes *m, uv_timer_t *t)
{
	(void)uv_timer_init(m->c.loop, t);
	t->data = m;
	m->handles++;
}

int sandboxes_new(const struct sandboxes_config *c, struct sandboxes **ret, struct err *e)
{
	struct sandboxes *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return err_errno(e, ENOMEM, "can't start");
	m->c = *c;
	m->next_egress = -1;
	if (m->c.stop_trash_ms == 0)
		m->c.stop_trash_ms = STOP_TRASH_MS;
	m->scratch = malloc(SANDBOX_SCRATCH_SIZE);
	m->null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (m->null_fd < 0 || !m->scratch || meter_new(c->store, &m->meter) < 0) {
		r = err_errno(e, m->null_fd < 0 ? errno : ENOMEM, "can't start");
		closep(&m->null_fd);
		free(m->scratch);
		free(m);
		return r;
	}
	/* A command that closes its stdin must not end the daemon: write(2) says EPIPE instead. */
	(void)signal(SIGPIPE, SIG_IGN);
	exec_positions_open(m, c->positions_fd);
	add_timer(m, &m->soon);
	add_timer(m, &m->linger_timer);
	add_timer(m, &m->ended_timer);
	add_timer(m, &m->pool_timer);
	add_timer(m, &m->trash_timer);
	add_timer(m, &m->stop_timer);
	add_timer(m, &m->jobs_timer);
	add_timer(m, &m->meter_timer);
	add_timer(m, &m->sync_timer);
	add_timer(m, &m->look_timer);
	*ret = m;
	return sandboxes_net_start(m, e);
}

static void on_died(void *arg, const char *slot, int status)
{
	slot_on_died(arg, slot, status);
}

static void on_lost(void *arg)
{
	log_error("the keeper is gone, and every sandbox with it");
	slot_on_keeper_lost(arg);
}

static void on_egress(void *arg, int sock, const char *why)
{
	sandboxes_net_replace(arg, sock, why);
}

void sandboxes_keeper_events(struct sandboxes *m, struct keeper_events *ret)
{
	*ret = (struct keeper_events){ .died = on_died, .lost = on_lost, .egress = on_egress, .arg = m };
}

void sandboxes_set_keeper(struct sandboxes *m, struct keeper *k)
{
	m->keeper = k;
	m->keeper_lost = !k;
}

void sandboxes_start(struct sandboxes *m)
{
	pool_start(m);
	sandboxes_meter_start(m);
	sandboxes_look_start(m);
}

/* ---- looking things up ---- */

struct sandbox *sandbox_find(struct sandboxes *m, const struct account *a, const char *id)
{
	struct sandbox *sb;

	HASH_FIND(hh, m->by_id, id, strlen(id), sb);
	if (!sb || sb->row.status == SANDBOX_PAUSED) {
		sandboxes_look(m);
		HASH_FIND(hh, m->by_id, id, strlen(id), sb);
	}
	return sb && strcmp(sb->row.account, a->id) == 0 ? sb : NULL;
}

static int not_found(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, ENOENT, "sandbox_not_found", "sandbox \"%.40s\" does not exist", id);
}

static bool is_over(enum sandbox_status s)
{
	return s == SANDBOX_TERMINATED || s == SANDBOX_FAILED;
}

int sandbox_stored_row(struct sandboxes *m, const struct account *a, const char *id, struct sandbox_row *ret,
		       struct err *e)
{
	const struct sandbox_row *unsaved = sandboxes_unsaved(m, id);
	struct sandbox_row row = { 0 };
	struct sandbox *sb;
	int r;

	HASH_FIND(hh, m->by_id, id, strlen(id), sb);
	if (sb || strlen(id) >= SANDBOX_ID_SIZE)
		return not_found(id, e); /* alive, so another account's */
	r = unsaved ? sandbox_row_copy(unsaved, &row) : store_sandbox_get(m->c.store, id, &row, e);
	if (r < 0)
		return e && e->kind != ERR_NOT_FOUND ? r : not_found(id, e);
	if (strcmp(row.account, a->id) != 0) {
		sandbox_row_clear(&row);
		return not_found(id, e);
	}
	if (!is_over(row.status)) {
		/* Its last write failed (a full disk). The truth is that nothing of it is left. */
		row.status = SANDBOX_FAILED;
		(void)snprintf(row.termination_reason, sizeof(row.termination_reason), "failed");
		if (row.terminated_ms == 0)
			row.terminated_ms = clock_now_ms();
		if (!row.failure)
			row.failure = strdup(lost_text);
		(void)store_sandbox_update(m->c.store, &row, NULL);
	}
	*ret = row;
	return 0;
}

int sandbox_get(struct sandboxes *m, const struct account *a, const char *id, struct sandbox_row *ret, struct err *e)
{
	struct sandbox *sb = sandbox_find(m, a, id);

	if (!sb)
		return sandbox_stored_row(m, a, id, ret, e);
	if (sandbox_row_copy(&sb->row, ret) < 0)
		return err_errno(e, ENOMEM, "can't read the sandbox");
	return 0;
}

int sandbox_find_running(struct sandboxes *m, const struct account *a, const char *id, struct sandbox **ret,
			 struct err *e)
{
	struct sandbox *sb = sandbox_find(m, a, id);
	struct sandbox_row row = { 0 };
	enum sandbox_status status;
	int r;

	if (sb) {
		status = sb->row.status;
	} else {
		r = sandbox_stored_row(m, a, id, &row, e);
		if (r < 0)
			return r;
		status = row.status;
		sandbox_row_clear(&row);
	}
	if (!sb || status != SANDBOX_RUNNING || sb->init_lost)
		return err_set(e, ERR_NOT_READY, EBUSY, "sandbox_not_ready", "sandbox %.40s is %s, not running", id,
			       status == SANDBOX_RUNNING ? "ending" : sandbox_status_name(status));
	*ret = sb;
	return 0;
}

int sandbox_root(struct sandboxes *m, const struct account *a, const char *id, struct err *e)
{
	struct sandbox *sb;
	int r, fd;

	r = sandbox_find_running(m, a, id, &sb, e);
	if (r < 0)
		return r;
	fd = fcntl(sb->root_fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? err_errno(e, errno, "can't open the sandbox's root") : fd;
}

void sandboxes_count(const struct sandboxes *m, struct sandboxes_counts *ret)
{
	const struct sandbox *sb, *next;

	*ret = (struct sandboxes_counts){
		.live = HASH_COUNT(m->by_id),
		.execs = m->n_execs,
		.warm = m->n_pool,
		.created = m->created,
		.terminated = m->terminated,
		.failed = m->failed,
	};
	HASH_ITER(hh, m->by_id, sb, next)
	ret->paused += sb->row.status == SANDBOX_PAUSED;
}

/* ---- answers from the loop ---- */

static void run_deferred(uv_timer_t *t)
{
	struct sandboxes *m = t->data;
	struct deferred *d = TAKE_PTR(m->deferred), *next;

	for (; d; d = next) {
		next = d->next;
		d->done(d->arg, NULL, &d->row);
		sandbox_row_clear(&d->row);
		free(d);
	}
	sandboxes_check_stopped(m);
}

int sandbox_defer(struct sandboxes *m, sandbox_done_fn done, void *arg, struct sandbox_row *row)
{
	struct deferred *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	*d = (struct deferred){ .done = done, .arg = arg, .row = *row };
	*row = (struct sandbox_row){ 0 };
	LL_APPEND(m->deferred, d);
	(void)uv_timer_start(&m->soon, run_deferred, 0, 0);
	return 0;
}

/* ---- the manager's own end ---- */

static void stopped(struct sandboxes *m)
{
	void (*fn)(void *arg) = m->stopped;

	m->stopped = NULL;
	(void)uv_timer_stop(&m->stop_timer);
	if (fn)
		fn(m->stopped_arg);
}

static void on_stop_check(uv_timer_t *t)
{
	stopped(t->data);
}

static void on_stop_limit(uv_timer_t *t)
{
	struct sandboxes *m = t->data;

	log_error("the stop takes too long: %u sandboxes and %u slots are left to the next start", HASH_COUNT(m->by_id),
		  HASH_COUNT(m->slots));
	stopped(m);
}

static void on_stop_trash_limit(uv_timer_t *t)
{
	log_info("what ended sandboxes have on the disk is not removed yet: the rest is left to the next start");
	stopped(t->data);
}

static void on_stop_trash(uv_timer_t *t)
{
	struct sandboxes *m = t->data;

	log_info("every sandbox has ended; removing what they have on the disk");
	(void)uv_timer_start(&m->stop_timer, on_stop_trash_limit, m->c.stop_trash_ms, 0);
}

/* Somebody waits for the stop, and a hundred thousand files take their time: that is said, and is not waited for to
 * the end. Every start empties the trash. */
static void wait_for_trash(struct sandboxes *m)
{
	if (m->stop_trash)
		return;
	m->stop_trash = true;
	(void)uv_timer_start(&m->stop_timer, on_stop_trash, MIN(STOP_SILENT_MS, m->c.stop_trash_ms), 0);
}

bool sandboxes_all_ended(const struct sandboxes *m)
{
	return !m->by_id && !m->slots;
}

static bool is_settled(const struct sandbox *sb)
{
	return (sb->row.status == SANDBOX_RUNNING || sb->row.status == SANDBOX_PAUSED) && !sb->init_lost &&
	       !sb->net_pending;
}

/* Only what the next start takes over is there. */
static bool all_settled(const struct sandboxes *m)
{
	const struct sandbox *sb, *next;
	unsigned int n = 0;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		if (!is_settled(sb))
			return false;
		n += sb->slot != NULL;
	}
	return n == HASH_COUNT(m->slots);
}

void sandboxes_check_stopped(struct sandboxes *m)
{
	if (!m->stopping || !m->stopped || m->deferred || m->n_jobs > 0 || m->jobs_waiting)
		return;
	if (m->keeping ? !all_settled(m) : !sandboxes_all_ended(m))
		return;
	if (m->trash_pending || m->trash_running) {
		wait_for_trash(m);
		return;
	}
	(void)uv_timer_start(&m->stop_timer, on_stop_check, 0, 0);
}

static bool is_kept(const struct sandboxes *m, const struct slot *s)
{
	const struct sandbox *sb, *next;

	HASH_ITER(hh, m->by_id, sb, next)
	if (m->keeping && sb->slot == s && sb->row.status != SANDBOX_CREATING)
		return true;
	return false;
}

void sandboxes_shutdown(struct sandboxes *m, bool keep, void (*done)(void *arg), void *arg)
{
	struct sandbox *sb, *next_sb;
	struct slot *s, *next_s;

	m->stopping = true;
	m->keeping = keep;
	m->stopped = done;
	m->stopped_arg = arg;
	(void)uv_timer_start(&m->stop_timer, on_stop_limit, SANDBOX_SHUTDOWN_MS, 0);
	(void)uv_timer_stop(&m->look_timer);
	if (keep)
		sandboxes_meter_leave(m);
	HASH_ITER(hh, m->by_id, sb, next_sb)
	if (keep && sb->row.status != SANDBOX_CREATING)
		continue;
	else if (m->c.snapshots.shared && sb->row.status == SANDBOX_PAUSED)
		sandbox_let_go(sb);
	else
		sandbox_end(sb, "user", NULL);
	/* Those no sandbox has taken yet. */
	HASH_ITER(hh, m->slots, s, next_s)
	if (!is_kept(m, s))
		slot_kill(s);
	if (m->trash_pending && !m->trash_running)
		sandbox_trash_kick(m);
	sandboxes_check_stopped(m);
}

void sandboxes_maybe_free(struct sandboxes *m)
{
	struct deferred *d, *next;

	if (!m->freeing || m->handles > 0 || m->trash_running || m->n_jobs > 0)
		return;
	/* What a stop that took too long left behind still points here. */
	if (m->by_id || m->slots || m->jobs_waiting)
		return;
	LL_FOREACH_SAFE(m->deferred, d, next)
	{
		sandbox_row_clear(&d->row);
		free(d);
	}
	sandboxes_forget_unsaved(m);
	sandboxes_close_roots(m);
	meter_free(m->meter);
	template_refs_free(m);
	exec_positions_close(m);
	closep(&m->null_fd);
	free(m->scratch);
	free(m);
}

void sandboxes_free(struct sandboxes *m)
{
	if (!m)
		return;
	m->freeing = true;
	m->keeper_lost = true;
	m->keeper = NULL;
	m->stopped = NULL;
	sandboxes_net_stop(m);
	uv_close((uv_handle_t *)&m->soon, on_handle_closed);
	uv_close((uv_handle_t *)&m->linger_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->ended_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->pool_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->trash_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->stop_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->jobs_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->meter_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->sync_timer, on_handle_closed);
	uv_close((uv_handle_t *)&m->look_timer, on_handle_closed);
}
