/* Theory of operation. A stack of levels instead of recursion, each a folder with the sorted snapshot of its
 * names. Only the deepest KEEP_OPEN levels hold an fd; an older one is reopened as ".." of its child on the
 * way up, and must then be the very folder (device and inode) that was left; the child's fd keeps that inode
 * from being given away. If somebody moved the child meanwhile, the stream ends with an error: what is
 * missing could not be told from what was never there.
 *
 * A small file is read before its header is written, so a log that is written to or cut off meanwhile gets
 * the size it had. A large one is promised its size and then sent. */

#include "rootfs/treetar.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/names.h"

#define KEEP_OPEN 64u
#define MAX_LEVELS (1u << 18)
#define PATH_MAX_BYTES (4u << 20)
#define BLOCK (256u << 10) /* files up to this size are read before their header is written */
#define LINKS_MAX 200000u  /* remembered names of files with several; the rest are written as files */
#define XATTR_NAMES_SIZE 4096
#define XATTR_SIZE_MAX 65536
#define SANDBOX_NOBODY 65534
#define RESOLVE_INSIDE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)

struct level {
	int fd; /* -1: closed to save fds */
	dev_t dev;
	ino_t ino;
	struct names names;
	size_t next;
	size_t path_len; /* of the path up to this folder, with its slash */
};

struct link_key {
	uint64_t dev, ino;
};

struct link {
	struct link_key key;
	UT_hash_handle hh;
	char path[];
};

struct tarrer {
	const struct treetar_spec *s;
	struct treetar_result *res;
	struct err *e;
	struct archive *a;
	struct archive_entry *entry;
	int write_error;
	struct level *levels;
	size_t n, cap;
	struct buf path;
	struct link *links;
	char *block;
};

static bool must_stop(const struct tarrer *t)
{
	return t->s->stop && *t->s->stop;
}

static int stopped(struct tarrer *t)
{
	return err_set(t->e, ERR_NOT_READY, ECANCELED, NULL, "the archive was stopped");
}

static int read_errno(struct tarrer *t, int errnum)
{
	char shown[97];
	size_t i = 0;

	for (; t->path.p && t->path.p[i] && i < sizeof(shown) - 1; i++)
		shown[i] = t->path.p[i] >= 0x20 && t->path.p[i] < 0x7f ? t->path.p[i] : '?';
	shown[i] = '\0';
	return err_errno(t->e, errnum, "cannot read %s", shown);
}

static int writer_error(struct tarrer *t)
{
	const char *why = archive_error_string(t->a);

	if (must_stop(t))
		return stopped(t);
	if (t->write_error < 0)
		return err_errno(t->e, -t->write_error, "cannot pass the archive on");
	return err_set(t->e, ERR_INTERNAL, EIO, NULL, "the archive can't be made: %s", why ? why : "unknown reason");
}

static la_ssize_t on_write(struct archive *a, void *arg, const void *p, size_t n)
{
	struct tarrer *t = arg;

	t->write_error = must_stop(t) ? -ECANCELED : t->s->write(t->s->write_arg, p, n);
	if (t->write_error < 0) {
		archive_set_error(a, -t->write_error, "write error");
		return -1;
	}
	return (la_ssize_t)n;
}

/* ---- what an entry says ---- */

static int64_t map_owner(const struct tarrer *t, uid_t id)
{
	return id >= t->s->uid && id - t->s->uid <= SANDBOX_NOBODY ? (int64_t)(id - t->s->uid) : SANDBOX_NOBODY;
}

static void begin_entry(struct tarrer *t, const struct stat *st, mode_t type)
{
	archive_entry_clear(t->entry);
	archive_entry_copy_pathname(t->entry, t->path.p);
	archive_entry_set_filetype(t->entry, type);
	archive_entry_set_perm(t->entry, st->st_mode & 07777);
	archive_entry_set_uid(t->entry, map_owner(t, st->st_uid));
	archive_entry_set_gid(t->entry, map_owner(t, st->st_gid));
	archive_entry_set_mtime(t->entry, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	archive_entry_set_size(t->entry, 0);
}

static int put_entry(struct tarrer *t)
{
	/* A name that is not UTF-8 is a warning: it is written as it is (hdrcharset=BINARY). */
	if (archive_write_header(t->a, t->entry) < ARCHIVE_WARN)
		return writer_error(t);
	t->res->entries++;
	return 0;
}

/* What can't be read is left out: attributes are a courtesy. */
static void add_xattrs(struct tarrer *t, int fd)
{
	char list[XATTR_NAMES_SIZE];
	_cleanup_free_ char *value = NULL;
	ssize_t n = flistxattr(fd, list, sizeof(list));

	for (const char *p = list; n > 0 && p < list + n; p += strlen(p) + 1) {
		ssize_t size;

		if (strncmp(p, "user.", 5) != 0 || strncmp(p, "user.overlay.", 13) == 0)
			continue;
		if (!value)
			value = malloc(XATTR_SIZE_MAX);
		size = value ? fgetxattr(fd, p, value, XATTR_SIZE_MAX) : -1;
		if (size >= 0)
			archive_entry_xattr_add_entry(t->entry, p, value, (size_t)size);
	}
}

/* ---- files ---- */

static int put_data(struct tarrer *t, size_t n)
{
	return archive_write_data(t->a, t->block, n) == (la_ssize_t)n ? 0 : writer_error(t);
}

/* The rest of a large file; the block holds its first n bytes. */
static int put_rest(struct tarrer *t, int fd, uint64_t size, size_t n)
{
	uint64_t left = size;
	int r = 0;

	while (r == 0) {
		ssize_t k;

		r = put_data(t, n);
		left -= n;
		if (r < 0 || left == 0)
			break;
		if (must_stop(t))
			return stopped(t);
		n = (size_t)MIN(left, (uint64_t)BLOCK);
		k = fd_read_all(fd, t->block, n);
		if (k < 0)
			return read_errno(t, (int)-k);
		if ((size_t)k < n)
			return err_set(t->e, ERR_BUSY, EAGAIN, NULL, "a file shrank while it was read");
	}
	return r;
}

static int put_file(struct tarrer *t, int fd, const struct stat *st)
{
	ssize_t n = fd_read_all(fd, t->block, BLOCK);
	uint64_t size;
	int r;

	if (n < 0)
		return read_errno(t, (int)-n);
	size = n < (ssize_t)BLOCK ? (uint64_t)n : MAX((uint64_t)BLOCK, (uint64_t)st->st_size);
	begin_entry(t, st, AE_IFREG);
	archive_entry_set_size(t->entry, (la_int64_t)size);
	add_xattrs(t, fd);
	r = put_entry(t);
	if (r < 0)
		return r;
	t->res->file_bytes += size;
	return size == 0 ? 0 : put_rest(t, fd, size, (size_t)n);
}

/* The name this file was written under already, or NULL; then it is remembered. */
static const char *find_link(struct tarrer *t, const struct stat *st)
{
	struct link_key key;
	struct link *l;

	memset(&key, 0, sizeof(key));
	key.dev = st->st_dev;
	key.ino = st->st_ino;
	HASH_FIND(hh, t->links, &key, sizeof(key), l);
	if (l)
		return l->path;
	if (HASH_COUNT(t->links) >= LINKS_MAX)
		return NULL;
	l = calloc(1, sizeof(*l) + t->path.len + 1);
	if (!l)
		return NULL;
	l->key = key;
	memcpy(l->path, t->path.p, t->path.len + 1);
	HASH_ADD(hh, t->links, key, sizeof(l->key), l);
	if (!l->hh.tbl)
		free(l);
	return NULL;
}

static int add_file(struct tarrer *t, int dirfd, const char *name)
{
	_cleanup_close_ int fd =
		sys_openat2(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0, RESOLVE_INSIDE);
	const char *first;
	struct stat st;

	if (fd < 0)
		return fd == -ENOENT || fd == -ELOOP || fd == -ENXIO ? 0 : read_errno(t, -fd);
	if (fstat(fd, &st) < 0)
		return read_errno(t, errno);
	if (!S_ISREG(st.st_mode)) /* it is something else by now */
		return 0;
	if (st.st_nlink < 2)
		return put_file(t, fd, &st);
	first = find_link(t, &st);
	if (!first)
		return put_file(t, fd, &st);
	begin_entry(t, &st, AE_IFREG);
	archive_entry_copy_hardlink(t->entry, first);
	return put_entry(t);
}

static int add_symlink(struct tarrer *t, int dirfd, const char *name, const struct stat *st)
{
	ssize_t n = readlinkat(dirfd, name, t->block, BLOCK - 1);

	if (n < 0)
		return errno == ENOENT || errno == EINVAL ? 0 : read_errno(t, errno);
	t->block[n] = '\0';
	begin_entry(t, st, AE_IFLNK);
	archive_entry_copy_symlink(t->entry, t->block);
	return put_entry(t);
}

/* ---- folders ---- */

static void level_free(struct level *l)
{
	closep(&l->fd);
	names_free(&l->names);
}

static int add_level(struct tarrer *t, int fd)
{
	struct level l = { .fd = fd, .names = NAMES_INIT, .path_len = t->path.len };
	struct stat st;
	int r;

	if (t->n >= MAX_LEVELS)
		return read_errno(t, ENAMETOOLONG);
	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 32;
		struct level *p = reallocarray(t->levels, cap, sizeof(*p));

		if (!p)
			return read_errno(t, ENOMEM);
		t->levels = p;
		t->cap = cap;
	}
	if (fstat(fd, &st) < 0)
		return read_errno(t, errno);
	r = names_read(&l.names, fd);
	if (r < 0 && r != -ENOENT) /* ENOENT: removed, so empty */
		return read_errno(t, -r);
	l.dev = st.st_dev;
	l.ino = st.st_ino;
	if (t->n >= KEEP_OPEN)
		closep(&t->levels[t->n - KEEP_OPEN].fd);
	t->levels[t->n++] = l;
	return 0;
}

/* The folder dirfd/name: its entry, and its level unless something is mounted there. */
static int add_dir(struct tarrer *t, int dirfd, const char *name, struct stat *st, bool mounted)
{
	_cleanup_close_ int fd = -1;
	int r;

	if (!mounted) {
		fd = sys_openat2(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK, 0, RESOLVE_INSIDE);
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			return 0;
		if (fd < 0 && fd != -EXDEV)
			return read_errno(t, -fd);
		if (fd >= 0 && fstat(fd, st) < 0)
			return read_errno(t, errno);
	}
	if (buf_add(&t->path, "/", 1) < 0)
		return read_errno(t, ENAMETOOLONG);
	begin_entry(t, st, AE_IFDIR);
	if (fd >= 0)
		add_xattrs(t, fd);
	r = put_entry(t);
	if (r < 0 || fd < 0)
		return r;
	r = add_level(t, fd);
	if (r == 0)
		(void)TAKE_FD(fd);
	return r;
}

static void stat_from_statx(const struct statx *x, struct stat *ret)
{
	*ret = (struct stat){
		.st_mode = x->stx_mode,
		.st_uid = x->stx_uid,
		.st_gid = x->stx_gid,
		.st_mtim = { .tv_sec = x->stx_mtime.tv_sec, .tv_nsec = x->stx_mtime.tv_nsec },
	};
}

static int add_one(struct tarrer *t, int dirfd, const char *name)
{
	struct statx x;
	struct stat st;
	bool mounted;

	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &x) < 0)
		return errno == ENOENT ? 0 : read_errno(t, errno);
	stat_from_statx(&x, &st);
	mounted = (x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
	if (S_ISDIR(st.st_mode))
		return add_dir(t, dirfd, name, &st, mounted);
	if (!mounted && S_ISREG(st.st_mode))
		return add_file(t, dirfd, name);
	if (!mounted && S_ISLNK(st.st_mode))
		return add_symlink(t, dirfd, name, &st);
	if (!mounted && S_ISFIFO(st.st_mode)) {
		begin_entry(t, &st, AE_IFIFO);
		return put_entry(t);
	}
	t->res->skipped++;
	return 0;
}

/* The top level is through: back to the one above, which may have to be opened again. */
static int go_up(struct tarrer *t)
{
	struct level *l = &t->levels[t->n - 1], *up = t->n > 1 ? l - 1 : NULL;
	struct stat st;

	if (up && up->fd < 0 && up->next < up->names.n) {
		up->fd = openat(l->fd, "..", O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
		if (up->fd < 0 || fstat(up->fd, &st) < 0)
			return read_errno(t, errno);
		if (st.st_dev != up->dev || st.st_ino != up->ino)
			return err_set(t->e, ERR_BUSY, EAGAIN, NULL, "a folder was moved while it was read");
	} else if (up && up->fd < 0) {
		/* Nothing is left to do there, but the way up to its parent begins with it. */
		up->fd = openat(l->fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (up->fd < 0)
			return read_errno(t, errno);
	}
	level_free(l);
	t->n--;
	return 0;
}

static int walk(struct tarrer *t)
{
	int r = 0;

	while (r == 0 && t->n > 0) {
		struct level *l = &t->levels[t->n - 1];
		const char *name;

		if (must_stop(t))
			return stopped(t);
		if (l->next == l->names.n) {
			r = go_up(t);
			continue;
		}
		name = names_at(&l->names, l->next++);
		t->path.len = l->path_len;
		if (buf_add(&t->path, name, strlen(name)) < 0)
			return read_errno(t, ENAMETOOLONG);
		r = add_one(t, l->fd, name);
	}
	return r;
}

static int start(struct tarrer *t)
{
	_cleanup_close_ int fd = fcntl(t->s->dir_fd, F_DUPFD_CLOEXEC, 0);
	int r;

	t->block = malloc(BLOCK);
	t->entry = archive_entry_new();
	t->a = archive_write_new();
	if (!t->block || !t->entry || !t->a)
		return err_set(t->e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	if (fd < 0)
		return read_errno(t, errno);
	/* In blocks as large as a pipe likes, the last one no longer than it must be. */
	if (archive_write_set_format_pax(t->a) != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(t->a, (int)(128u << 10)) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(t->a, 1) != ARCHIVE_OK ||
	    archive_write_open(t->a, t, NULL, on_write, NULL) != ARCHIVE_OK)
		return writer_error(t);
	r = add_level(t, fd);
	if (r == 0)
		(void)TAKE_FD(fd);
	return r;
}

static void finish(struct tarrer *t)
{
	struct link *l, *next;

	HASH_ITER(hh, t->links, l, next)
	{
		HASH_DEL(t->links, l);
		free(l);
	}
	while (t->n > 0)
		level_free(&t->levels[--t->n]);
	free(t->levels);
	buf_free(&t->path);
	archive_entry_free(t->entry);
	if (t->a)
		(void)archive_write_free(t->a);
	free(t->block);
}

int treetar_write(const struct treetar_spec *s, struct treetar_result *ret, struct err *e)
{
	/* Without a UTF-8 locale libarchive takes every name beyond ASCII for broken; thread-local, restored. */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = (locale_t)0;
	struct tarrer t = { .s = s, .res = ret, .e = e, .path = BUF_INIT(PATH_MAX_BYTES) };
	int r;

	*ret = (struct treetar_result){ .entries = 0 };
	if (utf8)
		before = uselocale(utf8);
	r = start(&t);
	if (r == 0)
		r = walk(&t);
	/* Only a whole archive gets its end mark; archive_write_free would write it, too. */
	if (r < 0 && t.a)
		(void)archive_write_fail(t.a);
	else if (r == 0 && archive_write_close(t.a) != ARCHIVE_OK)
		r = writer_error(&t);
	finish(&t);
	if (utf8) {
		(void)uselocale(before);
		freelocale(utf8);
	}
	return r;
}
