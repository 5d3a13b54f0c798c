#pragma once
/* The store and the templates of sandbox_fakes.h, which includes this where it needs it. */

/* ---- store ---- */

static struct sandbox_row rows[64];
static size_t n_rows;

const char *sandbox_status_name(enum sandbox_status s)
{
	static const char *const names[] = { "creating", "running",	"pausing",    "paused",
					     "resuming", "terminating", "terminated", "failed" };

	return names[s];
}

void sandbox_row_clear(struct sandbox_row *r)
{
	free(r->template_name);
	free(r->region);
	free(r->metadata);
	free(r->env);
	free(r->failure);
	*r = (struct sandbox_row){ 0 };
}

static char *dup_or_null(const char *s)
{
	return s ? strdup(s) : NULL;
}

int sandbox_row_copy(const struct sandbox_row *from, struct sandbox_row *to)
{
	*to = *from;
	to->template_name = dup_or_null(from->template_name);
	to->region = dup_or_null(from->region);
	to->metadata = dup_or_null(from->metadata);
	to->env = dup_or_null(from->env);
	to->failure = dup_or_null(from->failure);
	return 0;
}

static struct sandbox_row *row_of(const char *id)
{
	for (size_t i = 0; i < n_rows; i++)
		if (strcmp(rows[i].id, id) == 0)
			return &rows[i];
	return NULL;
}

static int store_step(const char *op, const struct sandbox_row *r, struct err *e)
{
	char name[64];

	(void)snprintf(name, sizeof(name), "%s:%s", op, sandbox_status_name(r->status));
	return step(name, e);
}

/* ---- usage: no store, so the meter keeps nothing ---- */

int store_usage_get(struct store *s _unused_, const char *id _unused_, struct store_usage *ret, struct err *e _unused_)
{
	*ret = (struct store_usage){ 0 };
	return 0;
}

int store_usage_put(struct store *s _unused_, const char *id _unused_, const struct store_usage *u _unused_,
		    struct err *e _unused_)
{
	return 0;
}

int store_usage_month_get(struct store *s _unused_, const char *account _unused_, int month _unused_,
			  struct store_usage *ret, struct err *e _unused_)
{
	*ret = (struct store_usage){ 0 };
	return 0;
}

int store_usage_month_put(struct store *s _unused_, const char *account _unused_, int month _unused_,
			  const struct store_usage *u _unused_, struct err *e _unused_)
{
	return 0;
}

int store_usage_forget(struct store *s _unused_, const char *account _unused_, struct err *e _unused_)
{
	return 0;
}

int store_begin(struct store *s _unused_, struct err *e _unused_)
{
	return 0;
}

int store_end(struct store *s _unused_, bool commit _unused_, struct err *e _unused_)
{
	return 0;
}

int store_sandbox_insert(struct store *s _unused_, const struct sandbox_row *r, struct err *e)
{
	int k = store_step("insert", r, e);

	if (k < 0)
		return k;
	cr_assert(!row_of(r->id) && n_rows < ARRAY_SIZE(rows));
	return sandbox_row_copy(r, &rows[n_rows++]);
}

int store_sandbox_put(struct store *s _unused_, const struct sandbox_row *r, struct err *e)
{
	return store_step("put", r, e);
}

int store_sandbox_update(struct store *s _unused_, const struct sandbox_row *r, struct err *e)
{
	struct sandbox_row *old = row_of(r->id);
	int k = store_step("update", r, e);

	if (k < 0)
		return k;
	cr_assert(old);
	sandbox_row_clear(old);
	return sandbox_row_copy(r, old);
}

int store_sandbox_get(struct store *s _unused_, const char *id, struct sandbox_row *ret, struct err *e)
{
	struct sandbox_row *r = row_of(id);

	return r ? sandbox_row_copy(r, ret) : err_set(e, ERR_NOT_FOUND, ENOENT, "sandbox_not_found", "none");
}

int store_sandbox_each_live(struct store *s _unused_, int (*fn)(void *arg, const struct sandbox_row *r), void *arg,
			    struct err *e _unused_)
{
	int r = 0;

	for (size_t i = 0; i < n_rows && r >= 0; i++)
		if (rows[i].status != SANDBOX_TERMINATED && rows[i].status != SANDBOX_FAILED)
			r = fn(arg, &rows[i]);
	return r;
}

/* ---- templates ---- */

/* The one custom template there is, and its owner. */
#define FAKE_CUSTOM "tmpl_01M81S2M166ME1AWBYGY0EJ8DS"
#define FAKE_CUSTOM_OWNER "acc_team"
static enum tmpl_status fake_custom_status = TMPL_READY;

void tmpl_row_clear(struct tmpl_row *r _unused_)
{
}

int store_tmpl_get(struct store *s _unused_, const char *id, struct tmpl_row *ret, struct err *e)
{
	if (strcmp(id, FAKE_CUSTOM) != 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "none");
	*ret = (struct tmpl_row){ .id = FAKE_CUSTOM, .account = FAKE_CUSTOM_OWNER, .status = fake_custom_status };
	return 0;
}

static unsigned int template_loads;
static int template_live;

bool template_name_valid(const char *name)
{
	return *name && !strchr(name, '/') && name[0] != '.';
}

int template_load(int dir _unused_, const char *name, struct template **ret, struct err *e)
{
	struct template *t;

	if (strcmp(name, "node-22") == 0)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable", "run template build node-22");
	if (strcmp(name, "python-3.12") != 0 && strcmp(name, FAKE_CUSTOM) != 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "no template");
	t = calloc(1, sizeof(*t));
	cr_assert(t);
	(void)snprintf(t->name, sizeof(t->name), "%s", name);
	t->layers[0] = strdup("layer0");
	t->n_layers = 1;
	template_loads++;
	template_live++;
	*ret = t;
	return 0;
}

void template_free(struct template *t)
{
	free(t->layers[0]);
	free(t);
	template_live--;
}
