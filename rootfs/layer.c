#include "rootfs/layer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/json.h"
#include "rootfs/tree.h"
#include "rootfs/treehash.h"

#define LAYER_JSON_MAX (16u << 10)
#define LAYER_TMP ".tmp-"

static void dirp_close(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}
#define _cleanup_dir_ _cleanup_(dirp_close)

static int open_dir(int dirfd, const char *path)
{
	return sys_openat2(dirfd, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
}

bool layer_id_valid(const char *id)
{
	return strlen(id) == LAYER_ID_SIZE - 1 && strspn(id, "0123456789abcdef") == LAYER_ID_SIZE - 1;
}

/* Each entry of disk/l, until fn says other than 0. */
static int each_entry(int l_fd, int (*fn)(void *arg, int l_fd, const char *name), void *arg)
{
	int copy = open_dir(l_fd, ".");
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *de;

	if (copy < 0)
		return copy;
	d = fdopendir(copy);
	if (!d) {
		closep(&copy);
		return -ENOMEM;
	}
	while ((de = readdir(d))) {
		int r = fn(arg, l_fd, de->d_name);

		if (r != 0)
			return r;
	}
	return 0;
}

static int remove_leftover(void *arg, int l_fd, const char *name)
{
	if (strncmp(name, LAYER_TMP, strlen(LAYER_TMP)) != 0)
		return 0;
	return tree_remove(l_fd, name, arg);
}

int layer_lock(int state_fd, struct err *e)
{
	_cleanup_close_ int fd = -1, l_fd = -1;
	int r;

	fd = openat(state_fd, "templates/.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(e, errno, "cannot open the templates' lock");
	while (flock(fd, LOCK_EX) < 0)
		if (errno != EINTR)
			return err_errno(e, errno, "cannot lock the templates");
	l_fd = open_dir(state_fd, "disk/l");
	if (l_fd < 0)
		return err_errno(e, -l_fd, "cannot open disk/l");
	r = each_entry(l_fd, remove_leftover, e);
	return r < 0 ? r : TAKE_FD(fd);
}

static int make_folders(const struct layer_env *env, struct layer_new *n)
{
	if (mkdirat(n->l_fd, n->name, 0700) < 0)
		return -errno;
	n->dir_fd = open_dir(n->l_fd, n->name);
	if (n->dir_fd < 0)
		return n->dir_fd;
	/* A sandbox's root passes through it to the upper while commands run (stack.c). */
	if (fchmod(n->dir_fd, 0711) < 0 || mkdirat(n->dir_fd, LAYER_ROOT, 0700) < 0)
		return -errno;
	n->root_fd = open_dir(n->dir_fd, LAYER_ROOT);
	if (n->root_fd < 0)
		return n->root_fd;
	if (fchmod(n->root_fd, 0755) < 0)
		return -errno;
	if (!env->single_id && fchown(n->root_fd, env->sandbox_uid, (gid_t)env->sandbox_uid) < 0)
		return -errno;
	return 0;
}

int layer_begin(const struct layer_env *env, struct layer_new *ret, struct err *e)
{
	_cleanup_layer_ struct layer_new n = LAYER_NEW_INIT;
	char ulid[TEXT_ULID_SIZE];
	int r;

	n.l_fd = open_dir(env->state_fd, "disk/l");
	if (n.l_fd < 0)
		return err_errno(e, -n.l_fd, "cannot open disk/l");
	text_ulid(clock_real_ms(), ulid);
	(void)text_format(n.name, sizeof(n.name), LAYER_TMP "%s", ulid);
	r = make_folders(env, &n);
	if (r < 0)
		return err_errno(e, -r, "cannot make a folder for a layer");
	*ret = n;
	n = LAYER_NEW_INIT;
	return 0;
}

void layer_abort(struct layer_new *n)
{
	closep(&n->root_fd);
	closep(&n->dir_fd);
	if (n->l_fd >= 0 && *n->name)
		(void)tree_remove(n->l_fd, n->name, NULL);
	closep(&n->l_fd);
	*n = LAYER_NEW_INIT;
}

static const struct {
	const char *key;
	size_t offset, size;
} fact_fields[] = {
#define FACT(f)                                                                                                        \
	{                                                                                                              \
#f, offsetof(struct layer_facts, f), sizeof(((struct layer_facts *)NULL)->f)                           \
	}
	FACT(recipe), FACT(distribution), FACT(interpreter), FACT(libraries), FACT(source), FACT(stand_in),
#undef FACT
};

static int write_info(int l_fd, const struct layer_info *i, struct err *e)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	char name[LAYER_ID_SIZE + 8];
	bool ok = o != NULL;

	ok = ok && json_put(o, "format", json_object_new_int(1)) &&
	     json_put(o, "digest", json_object_new_string(i->digest)) &&
	     json_put(o, "size_bytes", json_object_new_uint64(i->size_bytes)) &&
	     json_put(o, "created_ms", json_object_new_int64(i->created_ms));
	for (size_t k = 0; ok && k < ARRAY_SIZE(fact_fields); k++) {
		const char *v = (const char *)&i->facts + fact_fields[k].offset;

		ok = !*v || json_put(o, fact_fields[k].key, json_object_new_string(v));
	}
	if (!ok)
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	(void)text_format(name, sizeof(name), "%s.json", i->id);
	return json_write_file(l_fd, name, o, e);
}

int layer_load(int state_fd, const char *id, struct layer_info *ret, struct err *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	struct layer_info i = { .size_bytes = 0 };
	uint64_t created = 0;
	char path[64];
	struct stat st;
	int r;

	if (!layer_id_valid(id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a layer's name");
	(void)text_format(path, sizeof(path), "disk/l/%s", id);
	if (fstatat(state_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode))
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "layer %s is missing", id);
	(void)text_format(path, sizeof(path), "disk/l/%s.json", id);
	if (json_read_file(state_fd, path, LAYER_JSON_MAX, &o, NULL) < 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "layer %s has no readable description", id);
	(void)text_format(i.id, sizeof(i.id), "%s", id);
	r = json_get_string(o, "digest", i.digest, sizeof(i.digest));
	if (r < 0 || strlen(i.digest) != TEXT_SHA256_SIZE - 1 || strncmp(i.digest, id, LAYER_ID_SIZE - 1) != 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "layer %s has a damaged description", id);
	(void)json_get_u64(o, "size_bytes", &i.size_bytes);
	(void)json_get_u64(o, "created_ms", &created);
	i.created_ms = (int64_t)created;
	for (size_t k = 0; k < ARRAY_SIZE(fact_fields); k++)
		(void)json_get_string(o, fact_fields[k].key, (char *)&i.facts + fact_fields[k].offset,
				      fact_fields[k].size);
	*ret = i;
	return 0;
}

/* The description goes first: a layer that is there has one. */
static int publish(struct layer_new *n, const struct layer_info *i, struct err *e)
{
	int r = write_info(n->l_fd, i, e);

	if (r < 0)
		return r;
	if (renameat2(n->dir_fd, LAYER_ROOT, n->l_fd, i->id, RENAME_NOREPLACE) < 0 && errno != EEXIST)
		return err_errno(e, errno, "cannot put layer %s in place", i->id);
	return fsync(n->l_fd) < 0 ? err_errno(e, errno, "cannot write disk/l") : 0;
}

int layer_commit(struct layer_new *n, const char *digest, uint64_t size, const struct layer_facts *facts,
		 struct layer_info *ret, struct err *e)
{
	struct layer_info i = { .size_bytes = size, .created_ms = clock_real_ms(), .facts = *facts };
	int r;

	if (digest) {
		(void)text_format(i.digest, sizeof(i.digest), "%s", digest);
	} else {
		/* The walk also takes overlayfs' bookkeeping off an upper. */
		r = treehash(n->root_fd, i.digest, &i.size_bytes, e);
		if (r < 0)
			return r;
	}
	(void)snprintf(i.id, sizeof(i.id), "%.*s", LAYER_ID_SIZE - 1, i.digest);
	if (fchmod(n->root_fd, 0755) < 0)
		return err_errno(e, errno, "cannot set the mode of the layer's root");
	if (syncfs(n->root_fd) < 0)
		return err_errno(e, errno, "cannot write the layer to disk");
	r = publish(n, &i, e);
	if (r == 0)
		*ret = i;
	return r;
}

struct find {
	int state_fd;
	const char *recipe;
	int64_t since_ms;
	struct layer_info *ret;
	bool found;
};

static int find_one(void *arg, _unused_ int l_fd, const char *name)
{
	struct find *f = arg;
	struct layer_info i;

	if (!layer_id_valid(name) || layer_load(f->state_fd, name, &i, NULL) < 0 ||
	    strcmp(i.facts.recipe, f->recipe) != 0)
		return 0;
	if (i.created_ms < f->since_ms)
		return 0;
	/* The next one must be newer. */
	f->since_ms = i.created_ms + 1;
	f->found = true;
	*f->ret = i;
	return 0;
}

int layer_find(int state_fd, const char *recipe, int64_t since_ms, struct layer_info *ret)
{
	_cleanup_close_ int l_fd = open_dir(state_fd, "disk/l");
	struct find f = { .state_fd = state_fd, .recipe = recipe, .since_ms = since_ms, .ret = ret };
	int r;

	if (l_fd < 0)
		return l_fd;
	r = each_entry(l_fd, find_one, &f);
	return r < 0 ? r : f.found ? 0 : -ENOENT;
}

/* First out of sight, then away: nobody ever mounts half of it. */
static int put_away(int l_fd, const char *name, struct err *e)
{
	char to[64];

	(void)text_format(to, sizeof(to), LAYER_TMP "%s", name);
	if (renameat(l_fd, name, l_fd, to) < 0)
		return errno == ENOENT ? 0 : err_errno(e, errno, "cannot remove layer %s", name);
	return tree_remove(l_fd, to, e);
}

int layer_remove(int state_fd, const char *id, struct err *e)
{
	_cleanup_close_ int l_fd = open_dir(state_fd, "disk/l");
	char info[LAYER_ID_SIZE + 8];
	int r;

	if (l_fd < 0)
		return err_errno(e, -l_fd, "cannot open disk/l");
	if (!layer_id_valid(id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a layer's name");
	(void)text_format(info, sizeof(info), "%s.json", id);
	r = put_away(l_fd, id, e);
	return r < 0 ? r : put_away(l_fd, info, e);
}

struct sweep {
	bool (*used)(void *arg, const char *id);
	void *arg;
	struct err *e;
};

static int sweep_one(void *arg, int l_fd, const char *name)
{
	struct sweep *s = arg;
	char id[LAYER_ID_SIZE];
	bool info = strlen(name) == LAYER_ID_SIZE - 1 + 5 && strcmp(name + LAYER_ID_SIZE - 1, ".json") == 0;

	if (!info && strlen(name) != LAYER_ID_SIZE - 1)
		return 0;
	(void)snprintf(id, sizeof(id), "%.*s", LAYER_ID_SIZE - 1, name);
	if (!layer_id_valid(id) || s->used(s->arg, id))
		return 0;
	return put_away(l_fd, name, s->e);
}

static int stop_at_first(_unused_ void *arg, _unused_ const char *slot)
{
	return 1;
}

int layer_sweep(int state_fd, bool (*used)(void *arg, const char *id), void *arg, struct err *e)
{
	_cleanup_close_ int l_fd = -1;
	struct sweep s = { used, arg, e };

	if (tree_each_slot(state_fd, stop_at_first, NULL) != 0)
		return 0;
	l_fd = open_dir(state_fd, "disk/l");
	if (l_fd < 0)
		return err_errno(e, -l_fd, "cannot open disk/l");
	return each_entry(l_fd, sweep_one, &s);
}
