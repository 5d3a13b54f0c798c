#include "rootfs/template.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/sys.h"
#include "rootfs/image.h"
#include "rootfs/json.h"
#include "rootfs/layer.h"
#include "rootfs/template-internal.h"
#include "rootfs/template_custom.h"
#include "rootfs/tree.h"
#include "rootfs/unpack.h"

#define TEMPLATE_JSON_MAX (64u << 10)
#define TEXT_MAX 8192

const char *const template_names[] = { "python-3.12", "python-3.12-bare", "node-22", "ubuntu-24.04", NULL };

void template_free(struct template *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n_layers; i++)
		free(t->layers[i]);
	free(t->distribution);
	free(t->interpreter);
	free(t->source);
	free(t->digest);
	free(t->libraries);
	free(t->stand_in);
	free(t);
}

static void template_freep(struct template **t)
{
	template_free(*t);
}
#define _cleanup_template_ _cleanup_(template_freep)

bool template_name_valid(const char *name)
{
	static const char first[] = "abcdefghijklmnopqrstuvwxyz0123456789",
			  rest[] = "abcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(name);

	if (strncmp(name, TEMPLATE_CUSTOM_PREFIX, strlen(TEMPLATE_CUSTOM_PREFIX)) == 0)
		return template_custom_id_valid(name);
	return n >= 1 && n <= TEMPLATE_NAME_MAX && strchr(first, name[0]) && strspn(name, rest) == n;
}

bool template_is_cloud(const char *name)
{
	for (size_t i = 0; template_names[i]; i++)
		if (strcmp(template_names[i], name) == 0)
			return true;
	return false;
}

/* ---- reading ---- */

/* A text member; missing or empty: NULL. */
static int get_text(struct json_object *o, const char *key, char **ret)
{
	_cleanup_free_ char *text = malloc(TEXT_MAX);
	int r;

	if (!text)
		return -ENOMEM;
	r = json_get_string(o, key, text, TEXT_MAX);
	if (r == -ENOENT || (r == 0 && !*text))
		return 0;
	if (r < 0)
		return r;
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int get_layers(struct json_object *o, struct template *t)
{
	struct json_object *a;
	size_t n;

	if (!json_object_object_get_ex(o, "layers", &a) || !json_object_is_type(a, json_type_array))
		return -EINVAL;
	n = json_object_array_length(a);
	if (n < 1 || n > TEMPLATE_MAX_LAYERS)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		struct json_object *v = json_object_array_get_idx(a, i);
		const char *id = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;

		if (!id || (size_t)json_object_get_string_len(v) != strlen(id) || !layer_id_valid(id))
			return -EINVAL;
		t->layers[i] = strdup(id);
		if (!t->layers[i])
			return -ENOMEM;
		t->n_layers++;
	}
	return 0;
}

static int parse(struct json_object *o, const char *name, struct template **ret)
{
	_cleanup_template_ struct template *t = calloc(1, sizeof(*t));
	uint64_t created = 0;
	char own_name[TEMPLATE_NAME_MAX + 1];
	int r;

	if (!t)
		return -ENOMEM;
	if (json_get_string(o, "name", own_name, sizeof(own_name)) < 0 || strcmp(own_name, name) != 0)
		return -EINVAL;
	(void)text_format(t->name, sizeof(t->name), "%s", name);
	r = get_layers(o, t);
	if (r == 0)
		r = get_text(o, "distribution", &t->distribution);
	if (r == 0)
		r = get_text(o, "interpreter", &t->interpreter);
	if (r == 0)
		r = get_text(o, "source", &t->source);
	if (r == 0)
		r = get_text(o, "digest", &t->digest);
	if (r == 0)
		r = get_text(o, "libraries", &t->libraries);
	if (r == 0)
		r = get_text(o, "stand_in", &t->stand_in);
	if (r < 0)
		return r;
	if (json_get_u64(o, "created_ms", &created) < 0 || json_get_u64(o, "size_bytes", &t->size_bytes) < 0 ||
	    !t->digest)
		return -EINVAL;
	t->created_ms = (int64_t)created;
	*ret = TAKE_PTR(t);
	return 0;
}

static int load_file(int state_fd, const char *name, struct template **ret, struct err *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	char path[TEMPLATE_NAME_MAX + 32];
	int r;

	(void)text_format(path, sizeof(path), "templates/%s.json", name);
	r = json_read_file(state_fd, path, TEMPLATE_JSON_MAX, &o, e);
	if (r < 0)
		return r;
	r = parse(o, name, ret);
	if (r == -ENOMEM)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	if (r < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "%s is damaged", path);
	return 0;
}

static int unavailable(struct err *e, const char *name, const char *what)
{
	if (template_is_cloud(name))
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
			       "template %s %s here; build it with: orkestr-emulator template build %s", name, what,
			       name);
	if (template_custom_id_valid(name))
		return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
			       "template %s %s here; build it again with POST /v1/templates", name, what);
	return err_set(e, ERR_UNAVAILABLE, ENOENT, "template_unavailable",
		       "template %s %s here; import it again with: orkestr-emulator template import %s FILE", name,
		       what, name);
}

int template_load(int state_fd, const char *name, struct template **ret, struct err *e)
{
	_cleanup_template_ struct template *t = NULL;
	char path[64];
	struct stat st;
	int r;

	if (!template_name_valid(name))
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template of that name");
	r = load_file(state_fd, name, &t, e);
	if (r == -ENOENT && template_is_cloud(name))
		return unavailable(e, name, "was not built");
	if (r == -ENOENT)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template %s here", name);
	if (r == -EINVAL)
		return unavailable(e, name, "is damaged");
	if (r < 0)
		return r;
	for (size_t i = 0; i < t->n_layers; i++) {
		(void)text_format(path, sizeof(path), "disk/l/%s", t->layers[i]);
		if (fstatat(state_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
			return unavailable(e, name, "has lost a layer");
	}
	*ret = TAKE_PTR(t);
	return 0;
}

static void dirp_close(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

/* The template name of a file name, or false. */
static bool name_of_file(const char *file, char ret[static TEMPLATE_NAME_MAX + 1])
{
	size_t n = strlen(file);

	if (n <= 5 || n - 5 > TEMPLATE_NAME_MAX || strcmp(file + n - 5, ".json") != 0)
		return false;
	memcpy(ret, file, n - 5);
	ret[n - 5] = '\0';
	return template_name_valid(ret);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

#define TEMPLATES_MAX 4096

/* All names, sorted; *ret_n of them. */
static int list_names(int state_fd, char (**ret)[TEMPLATE_NAME_MAX + 1], size_t *ret_n, struct err *e)
{
	_cleanup_free_ char(*names)[TEMPLATE_NAME_MAX + 1] = calloc(TEMPLATES_MAX, sizeof(*names));
	_cleanup_(dirp_close) DIR *d = NULL;
	struct dirent *de;
	size_t n = 0;
	int fd;

	if (!names)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	fd = sys_openat2(state_fd, "templates", O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (fd < 0 && fd != -ENOENT)
		return err_errno(e, -fd, "cannot open the templates' folder");
	d = fd < 0 ? NULL : fdopendir(fd);
	if (fd >= 0 && !d) {
		closep(&fd);
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	}
	while (d && n < TEMPLATES_MAX && (de = readdir(d)))
		if (name_of_file(de->d_name, names[n]))
			n++;
	qsort(names, n, sizeof(*names), compare_names);
	*ret = TAKE_PTR(names);
	*ret_n = n;
	return 0;
}

int template_each(int state_fd, int (*fn)(void *arg, const struct template *t), void *arg, struct err *e)
{
	_cleanup_free_ char(*names)[TEMPLATE_NAME_MAX + 1] = NULL;
	size_t n = 0;
	int r = list_names(state_fd, &names, &n, e);

	for (size_t i = 0; r == 0 && i < n; i++) {
		_cleanup_template_ struct template *t = NULL;

		/* One that is damaged is not there: template_load says so to who asks for it. */
		if (load_file(state_fd, names[i], &t, NULL) == 0)
			r = fn(arg, t);
	}
	return r;
}

/* ---- writing ---- */

static void digest_of(const struct layer_info *layers, size_t n, char ret[static 80])
{
	char hex[TEXT_SHA256_SIZE];
	unsigned char d[SHA256_DIGEST_SIZE];
	struct sha256_ctx sha;

	sha256_init(&sha);
	for (size_t i = n; i-- > 0;) {
		sha256_update(&sha, strlen(layers[i].digest), (const uint8_t *)layers[i].digest);
		sha256_update(&sha, 1, (const uint8_t *)"\n");
	}
	sha256_digest(&sha, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(hex + 2 * i, 3, "%02x", d[i]);
	(void)snprintf(ret, 80, "sha256:%s", hex);
}

/* The layers' values for one fact, the bottom one first, with sep between them. */
static int join_facts(const struct layer_info *layers, size_t n, size_t offset, const char *sep, struct buf *ret)
{
	for (size_t i = 0; i < n; i++) {
		const char *v = (const char *)&layers[i].facts + offset;

		if (*v && (buf_puts(ret, ret->len ? sep : "") < 0 || buf_puts(ret, v) < 0))
			return -ENOMEM;
	}
	return 0;
}

/* The topmost layer that knows. */
static const char *top_fact(const struct layer_info *layers, size_t n, size_t offset)
{
	for (size_t i = n; i-- > 0;) {
		const char *v = (const char *)&layers[i].facts + offset;

		if (*v)
			return v;
	}
	return NULL;
}

static bool put_text(struct json_object *o, const char *key, const char *v)
{
	return !v || !*v || json_put(o, key, json_object_new_string(v));
}

#define FACT(f) offsetof(struct layer_facts, f)

int template_save(int state_fd, const char *name, const struct layer_info *layers, size_t n, struct err *e)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(), *ids = json_object_new_array();
	_cleanup_buf_ struct buf source = BUF_INIT(TEXT_MAX - 1), stand_in = BUF_INIT(TEXT_MAX - 1);
	_cleanup_close_ int fd = -1;
	char digest[80], file[TEMPLATE_NAME_MAX + 8];
	uint64_t size = 0;
	bool ok = o && ids;

	for (size_t i = n; ok && i-- > 0; size += layers[i].size_bytes)
		ok = json_object_array_add(ids, json_object_new_string(layers[i].id)) == 0;
	digest_of(layers, n, digest);
	ok = ok && join_facts(layers, n, FACT(source), " + ", &source) == 0 &&
	     join_facts(layers, n, FACT(stand_in), "; ", &stand_in) == 0;
	ok = ok && json_put(o, "format", json_object_new_int(1)) && put_text(o, "name", name) &&
	     json_put(o, "layers", json_object_get(ids)) && put_text(o, "digest", digest) &&
	     put_text(o, "distribution", top_fact(layers, n, FACT(distribution))) &&
	     put_text(o, "interpreter", top_fact(layers, n, FACT(interpreter))) &&
	     put_text(o, "libraries", top_fact(layers, n, FACT(libraries))) && put_text(o, "source", source.p) &&
	     put_text(o, "stand_in", stand_in.p) && json_put(o, "size_bytes", json_object_new_uint64(size)) &&
	     json_put(o, "created_ms", json_object_new_int64(clock_real_ms()));
	if (!ok)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	fd = sys_openat2(state_fd, "templates", O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (fd < 0)
		return err_errno(e, -fd, "cannot open the templates' folder");
	(void)text_format(file, sizeof(file), "%s.json", name);
	return json_write_file(fd, file, o, e);
}

/* ---- removing ---- */

struct used {
	struct template **all;
	size_t n;
};

static void used_clear(struct used *u)
{
	for (size_t i = 0; i < u->n; i++)
		template_free(u->all[i]);
	free((void *)u->all);
}

static bool used_by_any(void *arg, const char *id)
{
	const struct used *u = arg;

	for (size_t i = 0; i < u->n; i++)
		for (size_t k = 0; k < u->all[i]->n_layers; k++)
			if (strcmp(u->all[i]->layers[k], id) == 0)
				return true;
	return false;
}

int template_sweep_layers(int state_fd, struct err *e)
{
	_cleanup_free_ char(*names)[TEMPLATE_NAME_MAX + 1] = NULL;
	_cleanup_(used_clear) struct used u = { .all = NULL };
	size_t n = 0;
	int r = list_names(state_fd, &names, &n, e);

	if (r < 0)
		return r;
	u.all = (struct template **)calloc(
		n + 1, sizeof(struct template *)); /* NOLINT(bugprone-sizeof-expression): pointers are meant */
	if (!u.all)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	for (size_t i = 0; i < n; i++) {
		r = load_file(state_fd, names[i], &u.all[u.n], e);
		/* Which layers a damaged one needs can't be told: nothing is thrown away on a guess. */
		if (r < 0)
			return r == -EINVAL ? 0 : r;
		u.n++;
	}
	return layer_sweep(state_fd, used_by_any, &u, e);
}

int template_remove(const struct template_ops *o, const char *name, struct err *e)
{
	_cleanup_close_ int lock = -1;
	char path[TEMPLATE_NAME_MAX + 32];

	if (!template_name_valid(name))
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "not a template's name: a-z, 0-9, '.', '_' and '-', at most %d characters",
			       TEMPLATE_NAME_MAX);
	lock = layer_lock(o->state_fd, e);
	if (lock < 0)
		return lock;
	(void)text_format(path, sizeof(path), "templates/%s.json", name);
	if (unlinkat(o->state_fd, path, 0) < 0) {
		if (errno == ENOENT)
			return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template %s here",
				       name);
		return err_errno(e, errno, "cannot remove template %s", name);
	}
	return template_sweep_layers(o->state_fd, e);
}

/* ---- importing ---- */

int template_scaffold(const struct layer_env *env, int image_fd, bool replace, const char *recipe,
		      struct layer_info *ret, bool *ret_any, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct layer_facts f = { .recipe = "" };
	int r = layer_begin(env, &n, e);

	if (r == 0)
		r = image_scaffold(env, image_fd, n.root_fd, replace, ret_any, e);
	if (r < 0 || !*ret_any)
		return r;
	(void)text_format(f.recipe, sizeof(f.recipe), "%s", recipe);
	return layer_commit(&n, NULL, 0, &f, ret, e);
}

struct import {
	const struct template_ops *o;
	const char *name;
};

static void import_progress(void *arg, uint64_t bytes, uint64_t entries)
{
	const struct import *i = arg;
	char line[96];

	(void)snprintf(line, sizeof(line), "%llu MB, %llu files", (unsigned long long)(bytes >> 20),
		       (unsigned long long)entries);
	if (i->o->progress)
		i->o->progress(i->o->progress_arg, "unpacking", line);
}

/* The archive as a layer. */
static int import_layer(struct import *i, const struct layer_env *env, int fd, const char *source,
			struct layer_info *ret, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	struct layer_facts f = { .recipe = "" };
	struct unpack_spec s = {
		.read = unpack_read_fd,
		.read_arg = &fd,
		.sandbox_uid = env->sandbox_uid,
		.single_id = env->single_id,
		.limits = UNPACK_LIMITS_DEFAULT,
		.progress = import_progress,
		.progress_arg = i,
	};
	struct unpack_result u;
	int r = layer_begin(env, &n, e);

	if (r < 0)
		return r;
	s.root_fd = n.root_fd;
	r = unpack_archive(&s, &u, e);
	if (r < 0)
		return r;
	if (u.file_bytes == 0)
		return err_set(e, ERR_INVALID, EINVAL, "archive_invalid",
			       "the archive holds no files: it is no root file system");
	image_distribution(n.root_fd, f.distribution, sizeof(f.distribution));
	image_interpreter(n.root_fd, f.interpreter, sizeof(f.interpreter));
	(void)snprintf(f.source, sizeof(f.source), "import %.200s", source);
	if (u.devices_skipped + u.xattrs_dropped + u.owners_clamped > 0)
		(void)snprintf(f.source + strlen(f.source), sizeof(f.source) - strlen(f.source),
			       " (left out: %llu device nodes, attributes of %llu files; %llu owners became nobody)",
			       (unsigned long long)u.devices_skipped, (unsigned long long)u.xattrs_dropped,
			       (unsigned long long)u.owners_clamped);
	if (template_is_cloud(i->name))
		(void)snprintf(f.stand_in, sizeof(f.stand_in), "an imported archive under the name %s", i->name);
	return layer_commit(&n, u.digest, u.file_bytes, &f, ret, e);
}

int template_import(const struct template_ops *o, const char *name, int fd, const char *source, struct err *e)
{
	const struct layer_env env = { o->state_fd, o->sandbox_uid, o->single_id };
	struct import i = { o, name };
	_cleanup_close_ int lock = -1, image_fd = -1;
	struct layer_info layers[2];
	char path[64], clean[201];
	bool scaffolded = false;
	size_t k = 0;
	int r;

	if (!template_name_valid(name) || template_custom_id_valid(name))
		return err_set(e, ERR_INVALID, EINVAL, NULL,
			       "not a template's name: a-z, 0-9, '.', '_' and '-', at most %d characters, and not "
			       "beginning with " TEMPLATE_CUSTOM_PREFIX,
			       TEMPLATE_NAME_MAX);
	for (; k < sizeof(clean) - 1 && source[k]; k++)
		clean[k] = (unsigned char)source[k] >= 0x20 && (unsigned char)source[k] < 0x7f ? source[k] : '?';
	clean[k] = '\0';
	lock = layer_lock(o->state_fd, e);
	if (lock < 0)
		return lock;
	if (o->progress)
		o->progress(o->progress_arg, "unpacking", NULL);
	r = import_layer(&i, &env, fd, clean, &layers[0], e);
	if (r < 0)
		return r;
	(void)text_format(path, sizeof(path), "disk/l/%s", layers[0].id);
	image_fd = sys_openat2(o->state_fd, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (image_fd < 0)
		return err_errno(e, -image_fd, "cannot open the new layer");
	r = template_scaffold(&env, image_fd, false, "", &layers[1], &scaffolded, e);
	if (r == 0)
		r = template_save(o->state_fd, name, layers, scaffolded ? 2 : 1, e);
	/* The layers of a template of that name that was there before. */
	return r < 0 ? r : template_sweep_layers(o->state_fd, e);
}
