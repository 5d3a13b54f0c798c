/* Templates as the daemon keeps them: parsed once, looked at again only when their file changed, and
 * held by whoever is just being made of one. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/text.h"
#include "emulator/sandbox-internal.h"
#include "emulator/store_tmpl.h"
#include "rootfs/template_custom.h"

/* Templates of one state dir are few; more names than this in memory means somebody makes them up. */
#define CACHE_MAX 256

void template_ref_put(struct template_ref *r)
{
	if (!r || --r->refs > 0)
		return;
	template_free(r->t);
	free(r);
}

static void forget(struct sandboxes *m, struct template_ref *r)
{
	HASH_DEL(m->templates, r);
	template_ref_put(r);
}

void template_refs_free(struct sandboxes *m)
{
	struct template_ref *r, *next;

	HASH_ITER(hh, m->templates, r, next)
	forget(m, r);
}

static bool same_file(const struct template_ref *r, const struct stat *st)
{
	return r->mtime.tv_sec == st->st_mtim.tv_sec && r->mtime.tv_nsec == st->st_mtim.tv_nsec &&
	       r->ino == st->st_ino && r->size == (uint64_t)st->st_size;
}

int template_ref_get(struct sandboxes *m, const char *name, struct template_ref **ret, struct err *e)
{
	char path[TEMPLATE_NAME_MAX + 32];
	struct template_ref *r;
	struct stat st = { 0 };
	bool there;
	int k;

	if (!template_name_valid(name))
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "template \"%.64s\" does not exist",
			       name);
	if (text_format(path, sizeof(path), "templates/%s.json", name) < 0)
		return err_set(e, ERR_INTERNAL, ENAMETOOLONG, NULL, "template name too long");
	there = fstatat(m->c.state_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
	HASH_FIND_STR(m->templates, name, r);
	if (r && there && same_file(r, &st)) {
		r->refs++;
		*ret = r;
		return 0;
	}
	if (r)
		forget(m, r);
	r = calloc(1, sizeof(*r));
	if (!r)
		return err_errno(e, ENOMEM, "can't load template %s", name);
	k = template_load(m->c.state_fd, name, &r->t, e);
	if (k < 0) {
		free(r);
		return k;
	}
	r->refs = 1;
	r->mtime = st.st_mtim;
	r->ino = st.st_ino;
	r->size = (uint64_t)st.st_size;
	(void)snprintf(r->name, sizeof(r->name), "%s", name);
	if (there && HASH_COUNT(m->templates) < CACHE_MAX) {
		HASH_ADD_STR(m->templates, name, r);
		if (r->hh.tbl)
			r->refs++;
	}
	*ret = r;
	return 0;
}

/* ---- custom templates ---- */

int sandbox_check_template(struct sandboxes *m, const struct account *a, const char *name, struct err *e)
{
	_cleanup_(tmpl_row_clear) struct tmpl_row row = { .id = "" };
	int r;

	if (strncmp(name, TEMPLATE_CUSTOM_PREFIX, strlen(TEMPLATE_CUSTOM_PREFIX)) != 0)
		return 0;
	r = store_tmpl_get(m->c.store, name, &row, e);
	if (r < 0)
		return r;
	if (strcmp(row.account, a->id) != 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "template_not_found", "there is no template %.64s here", name);
	if (row.status != TMPL_READY)
		return err_set(e, ERR_NOT_READY, EBUSY, "template_not_ready", "template %s is %s, not ready", name,
			       row.status == TMPL_BUILDING ? "still being built" : "one whose build failed");
	return 0;
}

void sandboxes_each_of_template(struct sandboxes *m, const char *name,
				void (*fn)(void *arg, const struct sandbox_row *row), void *arg)
{
	struct sandbox *sb, *next;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		if (strcmp(sb->row.template_name, name) == 0)
			fn(arg, &sb->row);
	}
}

void sandboxes_end_builds(struct sandboxes *m)
{
	struct sandbox *sb, *next;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		if (strncmp(sb->row.account, SANDBOX_BUILD_ACCOUNT, strlen(SANDBOX_BUILD_ACCOUNT)) == 0)
			sandbox_end(sb, "user", NULL);
	}
}
