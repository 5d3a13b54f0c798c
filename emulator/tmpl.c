/* The manager of custom templates: who may have one, who sees it, and what goes with it. */

#include "emulator/tmpl.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <utlist.h>

#include "emulator/base/clock.h"
#include "emulator/base/log.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"
#include "emulator/tmpl-internal.h"
#include "emulator/worker.h"
#include "rootfs/names.h"
#include "rootfs/template.h"

#define STOP_MS 15000 /* a layer that isn't made by then is left to the next start */

/* Our reading; the service's documentation names no numbers. */
static const struct {
	unsigned int templates, builds;
} caps[] = {
	[PLAN_FREE] = { 2, 1 },
	[PLAN_PRO] = { 10, 2 },
	[PLAN_TEAM] = { 50, 4 },
};

/* ---- the manager ---- */

static void on_timer_closed(uv_handle_t *h)
{
	struct tmpls *t = h->data;

	t->timer_open = false;
	free(t);
}

int tmpls_new(const struct tmpls_config *c, struct tmpls **ret, struct err *e)
{
	struct tmpls *t = calloc(1, sizeof(*t));

	if (!t)
		return err_errno(e, ENOMEM, "can't start");
	t->c = *c;
	(void)uv_timer_init(c->loop, &t->stop_timer);
	t->stop_timer.data = t;
	t->timer_open = true;
	*ret = t;
	return 0;
}

void tmpls_free(struct tmpls *t)
{
	/* What a stop that took too long has left points here: then it stays until the process ends. */
	if (!t || t->builds || t->n_workers > 0)
		return;
	uv_close((uv_handle_t *)&t->stop_timer, on_timer_closed);
}

static void on_stopped(uv_timer_t *timer)
{
	struct tmpls *t = timer->data;
	void (*fn)(void *arg) = TAKE_PTR(t->stopped);

	if (t->builds || t->n_workers > 0)
		log_warn("the making of a template's layer takes too long; it has failed");
	if (fn)
		fn(t->stopped_arg);
}

void tmpls_check_stopped(struct tmpls *t)
{
	if (t->stopping && t->stopped && !t->builds && t->n_workers == 0)
		(void)uv_timer_start(&t->stop_timer, on_stopped, 0, 0);
}

void tmpls_shutdown(struct tmpls *t, void (*done)(void *arg), void *arg)
{
	struct tmpl_build *b, *next;

	t->stopping = true;
	t->stopped = done;
	t->stopped_arg = arg;
	DL_FOREACH_SAFE(t->builds, b, next)
	{
		if (b->state != BUILD_SAVING)
			tmpl_build_fail(b, "interrupted", "the emulator was stopped while it was being built");
	}
	(void)uv_timer_start(&t->stop_timer, on_stopped, STOP_MS, 0);
	tmpls_check_stopped(t);
}

/* ---- removal ---- */

struct removal {
	struct tmpls *t;
	char id[TMPL_ID_SIZE];
};

static int remove_main(void *arg)
{
	struct removal *x = arg;
	struct err e = ERR_INIT;
	int fd = x->t->c.state_fd;

	if (worker_keep_only(&fd, 1) < 0)
		return 1;
	if ((x->id[0] ? template_custom_remove(fd, x->id, &e) : template_custom_sweep(fd, &e)) == 0)
		return 0;
	log_warn("%s: %s", x->id[0] ? x->id : "templates", e.msg);
	return 1;
}

static void on_removed(void *arg, int status _unused_)
{
	_cleanup_free_ struct removal *x = arg;

	/* What could not be removed is found by the next start: there is no row for it. */
	x->t->n_workers--;
	tmpls_check_stopped(x->t);
}

/* id: "" for layers that no template has. */
static void remove_in_worker(struct tmpls *t, const char *id)
{
	struct removal *x = calloc(1, sizeof(*x));
	struct err e = ERR_INIT;

	if (!x)
		return;
	x->t = t;
	(void)snprintf(x->id, sizeof(x->id), "%s", id);
	if (worker_run(t->c.loop, remove_main, x, on_removed, x, &e) < 0) {
		log_warn("%s: not removed: %s", id, e.msg);
		free(x);
		return;
	}
	t->n_workers++;
}

void tmpl_remove_files(struct tmpls *t, const char *id)
{
	tmpl_log_delete(t->c.state_fd, id);
	remove_in_worker(t, id);
}

/* ---- start-up ---- */

struct recovery {
	struct tmpls *t;
	struct tmpl_row rows[64]; /* a batch of those that claim to be built */
	size_t n;
};

static int add_building(void *arg, const struct tmpl_row *row)
{
	struct recovery *x = arg;

	if (row->status != TMPL_BUILDING)
		return 0;
	if (x->n == ARRAY_SIZE(x->rows))
		return 1;
	return tmpl_row_copy(row, &x->rows[x->n]) < 0 ? -ENOMEM : (x->n++, 0);
}

static int settle_row(struct tmpls *t, struct tmpl_row *row, struct err *e)
{
	struct tmpl_log log = { .fd = -1 };

	row->status = TMPL_FAILED;
	row->ended_ms = clock_now_ms();
	(void)snprintf(row->error_code, sizeof(row->error_code), "interrupted");
	free(row->error);
	row->error = strdup("the emulator stopped while it was being built");
	log_info("%s: left by an earlier run; marked as failed", row->id);
	/* Its log gets the last line that it lacks. */
	if (tmpl_log_reopen(&log, t->c.state_fd, row->id) == 0)
		tmpl_log_end(&log, row);
	return store_tmpl_update(t->c.store, row, e);
}

static int settle_rows(struct tmpls *t, size_t *ret_n, struct err *e)
{
	int r;

	do {
		_cleanup_free_ struct recovery *x = calloc(1, sizeof(*x));

		if (!x)
			return err_errno(e, ENOMEM, "can't read the templates");
		x->t = t;
		r = store_tmpl_each(t->c.store, NULL, add_building, x, e);
		*ret_n += x->n;
		for (size_t i = 0; i < x->n; i++) {
			if (r >= 0 && settle_row(t, &x->rows[i], e) < 0)
				r = -EIO;
			tmpl_row_clear(&x->rows[i]);
		}
	} while (r > 0);
	return r;
}

/* Files of templates that no row has, or whose build was not through: half of a delete, or of an end. */
static int sweep_files(struct tmpls *t, struct err *e)
{
	_cleanup_close_ int fd = sys_openat2(t->c.state_fd, "templates", O_RDONLY | O_DIRECTORY, 0,
					     RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	_cleanup_names_ struct names l = NAMES_INIT;
	int r = fd < 0 ? fd : names_read(&l, fd);

	if (r < 0)
		return r == -ENOENT ? 0 : err_errno(e, -r, "cannot list the templates");
	for (size_t i = 0; i < l.n; i++) {
		_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
		const char *name = names_at(&l, i), *dot = strchr(name, '.');
		char id[TMPL_ID_SIZE];
		bool log = dot && strcmp(dot, ".log") == 0;

		if (!dot || dot == name || (!log && strcmp(dot, ".json") != 0) ||
		    text_format(id, sizeof(id), "%.*s", (int)(dot - name), name) < 0 || !template_custom_id_valid(id))
			continue;
		/* A failed one has its log. */
		if (store_tmpl_get(t->c.store, id, &row, NULL) == -ENOENT || (!log && row.status == TMPL_FAILED))
			log ? tmpl_log_delete(t->c.state_fd, id) : remove_in_worker(t, id);
	}
	return 0;
}

int tmpls_recover(struct tmpls *t, struct err *e)
{
	size_t n = 0;
	int r;

	sandboxes_end_builds(t->c.sandboxes);
	r = settle_rows(t, &n, e);
	if (r >= 0)
		r = template_custom_drop_all(t->c.state_fd, e);
	if (r >= 0)
		r = sweep_files(t, e);
	/* A layer may have been made without the template that should list it. */
	if (r >= 0 && n > 0)
		remove_in_worker(t, "");
	sandboxes_kick_trash(t->c.sandboxes);
	return r;
}

/* ---- who sees what ---- */

/* Its file was removed under us (`template rm`): then it is gone, whatever its row says. */
static bool is_lost(struct tmpls *t, const struct tmpl_row *row)
{
	char path[64];
	struct stat st;

	(void)text_format(path, sizeof(path), "templates/%s.json", row->id);
	return row->status == TMPL_READY && fstatat(t->c.state_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 &&
	       errno == ENOENT;
}

static int not_found(const char *id, struct err *e)
{
	return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template %.64s here", id);
}

int tmpl_get(struct tmpls *t, const struct account *a, const char *id, struct tmpl_row *ret, struct err *e)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	int r;

	if (!template_custom_id_valid(id))
		return not_found(id, e);
	r = store_tmpl_get(t->c.store, id, &row, e);
	if (r < 0)
		return r;
	if (strcmp(row.account, a->id) != 0)
		return not_found(id, e);
	if (is_lost(t, &row)) {
		(void)store_tmpl_delete(t->c.store, id, NULL);
		tmpl_log_delete(t->c.state_fd, id);
		return not_found(id, e);
	}
	*ret = row;
	row = (struct tmpl_row){ .id = "" };
	return 0;
}

struct walk {
	struct tmpls *t;
	int (*fn)(void *arg, const struct tmpl_row *r);
	void *arg;
};

static int walk_one(void *arg, const struct tmpl_row *row)
{
	struct walk *w = arg;

	return is_lost(w->t, row) ? 0 : w->fn(w->arg, row);
}

int tmpl_each(struct tmpls *t, const struct account *a, int (*fn)(void *arg, const struct tmpl_row *r), void *arg,
	      struct err *e)
{
	struct walk w = { t, fn, arg };

	return store_tmpl_each(t->c.store, a->id, walk_one, &w, e);
}

unsigned int tmpl_step(struct tmpls *t, const char *id)
{
	const struct tmpl_build *b = tmpl_build_find(t, id);

	return b && b->state == BUILD_RUNNING ? (unsigned int)b->step + 1 : 0;
}

/* ---- create ---- */

struct counted {
	unsigned int templates, builds;
};

static int count_one(void *arg, const struct tmpl_row *row)
{
	struct counted *n = arg;

	n->templates++;
	n->builds += row->status == TMPL_BUILDING;
	return 0;
}

static int check_caps(struct tmpls *t, const struct account *a, struct err *e)
{
	const struct plan *p = plan_get(a->plan);
	struct counted n = { 0 };
	int r = tmpl_each(t, a, count_one, &n, e);

	if (r < 0)
		return r;
	if (n.builds >= caps[a->plan].builds)
		return err_set(e, ERR_PLAN, EAGAIN, "concurrent_limit",
			       "plan \"%s\" allows %u template builds at a time; %u are under way", p->name,
			       caps[a->plan].builds, n.builds);
	if (n.templates >= caps[a->plan].templates)
		return err_set(e, ERR_PLAN, EDQUOT, "template_cap_reached",
			       "plan \"%s\" allows %u custom templates, failed ones included; delete one first",
			       p->name, caps[a->plan].templates);
	return 0;
}

static int check_base(struct tmpls *t, const struct account *a, const char *base, char digest[static 80], struct err *e)
{
	struct template *found;
	int r = sandbox_check_template(t->c.sandboxes, a, base, e);

	if (r >= 0)
		r = template_load(t->c.state_fd, base, &found, e);
	if (r < 0)
		return r;
	(void)snprintf(digest, 80, "%s", found->digest ? found->digest : "");
	if (found->n_layers >= TEMPLATE_MAX_LAYERS)
		r = err_set(e, ERR_PLAN, E2BIG, "template_cap_reached",
			    "template %.64s has %d layers already, and there is no room for another one", base,
			    TEMPLATE_MAX_LAYERS);
	template_free(found);
	return r;
}

static int fill_row(const struct account *a, const struct tmpl_spec *s, struct tmpl_row *row, struct err *e)
{
	char ulid[TEXT_ULID_SIZE];

	row->status = TMPL_BUILDING;
	row->created_ms = clock_now_ms();
	text_ulid(row->created_ms, ulid);
	(void)snprintf(row->id, sizeof(row->id), TEMPLATE_CUSTOM_PREFIX "%s", ulid);
	(void)snprintf(row->account, sizeof(row->account), "%s", a->id);
	(void)snprintf(row->network, sizeof(row->network), "%s", s->network);
	row->timeout_s = s->timeout_s ? s->timeout_s : TMPL_DEFAULT_TIMEOUT_S;
	row->name = strdup(s->name);
	row->base = strdup(s->base);
	row->steps = strdup(s->steps);
	return row->name && row->base && row->steps ? 0 : err_errno(e, ENOMEM, "can't build a template");
}

int tmpl_create(struct tmpls *t, const struct account *a, const struct tmpl_spec *s, struct tmpl_row *ret,
		struct err *e)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	char digest[80] = "";
	int r;

	if (t->stopping)
		return err_set(e, ERR_CAPACITY, ESHUTDOWN, NULL, "the emulator is stopping");
	r = check_base(t, a, s->base, digest, e);
	if (r >= 0)
		r = check_caps(t, a, e);
	if (r >= 0)
		r = fill_row(a, s, &row, e);
	if (r >= 0)
		r = store_tmpl_insert(t->c.store, &row, e);
	if (r < 0)
		return r;
	r = tmpl_build_start(t, &row, a, digest, e);
	if (r < 0) {
		(void)store_tmpl_delete(t->c.store, row.id, NULL);
		return r;
	}
	log_info("%s: building on %s, %zu bytes of steps", row.id, row.base, strlen(row.steps));
	*ret = row;
	row = (struct tmpl_row){ .id = "" };
	return 0;
}

/* ---- delete ---- */

struct users {
	void (*fn)(void *arg, const char *id);
	void *arg;
	unsigned int n;
	char first[SANDBOX_ID_SIZE + TMPL_ID_SIZE];
};

static void add_user(struct users *u, const char *id)
{
	if (u->n++ == 0)
		(void)snprintf(u->first, sizeof(u->first), "%s", id);
	if (u->fn)
		u->fn(u->arg, id);
}

static void add_sandbox(void *arg, const struct sandbox_row *row)
{
	/* A build's sandbox is nobody's to end: the template it makes is named instead. */
	if (strncmp(row->account, SANDBOX_BUILD_ACCOUNT, strlen(SANDBOX_BUILD_ACCOUNT)) != 0)
		add_user(arg, row->id);
}

int tmpl_delete(struct tmpls *t, const struct account *a, const char *id, void (*user)(void *arg, const char *id),
		void *arg, struct err *e)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	struct users u = { .fn = user, .arg = arg };
	struct tmpl_build *b;
	int r = tmpl_get(t, a, id, &row, e);

	if (r < 0)
		return r;
	sandboxes_each_of_template(t->c.sandboxes, id, add_sandbox, &u);
	DL_FOREACH(t->builds, b)
	{
		if (b->state != BUILD_OVER && strcmp(b->row.base, id) == 0)
			add_user(&u, b->row.id);
	}
	if (u.n > 0)
		return err_set(e, ERR_BUSY, EBUSY, "template_in_use",
			       "template %s is in use by %s%s; terminate what uses it first", id, u.first,
			       u.n > 1 ? " and others" : "");
	r = store_tmpl_delete(t->c.store, id, e);
	if (r < 0)
		return r;
	b = tmpl_build_find(t, id);
	if (b)
		tmpl_build_delete(b);
	else
		tmpl_remove_files(t, id);
	return 0;
}

/* ---- the log ---- */

int tmpl_log_open(struct tmpls *t, const struct account *a, const char *id, void (*wake)(void *arg), void *arg,
		  struct tmpl_watch **ret_watch, struct err *e)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	struct tmpl_build *b;
	struct tmpl_watch *w;
	int fd = tmpl_get(t, a, id, &row, e);

	if (fd >= 0)
		fd = tmpl_log_open_read(t->c.state_fd, id, e);
	if (fd < 0)
		return fd;
	*ret_watch = NULL;
	b = tmpl_build_find(t, id);
	if (!b || b->state == BUILD_OVER || !wake)
		return fd;
	w = calloc(1, sizeof(*w));
	if (!w) {
		closep(&fd);
		return err_errno(e, ENOMEM, "can't read the build's log");
	}
	*w = (struct tmpl_watch){ .build = b, .wake = wake, .arg = arg };
	DL_APPEND(b->watches, w);
	*ret_watch = w;
	return fd;
}

bool tmpl_watch_over(const struct tmpl_watch *w)
{
	return !w->build;
}

void tmpl_watch_free(struct tmpl_watch *w)
{
	if (!w)
		return;
	if (w->build)
		DL_DELETE(w->build->watches, w);
	free(w);
}
