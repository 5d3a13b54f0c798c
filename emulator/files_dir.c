/* Listing: one pass over the directory into memory, sorted by bytes, so that paging is stable whatever
 * order the file system has. With a limit only the smallest names behind `after` are kept: the pile is
 * cut back to them whenever it has doubled, so a page costs memory for the page, not for the directory. */

#include "emulator/files-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "emulator/base/buf.h"

#define READ_SIZE (64u << 10)
#define PRUNE_SLACK 1024u

struct files_dir {
	int fd;
	struct buf names; /* each with its NUL */
	uint32_t *at;	  /* where in names each one begins */
	size_t n, cap, next;
	size_t limit; /* 0: none */
	bool more;
	char shown[256];
};

void files_dir_free(struct files_dir *d)
{
	if (!d)
		return;
	closep(&d->fd);
	buf_free(&d->names);
	free(d->at);
	free(d);
}

static void files_dir_freep(struct files_dir **d)
{
	files_dir_free(*d);
}

bool files_dir_more(const struct files_dir *d)
{
	return d->more;
}

static int compare(const void *a, const void *b, void *names)
{
	return strcmp((const char *)names + *(const uint32_t *)a, (const char *)names + *(const uint32_t *)b);
}

static void sort_names(struct files_dir *d)
{
	if (d->n > 1)
		qsort_r(d->at, d->n, sizeof(*d->at), compare, d->names.p);
}

/* Keeps the smallest limit + 1 names; the one too many says that there are more. */
static int prune(struct files_dir *d)
{
	struct buf kept = BUF_INIT(d->names.max);
	int r = 0;

	sort_names(d);
	d->n = MIN(d->n, d->limit + 1);
	for (size_t i = 0; i < d->n && r >= 0; i++) {
		const char *name = d->names.p + d->at[i];

		d->at[i] = (uint32_t)kept.len;
		r = buf_add(&kept, name, strlen(name) + 1);
	}
	buf_free(&d->names);
	d->names = kept;
	return r;
}

static int add_name(struct files_dir *d, const char *name)
{
	uint32_t at = (uint32_t)d->names.len;
	int r;

	if (d->n == d->cap) {
		size_t cap = d->cap ? d->cap * 2 : 64;
		uint32_t *p = reallocarray(d->at, cap, sizeof(*p));

		if (!p)
			return -ENOMEM;
		d->at = p;
		d->cap = cap;
	}
	r = buf_add(&d->names, name, strlen(name) + 1);
	if (r < 0)
		return r;
	d->at[d->n++] = at;
	if (d->limit > 0 && d->n > 2 * d->limit + PRUNE_SLACK)
		return prune(d);
	return 0;
}

static int read_names(struct files_dir *d, const char *after)
{
	_cleanup_free_ char *buf = malloc(READ_SIZE);

	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = getdents64(d->fd, buf, READ_SIZE);

		if (n <= 0)
			return n < 0 ? -errno : 0;
		for (ssize_t i = 0; i < n;) {
			const struct dirent64 *en = (const struct dirent64 *)(const void *)(buf + i);
			int r = 0;

			i += en->d_reclen;
			if (strcmp(en->d_name, ".") == 0 || strcmp(en->d_name, "..") == 0)
				continue;
			if (!after || strcmp(en->d_name, after) > 0)
				r = add_name(d, en->d_name);
			if (r < 0)
				return r;
		}
	}
}

static struct files_dir *files_dir_new(const char *path, uint32_t limit)
{
	struct files_dir *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->fd = -1;
	d->names = BUF_INIT(FILES_DIR_MAX_BYTES);
	d->limit = limit;
	(void)snprintf(d->shown, sizeof(d->shown), "%s", path);
	return d;
}

int files_dir_open(const struct files_ctx *c, const char *path, const char *after, uint32_t limit,
		   struct files_dir **ret, struct err *e)
{
	_cleanup_(files_dir_freep) struct files_dir *d = NULL;
	int r = files_check_path(path, e);

	if (r < 0)
		return r;
	d = files_dir_new(path, limit);
	if (!d)
		return err_errno(e, ENOMEM, "list a directory");
	r = d->fd = files_open_in(c, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
	if (r < 0)
		return files_err(e, -r, path, "list");
	r = read_names(d, after);
	if (r == -EMSGSIZE)
		return err_set(e, ERR_TOO_LARGE, E2BIG, "payload_too_large",
			       "the directory has too many entries for one answer; page through it with limit");
	if (r < 0)
		return files_err(e, -r, path, "list");
	sort_names(d);
	if (limit > 0 && d->n > limit) {
		d->n = limit;
		d->more = true;
	}
	*ret = TAKE_PTR(d);
	return 0;
}

int files_dir_next(struct files_dir *d, struct files_entry *ret, struct err *e)
{
	while (d->next < d->n) {
		const char *name = d->names.p + d->at[d->next++];
		struct stat st;

		if (fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0) {
			files_entry_from_stat(&st, name, ret);
			return 1;
		}
		if (errno != ENOENT)
			return files_err(e, errno, d->shown, "list");
	}
	return 0;
}
