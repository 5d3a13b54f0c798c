/* One step after the other; each begins where the one before was answered. Small files are written at once, the rest
 * is the sandbox manager's, which calls back. */

#include <errno.h>
#include <string.h>

#include "api/control.h"
#include "api/sandbox_json.h"
#include "api/seed.h"
#include "emulator/exec.h"
#include "emulator/files.h"
#include "emulator/ids.h"

struct seeding {
	struct api *api;
	struct seed *s;
	seed_done_fn done;
	void *arg;
	struct json_object *made, *sandboxes;
	size_t at;		/* the sandbox */
	size_t command;		/* of it */
	struct account account; /* whose it is */
	char id[SANDBOX_ID_SIZE];
};

static void next_sandbox(struct seeding *g);

static void finish(struct seeding *g, const struct err *e)
{
	journal_add(g->api->journal, &(struct journal_event){ .type = JOURNAL_SEEDED, .detail = e ? e->msg : NULL });
	g->done(g->arg, e, e ? NULL : g->made);
	json_object_put(g->made);
	seed_free(g->s);
	free(g);
}

/* A failure of a step, with its place in the seed before it. */
static void fail_at(struct seeding *g, struct err *e, const char *what, size_t k)
{
	if (what)
		err_prefix(e, "sandboxes[%zu].%s[%zu]", g->at, what, k);
	else
		err_prefix(e, "sandboxes[%zu]", g->at);
	finish(g, e);
}

/* ---- accounts ---- */

static int set_usage(struct seeding *g, const struct seed_account *a, const char *account, struct err *e)
{
	const struct usage u = { .cpu_usec = (uint64_t)(a->cpu_hours * USAGE_USEC_PER_CPU_HOUR + 0.5),
				 .mem_kib_ms = (uint64_t)(a->gb_hours * USAGE_KIB_MS_PER_GB_HOUR + 0.5) };

	return meter_usage_set(sandboxes_meter(g->api->sandboxes), account, &u, e);
}

static int make_key(struct seeding *g, size_t i, struct json_object *list, struct err *e)
{
	const struct seed_account *a = &g->s->accounts[i];
	const struct key_change change = { .revoked = &a->revoked };
	struct json_object *o;
	struct key_info info;
	char id[KEY_ID_SIZE];
	int r;

	/* One that is there from an earlier run is made anew: the seed holds. */
	accounts_key_id(a->spec.key, id);
	(void)accounts_key_forget(g->api->accounts, id, NULL);
	r = accounts_key_add(g->api->accounts, &a->spec, &info, NULL, e);

	if (r >= 0 && a->revoked)
		r = accounts_key_change(g->api->accounts, info.id, &change, &info, e);
	if (r >= 0 && a->has_usage)
		r = set_usage(g, a, info.account, e);
	if (r < 0) {
		err_prefix(e, "accounts[%zu]", i);
		return r;
	}
	o = json_object_new_object();
	json_add_text(o, "account", info.account);
	json_add_text(o, "key_id", info.id);
	json_object_array_add(list, o);
	return 0;
}

/* ---- a sandbox ---- */

static void add_made(struct seeding *g, const struct sandbox_row *row)
{
	struct json_object *o = json_object_new_object();

	json_add_text(o, "id", row->id);
	json_add_text(o, "account", row->account);
	json_add_text(o, "status", sandbox_status_name(row->status));
	json_add_time(o, "created_at", row->created_ms);
	json_object_array_add(g->sandboxes, o);
	g->at++;
	next_sandbox(g);
}

static void on_paused(void *arg, const struct err *e, const struct sandbox_row *row)
{
	struct seeding *g = arg;
	struct err own;

	if (row) {
		add_made(g, row);
		return;
	}
	own = *e;
	fail_at(g, &own, NULL, 0);
}

static void end_sandbox(struct seeding *g)
{
	_cleanup_(sandbox_row_clear) struct sandbox_row row = { 0 };
	struct err e = ERR_INIT;

	if (g->s->sandboxes[g->at].paused) {
		if (sandbox_pause(g->api->sandboxes, &g->account, g->id, on_paused, g, &e) < 0)
			fail_at(g, &e, NULL, 0);
	} else if (sandbox_get(g->api->sandboxes, &g->account, g->id, &row, &e) < 0) {
		fail_at(g, &e, NULL, 0);
	} else {
		add_made(g, &row);
	}
}

static void next_command(struct seeding *g);

static void on_command(void *arg, const struct exec_result *r)
{
	struct seeding *g = arg;
	struct err e;
	size_t n = r->out[1]->len > 0 ? strcspn(r->out[1]->p, "\n") : 0;

	if (r->exit_code == 0) {
		g->command++;
		next_command(g);
		return;
	}
	(void)err_set(&e, ERR_INVALID, ECANCELED, "seed_command_failed", "it ended with %d (%s)%s%.*s", r->exit_code,
		      exec_reason_name(r->reason), n ? ": " : "", (int)MIN(n, (size_t)160), n ? r->out[1]->p : "");
	fail_at(g, &e, "run", g->command);
}

static void next_command(struct seeding *g)
{
	const struct seed_sandbox *sb = &g->s->sandboxes[g->at];
	const struct exec_events ev = { .done = on_command, .arg = g };
	struct exec_spec spec = { 0 };
	struct err e = ERR_INIT;
	struct exec *x;

	if (g->command == sb->n_commands) {
		end_sandbox(g);
		return;
	}
	spec.command = sb->commands[g->command].command;
	spec.argv = (const char *const *)sb->commands[g->command].argv;
	spec.timeout_s = sb->commands[g->command].timeout_s;
	if (exec_start(g->api->sandboxes, &g->account, g->id, &spec, &ev, &x, &e) < 0)
		fail_at(g, &e, "run", g->command);
}

static int write_file(const struct files_ctx *c, const struct seed_file *f, struct err *e)
{
	struct files_write *w;
	int r = files_write_begin(c, f->path, f->mode, &w, e);

	if (r < 0)
		return r;
	r = files_write_data(w, f->content, f->n, e);
	if (r < 0) {
		files_write_abort(w);
		return r;
	}
	return files_write_commit(w, NULL, e);
}

static void on_created(void *arg, const struct err *e, const struct sandbox_row *row)
{
	struct seeding *g = arg;
	const struct seed_sandbox *sb = &g->s->sandboxes[g->at];
	struct files_ctx c = { .root_fd = -1, .uid = idmap_sandbox_uid(g->api->idmap, 0) };
	struct err own = e ? *e : ERR_INIT;
	size_t i = 0;
	int r;

	if (!row) {
		fail_at(g, &own, NULL, 0);
		return;
	}
	(void)snprintf(g->id, sizeof(g->id), "%s", row->id);
	r = c.root_fd = sandbox_root(g->api->sandboxes, &g->account, g->id, &own);
	for (; r >= 0 && i < sb->n_files; i++) {
		r = write_file(&c, &sb->files[i], &own);
		if (r < 0)
			break;
	}
	closep(&c.root_fd);
	g->command = 0;
	if (r < 0)
		fail_at(g, &own, "files", i);
	else
		next_command(g);
}

static void next_sandbox(struct seeding *g)
{
	const struct seed_sandbox *sb = &g->s->sandboxes[g->at];
	struct err e = ERR_INIT;
	const char *key;

	if (g->at == g->s->n_sandboxes) {
		finish(g, NULL);
		return;
	}
	key = sb->account == SIZE_MAX ? sb->key : g->s->accounts[sb->account].spec.key;
	if (accounts_find(g->api->accounts, key, &g->account, &e) < 0 ||
	    sandbox_create(g->api->sandboxes, &g->account, &sb->spec, on_created, g, &e) < 0)
		fail_at(g, &e, NULL, 0);
}

void seed_run(struct api *api, struct seed *s, seed_done_fn done, void *arg)
{
	struct seeding *g = calloc(1, sizeof(*g));
	struct json_object *accounts;
	struct err e = ERR_INIT;
	int r = 0;

	if (!g) {
		(void)err_errno(&e, ENOMEM, "the seed");
		seed_free(s);
		done(arg, &e, NULL);
		return;
	}
	*g = (struct seeding){ .api = api, .s = s, .done = done, .arg = arg, .made = json_object_new_object() };
	accounts = json_object_new_array();
	g->sandboxes = json_object_new_array();
	json_object_object_add(g->made, "accounts", accounts);
	json_object_object_add(g->made, "sandboxes", g->sandboxes);
	for (size_t i = 0; r >= 0 && i < s->n_accounts; i++)
		r = make_key(g, i, accounts, &e);
	if (r < 0) {
		finish(g, &e);
		return;
	}
	if (s->has_seed)
		ids_seed(s->seed);
	next_sandbox(g);
}
