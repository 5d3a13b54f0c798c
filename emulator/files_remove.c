/* Removing trees of any depth, in a tree that others may change meanwhile.
 *
 * No recursion and no paths: a stack of levels, each a directory with what was read of it. Only the
 * deepest KEEP_OPEN levels hold an fd and a buffer; an older one is reopened as ".." of its child on the
 * way up, and must then be the very directory (device and inode) that was left, or else somebody moved
 * the child and we would be deleting elsewhere. The child's fd keeps the inode in memory, so its number
 * can't have been given away.
 *
 * A directory that is not empty after a pass is read again a few times: files come and go, and a position
 * in a directory is not worth much after its entries were unlinked. Somebody who adds files for ever is
 * told that it is busy. Mount points are never entered or removed (see files.c). */

#include "emulator/files-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>

#include "emulator/base/clock.h"

#define KEEP_OPEN 64u
#define READ_SIZE 8192u
#define MAX_PASSES 16u
#define MAX_LEVELS (1u << 18)
#define MAX_SECONDS 600

struct level {
	int fd; /* -1: closed to save fds */
	dev_t dev;
	ino_t ino;
	char *buf; /* READ_SIZE bytes; NULL while closed */
	size_t pos, len;
	unsigned int passes;
	char *name; /* in its parent */
};

struct removal {
	int parent; /* borrowed: where the top is */
	struct level *levels;
	size_t n, cap;
	uint64_t steps;
	int64_t deadline_us;
};

static void level_close(struct level *l)
{
	closep(&l->fd);
	free(l->buf);
	l->buf = NULL;
	l->pos = l->len = 0;
}

static void removal_clear(struct removal *m)
{
	for (size_t i = 0; i < m->n; i++) {
		level_close(&m->levels[i]);
		free(m->levels[i].name);
	}
	free(m->levels);
}

static int level_init(struct level *l, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	l->buf = malloc(READ_SIZE);
	if (!l->buf)
		return -ENOMEM;
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	l->pos = l->len = 0;
	l->fd = fd;
	return 0;
}

/* Goes down into dirfd/name. */
static int push(struct removal *m, int dirfd, const char *name)
{
	_cleanup_close_ int fd = files_open_child(dirfd, name, O_RDONLY | O_DIRECTORY | O_NONBLOCK, true);
	struct level l = { .fd = -1 };
	int r;

	if (fd < 0)
		return fd;
	if (m->n >= MAX_LEVELS)
		return -ENAMETOOLONG;
	if (m->n == m->cap) {
		size_t cap = m->cap ? m->cap * 2 : 32;
		struct level *p = reallocarray(m->levels, cap, sizeof(*p));

		if (!p)
			return -ENOMEM;
		m->levels = p;
		m->cap = cap;
	}
	l.name = strdup(name);
	if (!l.name)
		return -ENOMEM;
	r = level_init(&l, fd);
	if (r < 0) {
		free(l.name);
		return r;
	}
	(void)TAKE_FD(fd);
	if (m->n >= KEEP_OPEN)
		level_close(&m->levels[m->n - KEEP_OPEN]);
	m->levels[m->n++] = l;
	return 0;
}

/* Makes sure that the level above the top is open, and is the one we came from. */
static int reopen_above(struct removal *m)
{
	struct level *up = &m->levels[m->n - 2];
	_cleanup_close_ int fd = -1;
	dev_t dev = up->dev;
	ino_t ino = up->ino;
	struct stat st;
	int r;

	if (up->fd >= 0)
		return 0;
	fd = openat(m->levels[m->n - 1].fd, "..", O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != dev || st.st_ino != ino)
		return -EAGAIN;
	r = level_init(up, fd);
	if (r >= 0)
		(void)TAKE_FD(fd);
	return r;
}

/* The top level was read to its end: removes it and goes up, or reads it again. */
static int pop(struct removal *m)
{
	struct level *l = &m->levels[m->n - 1];
	int at = m->parent, r;

	if (m->n > 1) {
		r = reopen_above(m);
		if (r < 0)
			return r;
		at = m->levels[m->n - 2].fd;
	}
	if (unlinkat(at, l->name, AT_REMOVEDIR) < 0 && errno != ENOENT) {
		if (errno != ENOTEMPTY && errno != EEXIST)
			return -errno;
		if (++l->passes > MAX_PASSES)
			return -EAGAIN;
		l->pos = l->len = 0;
		return lseek(l->fd, 0, SEEK_SET) < 0 ? -errno : 0;
	}
	level_close(l);
	free(l->name);
	m->n--;
	return 0;
}

/* Removes dirfd/name if it is no directory or an empty one. 1: a directory with something in it. */
static int remove_one(int dirfd, const char *name)
{
	for (unsigned int i = 0; i < MAX_PASSES; i++) {
		struct statx st;
		bool mounted, dir;
		int r = files_lstat(dirfd, name, &st, &mounted);

		if (r < 0)
			return r;
		if (mounted)
			return -EBUSY;
		dir = S_ISDIR(st.stx_mode);
		if (unlinkat(dirfd, name, dir ? AT_REMOVEDIR : 0) == 0)
			return 0;
		if (dir && (errno == ENOTEMPTY || errno == EEXIST))
			return 1;
		/* Either of these: it became a directory, or ceased to be one, since we looked. */
		if (errno != EISDIR && errno != ENOTDIR)
			return -errno;
	}
	return -EAGAIN;
}

static int step(struct removal *m)
{
	struct level *l = &m->levels[m->n - 1];
	const struct dirent64 *en;
	ssize_t n;
	int r;

	if (!l->buf) /* pop has reopened it */
		return -EBADF;
	if (l->pos >= l->len) {
		n = getdents64(l->fd, l->buf, READ_SIZE);
		if (n < 0 && errno != ENOENT)
			return -errno;
		if (n <= 0)
			return pop(m);
		l->pos = 0;
		l->len = (size_t)n;
	}
	en = (const struct dirent64 *)(const void *)(l->buf + l->pos);
	l->pos += en->d_reclen;
	if (strcmp(en->d_name, ".") == 0 || strcmp(en->d_name, "..") == 0)
		return 0;
	r = remove_one(l->fd, en->d_name);
	if (r == 1)
		r = push(m, l->fd, en->d_name);
	return r == -ENOENT || r == -ENOTDIR || r == -ELOOP ? 0 : r;
}

static int remove_tree(int parent, const char *name)
{
	_cleanup_(removal_clear) struct removal m = {
		.parent = parent,
		.deadline_us = clock_mono_us() + MAX_SECONDS * 1000000LL,
	};
	int r = push(&m, parent, name);

	while (r >= 0 && m.n > 0) {
		r = step(&m);
		if (r >= 0 && ++m.steps % 4096 == 0 && clock_mono_us() > m.deadline_us)
			r = -EAGAIN;
	}
	return r;
}

int files_remove(const struct files_ctx *c, const char *path, bool recursive, struct err *e)
{
	char dir[FILES_PATH_MAX + 1], name[FILES_NAME_MAX + 1];
	_cleanup_close_ int dirfd = -1;
	struct files_identity id;
	bool slash;
	int r = files_check_path(path, e);

	if (r < 0)
		return r;
	files_split(path, dir, name, &slash);
	if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(e, ERR_INVALID, EINVAL, "path_invalid", "the root, \".\" and \"..\" can't be removed");
	dirfd = files_open_in(c, dir, O_PATH | O_DIRECTORY);
	if (dirfd < 0)
		return files_err(e, -dirfd, path, "remove");
	files_identity_enter(&id, c->uid);
	r = files_is_pseudo(dirfd) ? -EPERM : remove_one(dirfd, name);
	if (r == 1)
		r = recursive ? remove_tree(dirfd, name) : -ENOTEMPTY;
	files_identity_leave(&id);
	return r < 0 ? files_err(e, -r, path, "remove") : 0;
}
