/* From a request to a running sandbox: may it be, what will it be, make a slot, turn the slot's parked init
 * into this sandbox. Each step's failure undoes the steps before it; the row stays, as failed. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/text.h"
#include "emulator/ids.h"
#include "emulator/sandbox-internal.h"

/* wire.md, Create */
#define DEFAULT_CPU_MILLIS 1000u
#define DEFAULT_MEMORY_MB 2048u
#define DEFAULT_TIMEOUT_S 600u
/* Below these nothing that a template holds would even start. */
#define MIN_CPU_MILLIS 10u
#define MIN_MEMORY_MB 32u
/* Processes: one for every 4 MB, within these. small 512, medium 1024, large 2048. */
#define PIDS_MIN 512u
#define PIDS_MAX 2048u
#define PIDS_SLACK 16u

/* ---- may it be ---- */

static bool counts(enum sandbox_status s)
{
	return s == SANDBOX_CREATING || s == SANDBOX_RUNNING || s == SANDBOX_PAUSING || s == SANDBOX_RESUMING;
}

static uint32_t count_account(struct sandboxes *m, const char *account)
{
	struct sandbox *sb, *next;
	uint32_t n = 0;

	HASH_ITER(hh, m->by_id, sb, next)
	n += counts(sb->row.status) && strcmp(sb->row.account, account) == 0;
	return n;
}

static int refuse_size(const struct plan *p, const char *what, struct err *e)
{
	char allowed[64] = "";
	size_t n = 0;

	for (unsigned int i = 0; i < SIZE_COUNT; i++)
		if (p->sizes & 1u << i && n < sizeof(allowed))
			n += (size_t)snprintf(allowed + n, sizeof(allowed) - n, "%s%s", n ? ", " : "",
					      size_menu[i].name);
	return err_set(e, ERR_PLAN, EPERM, "size_not_allowed",
		       "%s is more than plan \"%s\" allows (sizes: %s; at most %u.%02u CPU and %u MB)", what, p->name,
		       allowed, p->max_cpu_millis / 1000, p->max_cpu_millis % 1000 / 10, p->max_memory_mb);
}

static int choose_size(const struct plan *p, const struct sandbox_spec *s, struct sandbox_row *row, struct err *e)
{
	enum size_id id;
	char what[64];

	if (s->size) {
		if (size_parse(s->size, &id) < 0)
			return err_set(e, ERR_INVALID, EINVAL, NULL, "size \"%.16s\" does not exist", s->size);
		(void)snprintf(what, sizeof(what), "size \"%s\"", size_menu[id].name);
		if (!(p->sizes & 1u << id))
			return refuse_size(p, what, e);
		(void)snprintf(row->size, sizeof(row->size), "%s", size_menu[id].name);
		row->cpu_millis = size_menu[id].cpu_millis;
		row->memory_mb = size_menu[id].memory_mb;
		return 0;
	}
	row->cpu_millis = s->cpu_millis ? s->cpu_millis : MIN(DEFAULT_CPU_MILLIS, p->max_cpu_millis);
	row->memory_mb = s->memory_mb ? s->memory_mb : MIN(DEFAULT_MEMORY_MB, p->max_memory_mb);
	if (row->cpu_millis < MIN_CPU_MILLIS || row->memory_mb < MIN_MEMORY_MB)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "a sandbox needs at least %u.%02u CPU and %u MB", 0,
			       MIN_CPU_MILLIS / 10, MIN_MEMORY_MB);
	if (row->cpu_millis > p->max_cpu_millis) {
		(void)snprintf(what, sizeof(what), "cpu %u.%02u", row->cpu_millis / 1000, row->cpu_millis % 1000 / 10);
		return refuse_size(p, what, e);
	}
	if (row->memory_mb > p->max_memory_mb) {
		(void)snprintf(what, sizeof(what), "memory_mb %u", row->memory_mb);
		return refuse_size(p, what, e);
	}
	return 0;
}

int sandbox_check_network(struct sandboxes *m, const struct plan *p, const char *network, struct err *e)
{
	if (!network || strcmp(network, "off") == 0)
		return 0;
	if (strcmp(network, "open") != 0 && strcmp(network, "restricted") != 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "network \"%.16s\" does not exist", network);
	if (strcmp(network, "open") == 0 && !p->network_open)
		return err_set(e, ERR_PLAN, EPERM, "network_not_allowed", "network \"open\" is not part of plan \"%s\"",
			       p->name);
	if (m->egress_lost)
		return err_set(e, ERR_UNAVAILABLE, ENETDOWN, "network_unavailable",
			       "network \"%s\" can't be had on this host: %s", network,
			       m->c.network.why_none && *m->c.network.why_none
				       ? m->c.network.why_none
				       : "the egress process has just ended; try again");
	return 0;
}

int sandbox_check_concurrent(struct sandboxes *m, const struct account *a, struct err *e)
{
	const struct plan *p = plan_get(a->plan);
	uint32_t live = count_account(m, a->id);

	if (live >= p->max_concurrent)
		return err_set(e, ERR_PLAN, EAGAIN, "concurrent_limit",
			       "plan \"%s\" allows %u sandboxes at a time; %u are running", p->name, p->max_concurrent,
			       live);
	return 0;
}

static int check_host(struct sandboxes *m, struct err *e)
{
	if (m->stopping)
		return err_set(e, ERR_CAPACITY, ESHUTDOWN, NULL, "the emulator is stopping");
	if (m->c.max_live > 0 && HASH_COUNT(m->by_id) >= m->c.max_live)
		return err_set(e, ERR_CAPACITY, EAGAIN, NULL, "this host is set to hold %u sandboxes at most",
			       m->c.max_live);
	return 0;
}

static int choose_timeout(const struct plan *p, const struct sandbox_spec *s, uint32_t *ret, struct err *e)
{
	if (!s->build && s->timeout_s > p->max_timeout_s)
		return err_set(e, ERR_INVALID, ERANGE, NULL, "timeout_seconds %u is more than the %u of plan \"%s\"",
			       s->timeout_s, p->max_timeout_s, p->name);
	*ret = s->timeout_s ? s->timeout_s : MIN(DEFAULT_TIMEOUT_S, p->max_timeout_s);
	return 0;
}

static int check(struct sandboxes *m, const struct account *a, const struct sandbox_spec *s, struct sandbox_row *row,
		 struct err *e)
{
	const struct plan *p = plan_get(a->plan);
	int r;

	r = choose_size(p, s, row, e);
	if (r >= 0)
		r = sandbox_check_network(m, p, s->network, e);
	if (r >= 0)
		r = choose_timeout(p, s, &row->timeout_s, e);
	if (r < 0)
		return r;
	r = s->build ? 0 : sandbox_check_concurrent(m, a, e);
	if (r >= 0 && !s->build)
		r = sandbox_check_usage(m, a, e);
	return r < 0 ? r : check_host(m, e);
}

/* ---- what it will be ---- */

static int dup_text(const char *from, const char *otherwise, char **ret)
{
	const char *s = from ? from : otherwise;

	*ret = s ? strdup(s) : NULL;
	return s && !*ret ? -ENOMEM : 0;
}

static int fill_row(const struct account *a, const struct sandbox_spec *s, struct sandbox_row *row, struct err *e)
{
	char ulid[TEXT_ULID_SIZE];

	ids_sandbox(&row->created_ms, ulid);
	(void)snprintf(row->id, sizeof(row->id), "sbx_%s", ulid);
	slot_new_name(row->slot);
	(void)snprintf(row->account, sizeof(row->account), "%s", a->id);
	(void)snprintf(row->network, sizeof(row->network), "%s", s->network ? s->network : "off");
	row->status = SANDBOX_CREATING;
	if (dup_text(s->template_name, NULL, &row->template_name) < 0 || dup_text(s->region, NULL, &row->region) < 0 ||
	    dup_text(s->metadata, "{}", &row->metadata) < 0 || dup_text(s->env, "{}", &row->env) < 0)
		return err_errno(e, ENOMEM, "can't make a sandbox");
	return 0;
}

void sandbox_set_limits(struct sandbox *sb)
{
	sb->limits = (struct cgroup_limits){
		.cpu_millis = sb->row.cpu_millis,
		.memory_bytes = (uint64_t)sb->row.memory_mb << 20,
		.pids_max = MAX(PIDS_MIN, MIN(PIDS_MAX, sb->row.memory_mb / 4)),
	};
}

/* Everything that needs no kernel object. On failure the caller discards it. */
static int prepare(struct sandbox *sb, const struct account *a, const struct sandbox_spec *s, struct err *e)
{
	int r = check(sb->m, a, s, &sb->row, e);

	if (r >= 0)
		r = exec_env_build(NULL, s->env, false, &sb->env, e);
	if (r >= 0)
		r = s->build ? 0 : sandbox_check_template(sb->m, a, s->template_name, e);
	if (r >= 0)
		r = template_ref_get(sb->m, s->template_name, &sb->template, e);
	if (r >= 0)
		r = fill_row(a, s, &sb->row, e);
	if (r >= 0)
		sandbox_set_limits(sb);
	return r;
}

/* ---- a parked init becomes this sandbox ---- */

void sandbox_time_over(struct sandbox *sb)
{
	log_info("%s: its time is over", sb->row.id);
	sandbox_end(sb, "timeout", NULL);
}

static void on_deadline(uv_timer_t *t)
{
	struct sandbox *sb = t->data;
	int64_t left_us = sb->deadline_us - clock_now_us();

	/* The loop's clock may be a little behind; never end it before the time its row names. */
	if (left_us > 0) {
		(void)uv_timer_start(t, on_deadline, (uint64_t)left_us / 1000 + 1, 0);
		return;
	}
	sandbox_time_over(sb);
}

void sandbox_arm_deadline(struct sandbox *sb)
{
	uv_update_time(sb->m->c.loop);
	(void)uv_timer_start(&sb->timer, on_deadline,
			     (uint64_t)(MAX(sb->deadline_us - clock_now_us(), INT64_C(0)) / 1000), 0);
}

static void on_create_limit(uv_timer_t *t)
{
	struct sandbox *sb = t->data;
	struct err e = ERR_INIT;

	(void)err_set(&e, ERR_INTERNAL, ETIMEDOUT, NULL, "the sandbox was not ready after %d s",
		      SANDBOX_CREATE_MS / 1000);
	sandbox_end(sb, "failed", &e);
}

static void set_running(struct sandbox *sb)
{
	struct sandboxes *m = sb->m;
	struct sandbox_row *row = &sb->row;
	struct err e = ERR_INIT;
	struct waiter *w;

	sb->template_digest = sb->template->t->digest ? strdup(sb->template->t->digest) : NULL;
	row->started_ms = clock_now_ms();
	row->expires_ms = row->started_ms + (int64_t)row->timeout_s * 1000;
	row->status = SANDBOX_RUNNING;
	if (keeper_hold(m->keeper, row->slot, sb->root_fd, init_reports(sb->init),
			sb->template_digest ? sb->template_digest : "", &e) < 0 ||
	    store_sandbox_update(m->c.store, row, &e) < 0) {
		sandbox_end(sb, "failed", &e);
		return;
	}
	sb->deadline_us = clock_now_us() + (int64_t)row->timeout_s * 1000000;
	sandbox_arm_deadline(sb);
	sandbox_meter_begin(sb);
	template_ref_put(TAKE_PTR(sb->template));
	m->created++;
	sandbox_tell(sb, JOURNAL_SANDBOX_RUNNING, NULL);
	w = TAKE_PTR(sb->creator);
	if (w)
		w->done(w->arg, NULL, row);
	free(w);
}

static void on_init_ready(void *arg, const struct err *e, int root_fd)
{
	struct sandbox *sb = arg;

	if ((sb->row.status != SANDBOX_CREATING && sb->row.status != SANDBOX_RESUMING) || sb->root_fd >= 0) {
		closep(&root_fd);
		return;
	}
	if (sb->row.status == SANDBOX_RESUMING) {
		sandbox_cold_ready(sb, e, root_fd);
		return;
	}
	if (e) {
		log_error("%s: %s", sb->row.id, e->msg);
		sandbox_end(sb, "failed", e);
		return;
	}
	sb->root_fd = root_fd;
	set_running(sb);
}

static bool on_init_started(void *arg, uint64_t exec_id, pid_t pid)
{
	return exec_on_started(arg, exec_id, pid);
}

static bool on_init_exited(void *arg, uint64_t exec_id, const struct init_exit *x)
{
	return exec_on_exited(arg, exec_id, x);
}

static void on_init_lost(void *arg, const char *why)
{
	struct sandbox *sb = arg;
	struct err e = ERR_INIT;

	sb->init_lost = true;
	if (sb->row.status == SANDBOX_TERMINATING)
		return;
	log_error("%s: its init is lost: %s", sb->row.id, why);
	if (sb->row.status == SANDBOX_CREATING) {
		(void)err_set(&e, ERR_INTERNAL, EIO, NULL, "the sandbox's init is lost: %s", why);
		sandbox_end(sb, "failed", &e);
		return;
	}
	if (sb->row.status == SANDBOX_RESUMING) {
		(void)err_set(&e, ERR_INTERNAL, EIO, NULL, "the sandbox's init is lost: %s", why);
		sandbox_cold_failed(sb, &e);
		return;
	}
	if (sb->row.status == SANDBOX_PAUSED) {
		slot_kill(sb->slot); /* then its disk is all that is left */
		return;
	}
	if (!sb->row.failure)
		sb->row.failure = strdup(why);
	sandbox_end(sb, "failed", NULL);
}

void sandbox_on_slot_dead(void *arg, int status)
{
	struct sandbox *sb = arg;
	struct err e = ERR_INIT;

	if (sb->row.status == SANDBOX_PAUSED) {
		sandbox_gone_cold(sb);
		return;
	}
	if (sb->row.status == SANDBOX_RESUMING) {
		sb->slot = NULL;
		(void)err_set(&e, ERR_INTERNAL, EIO, NULL, "the sandbox's init ended while it was set up (status %#x)",
			      (unsigned int)status);
		sandbox_cold_failed(sb, &e);
		return;
	}
	if (sb->row.status == SANDBOX_CREATING)
		(void)err_set(&sb->failure, ERR_INTERNAL, EIO, NULL,
			      "the sandbox's init ended while it was set up (status %#x)", (unsigned int)status);
	else if (sb->row.status != SANDBOX_TERMINATING && !sb->row.failure)
		sb->row.failure =
			strdup(sb->m->keeper_lost ? "the emulator's keeper ended" : "its init ended by itself");
	sandbox_ended(sb, status);
}

void sandbox_init_events(struct sandbox *sb, struct init_events *ret)
{
	*ret = (struct init_events){ .ready = on_init_ready,
				     .started = on_init_started,
				     .exited = on_init_exited,
				     .lost = on_init_lost,
				     .arg = sb };
}

static int configure(struct sandbox *sb, int ctl_sock, struct err *e)
{
	const struct template *t = sb->template->t;
	struct init_events ev;
	struct init_config c = {
		.slot = sb->row.slot,
		.layers = (const char *const *)t->layers,
		.n_layers = t->n_layers,
		.cpus = (sb->limits.cpu_millis + 999) / 1000,
		.hostname = "sandbox", /* the name that a template's /etc/hosts knows */
		.memory_bytes = sb->limits.memory_bytes,
		/* Where there is a cgroup it is to say no first: it counts how often. */
		.pids_max = sb->limits.pids_max + PIDS_SLACK,
		.no_cgroup_view = cgroup_root_backend(sb->m->c.cgroups) == CGROUP_NONE,
	};

	sandbox_init_events(sb, &ev);
	return init_connect(sb->m->c.loop, ctl_sock, &c, &ev, &sb->init, e);
}

int sandbox_use_slot(struct sandbox *sb, struct err *e)
{
	const struct slot_events ev = { .dead = sandbox_on_slot_dead, .arg = sb };
	int sock = -1, r = slot_use(sb->slot, &sb->limits, &ev, &sock, e);

	if (r >= 0)
		r = configure(sb, sock, e);
	if (r >= 0)
		sandbox_net_start(sb);
	return r;
}

static void use_slot(struct sandbox *sb, const struct err *net)
{
	struct err e = ERR_INIT;

	if (sb->row.status != SANDBOX_CREATING)
		return; /* ended meanwhile */
	if (net)
		e = *net;
	if (net || sandbox_use_slot(sb, &e) < 0) {
		log_error("%s: %s", sb->row.id, e.msg);
		sandbox_end(sb, "failed", &e);
	}
}

static void on_slot_ready(void *arg, const struct err *err)
{
	struct sandbox *sb = arg;
	struct err e = ERR_INIT;

	if (err) {
		sb->slot = NULL;
		sb->failure = *err;
		log_error("%s: %s", sb->row.id, err->msg);
		sandbox_ended(sb, 0);
		return;
	}
	if (strcmp(sb->row.network, "off") == 0) {
		use_slot(sb, NULL);
	} else if (sandbox_net_connect(sb, use_slot, &e) < 0) {
		log_error("%s: %s", sb->row.id, e.msg);
		sandbox_end(sb, "failed", &e);
	}
}

/* ---- the request ---- */

struct sandbox *sandbox_alloc(struct sandboxes *m)
{
	struct sandbox *sb = calloc(1, sizeof(*sb));

	if (!sb)
		return NULL;
	*sb = (struct sandbox){ .m = m, .root_fd = -1, .refused_sock = -1, .net_index = -1 };
	(void)uv_timer_init(m->c.loop, &sb->timer);
	sb->timer.data = sb;
	return sb;
}

static void mark_failed(struct sandbox *sb, const struct err *e)
{
	sb->row.status = SANDBOX_FAILED;
	sb->row.terminated_ms = clock_now_ms();
	(void)snprintf(sb->row.termination_reason, sizeof(sb->row.termination_reason), "failed");
	sb->row.failure = strdup(e->msg);
	sb->m->failed++;
	if (store_sandbox_update(sb->m->c.store, &sb->row, NULL) < 0)
		log_error("%s: its row can't be written", sb->row.id);
	log_error("%s: %s", sb->row.id, e->msg);
	sandbox_tell(sb, JOURNAL_SANDBOX_FAILED, e->msg);
}

static int start(struct sandbox *sb, struct err *e)
{
	const struct slot_events ev = { .ready = on_slot_ready, .dead = sandbox_on_slot_dead, .arg = sb };
	struct sandboxes *m = sb->m;
	struct slot *warm = pool_take(m, &ev, strcmp(sb->row.network, "off") != 0);
	int r;

	if (warm)
		(void)snprintf(sb->row.slot, sizeof(sb->row.slot), "%s", warm->name);
	r = store_sandbox_insert(m->c.store, &sb->row, e);
	if (r < 0) {
		if (warm)
			slot_discard(warm);
		return r;
	}
	sandbox_tell(sb, JOURNAL_SANDBOX_CREATED, sb->row.template_name);
	HASH_ADD_STR(m->by_id, row.id, sb);
	if (!sb->hh.tbl)
		r = err_errno(e, ENOMEM, "can't make a sandbox");
	else if (!warm)
		r = slot_make(m, sb->row.slot, &sb->limits, &ev, &sb->slot, e);
	if (r < 0) {
		if (warm)
			slot_discard(warm);
		if (sb->hh.tbl)
			HASH_DEL(m->by_id, sb);
		mark_failed(sb, e);
		return r;
	}
	(void)uv_timer_start(&sb->timer, on_create_limit, SANDBOX_CREATE_MS, 0);
	if (warm) {
		sb->slot = warm;
		on_slot_ready(sb, NULL);
	}
	return 0;
}

int sandbox_create(struct sandboxes *m, const struct account *a, const struct sandbox_spec *s, sandbox_done_fn done,
		   void *arg, struct err *e)
{
	struct err own = ERR_INIT;
	struct waiter *w = calloc(1, sizeof(*w));
	struct sandbox *sb = w ? sandbox_alloc(m) : NULL;
	int r;

	if (!e)
		e = &own;
	if (!sb) {
		free(w);
		return err_errno(e, ENOMEM, "can't make a sandbox");
	}
	*w = (struct waiter){ .done = done, .arg = arg };
	sb->creator = w;
	r = prepare(sb, a, s, e);
	if (r >= 0)
		r = start(sb, e);
	if (r < 0) {
		free(TAKE_PTR(sb->creator));
		sandbox_discard(sb);
	}
	return r;
}
