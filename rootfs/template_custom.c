#include "rootfs/template_custom.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/clock.h"
#include "emulator/base/sys.h"
#include "rootfs/names.h"
#include "rootfs/template-internal.h"
#include "rootfs/template_scrub.h"
#include "rootfs/tree.h"
#include "rootfs/treehash.h"

#define RESOLVE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)

static void template_freep(struct template **t)
{
	template_free(*t);
}
#define _cleanup_template_ _cleanup_(template_freep)

bool template_custom_id_valid(const char *id)
{
	size_t n = strlen(TEMPLATE_CUSTOM_PREFIX);

	return strlen(id) == TEMPLATE_CUSTOM_ID_SIZE - 1 && strncmp(id, TEMPLATE_CUSTOM_PREFIX, n) == 0 &&
	       strspn(id + n, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") == TEMPLATE_CUSTOM_ID_SIZE - 1 - n;
}

/* ---- between sandbox and layer ---- */

int template_custom_take(int state_fd, const char *slot, const char *id, struct err *e)
{
	char from[64], to[64];

	if (!template_custom_id_valid(id) || strchr(slot, '/') ||
	    text_format(from, sizeof(from), "disk/s/%s/u", slot) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a template's id");
	(void)text_format(to, sizeof(to), "disk/b/%s", id);
	if (renameat2(state_fd, from, state_fd, to, RENAME_NOREPLACE) < 0)
		return err_errno(e, errno, "cannot take what the steps made");
	return 0;
}

int template_custom_drop(int state_fd, const char *id, struct err *e)
{
	char from[128], to[192], ulid[TEXT_ULID_SIZE];

	text_ulid(clock_real_ms(), ulid);
	if (strchr(id, '/') || text_format(from, sizeof(from), "disk/b/%s", id) < 0 ||
	    text_format(to, sizeof(to), "disk/trash/%s.%s", id, ulid) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a template's id");
	if (renameat(state_fd, from, state_fd, to) < 0 && errno != ENOENT)
		return err_errno(e, errno, "cannot move a build's folder to the trash");
	return 0;
}

int template_custom_drop_all(int state_fd, struct err *e)
{
	_cleanup_close_ int fd = sys_openat2(state_fd, "disk/b", O_RDONLY | O_DIRECTORY, 0, RESOLVE);
	_cleanup_names_ struct names l = NAMES_INIT;
	int r = fd < 0 ? fd : names_read(&l, fd);

	if (r < 0)
		return r == -ENOENT ? 0 : err_errno(e, -r, "cannot list the builds' folders");
	for (size_t i = 0; r == 0 && i < l.n; i++)
		r = template_custom_drop(state_fd, names_at(&l, i), e);
	return r;
}

/* ---- capture ---- */

/* The base's layers, the bottom one first. */
static int load_base(const struct template_custom_spec *s, struct layer_info *layers, size_t *ret_n, struct err *e)
{
	_cleanup_template_ struct template *t = NULL;
	int r = template_load(s->state_fd, s->base, &t, e);

	if (r < 0)
		return r;
	if (strcmp(t->digest ? t->digest : "", s->base_digest) != 0)
		return err_set(e, ERR_UNAVAILABLE, ESTALE, "template_unavailable",
			       "template %s was replaced while this one was built on it; build again", s->base);
	if (t->n_layers >= TEMPLATE_MAX_LAYERS)
		return err_set(e, ERR_TOO_LARGE, E2BIG, NULL, "template %s has no room for another layer", s->base);
	*ret_n = t->n_layers;
	for (size_t i = 0; i < t->n_layers; i++)
		if (layer_load(s->state_fd, t->layers[t->n_layers - 1 - i], &layers[i], e) < 0)
			return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
				       "a layer of template %s has no readable description; make that template again",
				       s->base);
	return 0;
}

/* disk/b/<id> in place of the new layer's empty root. */
static int put_in_place(const struct template_custom_spec *s, struct layer_new *n, struct err *e)
{
	char from[64];

	(void)text_format(from, sizeof(from), "disk/b/%s", s->id);
	if (renameat(s->state_fd, from, n->dir_fd, LAYER_ROOT) < 0)
		return err_errno(e, errno, "cannot take what the steps made");
	closep(&n->root_fd);
	n->root_fd = sys_openat2(n->dir_fd, LAYER_ROOT, O_RDONLY | O_DIRECTORY, 0, RESOLVE);
	return n->root_fd < 0 ? err_errno(e, -n->root_fd, "cannot open what the steps made") : 0;
}

static int make_layer(const struct template_custom_spec *s, struct layer_info *ret, struct err *e)
{
	const struct layer_env env = { s->state_fd, s->sandbox_uid, s->single_id };
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct layer_facts f = { .recipe = TEMPLATE_CUSTOM_RECIPE };
	char digest[TEXT_SHA256_SIZE], id[LAYER_ID_SIZE];
	uint64_t bytes = 0;
	int r = layer_begin(&env, &n, e);

	if (r == 0)
		r = put_in_place(s, &n, e);
	if (r == 0)
		r = template_scrub(n.root_fd, e);
	if (r == 0)
		r = treehash(n.root_fd, digest, &bytes, e);
	if (r < 0)
		return r;
	/* One that is there keeps its own description: it may be of a built-in template. */
	(void)snprintf(id, sizeof(id), "%.*s", LAYER_ID_SIZE - 1, digest);
	if (layer_load(s->state_fd, id, ret, NULL) == 0)
		return 0;
	(void)text_format(f.source, sizeof(f.source), "%zu custom step%s", s->n_steps, s->n_steps == 1 ? "" : "s");
	return layer_commit(&n, digest, bytes, &f, ret, e);
}

int template_custom_capture(const struct template_custom_spec *s, struct template_custom_result *ret, struct err *e)
{
	_cleanup_free_ struct layer_info *layers = calloc(TEMPLATE_MAX_LAYERS, sizeof(*layers));
	_cleanup_template_ struct template *t = NULL;
	_cleanup_close_ int lock = -1;
	size_t n = 0;
	int r;

	if (!layers)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	lock = layer_lock(s->state_fd, e);
	if (lock < 0)
		return lock;
	r = load_base(s, layers, &n, e);
	if (r == 0)
		r = make_layer(s, &layers[n], e);
	if (r == 0)
		r = template_save(s->state_fd, s->id, layers, n + 1, e);
	if (r == 0)
		r = template_load(s->state_fd, s->id, &t, e);
	if (r != 0)
		return r;
	ret->layer_bytes = layers[n].size_bytes;
	ret->size_bytes = t->size_bytes;
	(void)snprintf(ret->digest, sizeof(ret->digest), "%s", t->digest);
	return 0;
}

/* ---- removal ---- */

struct listed {
	const char *id;
	bool found;
};

static int lists_layer(void *arg, const struct template *t)
{
	struct listed *l = arg;

	for (size_t i = 0; i < t->n_layers; i++)
		l->found |= strcmp(t->layers[i], l->id) == 0;
	return l->found;
}

/* Its own layer, unless another template was built on it or came to the same. */
static int remove_layer(int state_fd, const char *id, struct err *e)
{
	struct listed l = { .id = id };
	struct layer_info i;
	int r;

	if (layer_load(state_fd, id, &i, NULL) < 0 || strcmp(i.facts.recipe, TEMPLATE_CUSTOM_RECIPE) != 0)
		return 0;
	r = template_each(state_fd, lists_layer, &l, e);
	return r < 0 ? r : l.found ? 0 : layer_remove(state_fd, id, e);
}

int template_custom_sweep(int state_fd, struct err *e)
{
	_cleanup_close_ int lock = layer_lock(state_fd, e);

	return lock < 0 ? lock : template_sweep_layers(state_fd, e);
}

int template_custom_remove(int state_fd, const char *id, struct err *e)
{
	_cleanup_template_ struct template *t = NULL;
	_cleanup_close_ int lock = -1;
	char path[64];
	int r = 0;

	if (!template_custom_id_valid(id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a custom template's id");
	lock = layer_lock(state_fd, e);
	if (lock < 0)
		return lock;
	(void)template_load(state_fd, id, &t, NULL);
	(void)text_format(path, sizeof(path), "templates/%s.json", id);
	if (unlinkat(state_fd, path, 0) < 0 && errno != ENOENT)
		return err_errno(e, errno, "cannot remove template %s", id);
	for (size_t i = 0; r == 0 && t && i < t->n_layers; i++)
		r = remove_layer(state_fd, t->layers[i], e);
	return r;
}
