/* Theory of operation. The tree is walked depth first, each folder's names sorted, with one frame a level
 * (no recursion; beyond KEEP_FDS levels a folder is closed while one below it is walked). Each entry is
 * stat'ed and opened by its folder's fd and O_NOFOLLOW. libarchive formats the tar (pax); the bytes it
 * makes are hashed and compressed here.
 *
 *   character device 0/0, or a file marked user.overlay.whiteout   -> an empty file ".wh.NAME"
 *   a folder with user.overlay.opaque=y                            -> the folder, then ".wh..wh..opq" in it
 *   a file with several names                                     -> data once, then hardlinks
 *   holes                                                         -> GNU sparse 1.0
 *   other user.overlay.* attributes                               -> dropped, the overlay's own bookkeeping
 *   security.capability                                           -> without the namespace it counts in
 *   sockets                                                       -> left out, counted
 *
 * A large tar is hashed and compressed by processes of their own: once PIPE_AFTER bytes were made, the rest goes to
 * them, with the hash and the compressor as they were (rootfs/snapshot_pipe.h).
 *
 * The same content gives the same bytes: sorted, no access or change times, no user names, no device or
 * inode numbers. Neither redirects nor metadata-only copies can be in an upper mounted with "userxattr"
 * (overlayfs documentation, "User xattr"); should one be there, the snapshot is refused, not wrong. */

#include "rootfs/snapshot_tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <locale.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <zstd.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/snapshot_pipe.h"

#define NOBODY 65534
#define KEEP_FDS 64
#define MAX_DEPTH (PATH_MAX / 2)
#define READ_SIZE (1u << 20)
#define HOLE_SIZE (16u << 20)
#define NAMES_MAX (512u << 20) /* of the folders that are being walked */
#define EXTENTS_MAX 65536      /* of one file; what comes behind is stored with its holes filled */
#define ZSTD_LEVEL 1
#define PIPE_AFTER (8u << 20)
#define OUT_SIZE (1u << 20)
#define WRITE_BACK (16u << 20)
#define RESOLVE_INSIDE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)
#define OVL "user.overlay."

struct inode {
	dev_t dev;
	ino_t ino;
};

/* A file with several names, and the first of them. */
struct link {
	struct inode at;
	UT_hash_handle hh;
	char path[];
};

struct frame {
	int fd; /* -1: closed for now */
	size_t path_len;
	char *text; /* all names */
	char **names;
	size_t text_len, n, i;
};

struct tarer {
	const struct snapshot_tar_spec *s;
	struct snapshot_tar_result *res;
	struct err *e;
	struct archive *a;
	struct archive_entry *entry;
	ZSTD_CCtx *z;
	char *out;
	size_t out_cap;
	uint64_t on_its_way; /* bytes of out_fd that the disk was told of */
	char *in, *hole;     /* hole: zeros nobody ever writes to */
	int write_error;     /* of out_fd: negative errno */
	struct snapshot_pipe pipe;
	bool pipe_tried, piped;
	struct sha256_ctx sha;
	struct link *links;
	struct frame *frames; /* MAX_DEPTH + 1 */
	size_t depth;
	size_t names_total;
	char path[PATH_MAX]; /* of the entry at hand, without a leading slash */
};

static const char *shown(const char *path, char ret[static 129])
{
	size_t n = strnlen(path, 128);

	for (size_t i = 0; i < n; i++)
		ret[i] = path[i] >= 0x20 && path[i] < 0x7f ? path[i] : '?';
	ret[n] = '\0';
	return ret;
}

static int refuse(struct tarer *t, const char *why)
{
	char name[129];

	return err_set(t->e, ERR_UNSUPPORTED, EOPNOTSUPP, "snapshot_unsupported", "no snapshot can be made: /%s: %s",
		       shown(t->path, name), why);
}

static int entry_errno(struct tarer *t, int errnum, const char *what)
{
	char name[129];

	return err_errno(t->e, errnum, "snapshot: cannot %s /%s", what, shown(t->path, name));
}

static bool cancelled(const struct tarer *t)
{
	return t->s->cancelled && *t->s->cancelled;
}

/* ---- out: hash, compress, write ---- */

/* The disk works while we do: the fsync at the end then has little to wait for. */
static void write_back(struct tarer *t)
{
	if (t->res->size_bytes - t->on_its_way < WRITE_BACK)
		return;
	(void)sync_file_range(t->s->out_fd, (off_t)t->on_its_way, (off_t)(t->res->size_bytes - t->on_its_way),
			      SYNC_FILE_RANGE_WRITE);
	t->on_its_way = t->res->size_bytes;
}

static int compress(struct tarer *t, const void *p, size_t n, ZSTD_EndDirective how)
{
	ZSTD_inBuffer in = { .src = p, .size = n };
	size_t left;

	do {
		ZSTD_outBuffer out = { .dst = t->out, .size = t->out_cap };
		int r;

		left = ZSTD_compressStream2(t->z, &out, &in, how);
		if (ZSTD_isError(left))
			return -EIO;
		r = fd_write_all(t->s->out_fd, t->out, out.pos);
		if (r < 0)
			return r;
		t->res->size_bytes += out.pos;
		write_back(t);
	} while (how == ZSTD_e_end ? left != 0 : in.pos < in.size);
	return 0;
}

static int take(void *arg, const void *p, size_t n)
{
	return compress(arg, p, n, p ? ZSTD_e_continue : ZSTD_e_end);
}

/* Whether or not it began: one try. */
static void start_pipe(struct tarer *t)
{
	t->pipe_tried = true;
	t->piped = snapshot_pipe_start(&t->pipe, &t->sha, take, t);
}

static int end_pipe(struct tarer *t)
{
	int r = snapshot_pipe_end(&t->pipe, true, &t->sha);
	struct stat st;

	if (r == 0 && fstat(t->s->out_fd, &st) == 0)
		t->res->size_bytes = (uint64_t)st.st_size;
	return r;
}

static int pass_on(struct tarer *t, const void *p, size_t n)
{
	int r;

	if (!t->pipe_tried && !t->s->plain && t->res->tar_bytes > PIPE_AFTER)
		start_pipe(t);
	t->res->tar_bytes += n;
	if (t->piped) {
		r = fd_write_all(t->pipe.fd, p, n);
		if (r != -EPIPE)
			return r;
		r = end_pipe(t); /* it says why */
		return r < 0 ? r : -EIO;
	}
	sha256_update(&t->sha, n, p);
	if (!t->s->plain)
		return compress(t, p, n, ZSTD_e_continue);
	t->res->size_bytes += n;
	return fd_write_all(t->s->out_fd, p, n);
}

static la_ssize_t on_tar(struct archive *a, void *arg, const void *p, size_t n)
{
	struct tarer *t = arg;

	if (t->write_error == 0)
		t->write_error = pass_on(t, p, n);
	if (t->write_error == 0)
		return (la_ssize_t)n;
	archive_set_error(a, -t->write_error, "write error");
	return -1;
}

static int archive_failed(struct tarer *t, const char *what)
{
	const char *why = archive_error_string(t->a);
	char text[129];

	if (t->write_error)
		return err_errno(t->e, -t->write_error, "cannot write the snapshot");
	return err_set(t->e, ERR_IO, EIO, NULL, "snapshot: cannot %s: %s", what, shown(why ? why : "unknown", text));
}

static int put_header(struct tarer *t)
{
	if (++t->res->entries % 256 == 0 && cancelled(t))
		return err_set(t->e, ERR_NOT_READY, ECANCELED, NULL, "the snapshot was cancelled");
	/* A name that is no UTF-8 is a warning: it is then written as the bytes it is. */
	return archive_write_header(t->a, t->entry) < ARCHIVE_WARN ? archive_failed(t, "write an entry") : 0;
}

/* ---- an entry's properties ---- */

static la_int64_t owner(const struct tarer *t, uid_t id)
{
	if (t->s->single_id)
		return id == t->s->sandbox_uid ? 0 : NOBODY;
	if (id < t->s->sandbox_uid || id - t->s->sandbox_uid > NOBODY)
		return NOBODY;
	return id - t->s->sandbox_uid;
}

static void fill_entry(struct tarer *t, const char *path, const struct stat *st)
{
	struct archive_entry *en = archive_entry_clear(t->entry);

	archive_entry_set_pathname(en, path);
	archive_entry_set_filetype(en, st->st_mode & S_IFMT);
	archive_entry_set_perm(en, st->st_mode & 07777);
	archive_entry_set_uid(en, owner(t, st->st_uid));
	archive_entry_set_gid(en, owner(t, st->st_gid));
	archive_entry_set_mtime(en, st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	archive_entry_set_size(en, S_ISREG(st->st_mode) ? st->st_size : 0);
}

/* capabilities(7): version 3 names a root of the emulator's namespace; in the tar it is the reader's. */
static void add_capability(struct tarer *t, const char *value, size_t size)
{
	struct vfs_ns_cap_data cap = { 0 };

	if (size != XATTR_CAPS_SZ_2 && size != XATTR_CAPS_SZ_3)
		return;
	memcpy(&cap, value, size);
	cap.magic_etc = (cap.magic_etc & ~(uint32_t)VFS_CAP_REVISION_MASK) | VFS_CAP_REVISION_2;
	archive_entry_xattr_add_entry(t->entry, "security.capability", &cap, XATTR_CAPS_SZ_2);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct marks {
	bool opaque, whiteout;
};

static int take_xattr(struct tarer *t, const char *name, const char *value, size_t n, struct marks *m)
{
	if (strncmp(name, OVL, strlen(OVL)) == 0) {
		const char *which = name + strlen(OVL);

		m->opaque |= strcmp(which, "opaque") == 0 && n == 1 && value[0] == 'y';
		m->whiteout |= strcmp(which, "whiteout") == 0;
		if (strcmp(which, "redirect") == 0 || strcmp(which, "metacopy") == 0)
			return refuse(t, "its content is elsewhere (overlay redirect)");
	} else if (strcmp(name, "security.capability") == 0) {
		add_capability(t, value, n);
	} else if (strncmp(name, "user.", 5) == 0) {
		archive_entry_xattr_add_entry(t->entry, name, value, n);
	}
	return 0;
}

/* xattr(7): at most 64 KiB of names, and as much a value. Sorted, so that the order is no accident. */
static int take_xattrs(struct tarer *t, int fd, struct marks *m)
{
	char list[XATTR_LIST_MAX + 1], value[XATTR_SIZE_MAX], *names[XATTR_LIST_MAX / 6];
	ssize_t n = flistxattr(fd, list, XATTR_LIST_MAX);
	size_t count = 0;
	int r = 0;

	if (n < 0)
		return errno == ENOTSUP ? 0 : entry_errno(t, errno, "read the attributes of");
	list[n] = '\0';
	for (char *p = list; p < list + n && count < ARRAY_SIZE(names); p += strlen(p) + 1)
		names[count++] = p;
	qsort(names, count, sizeof(*names), compare_names);
	for (size_t i = 0; i < count && r == 0; i++) {
		n = fgetxattr(fd, names[i], value, sizeof(value));
		if (n < 0)
			r = entry_errno(t, errno, "read an attribute of");
		else
			r = take_xattr(t, names[i], value, (size_t)n, m);
	}
	return r;
}

/* ---- entries ---- */

static int put_marker(struct tarer *t, const char *folder, size_t folder_len, const char *name, const char *suffix)
{
	const struct stat st = { .st_mode = S_IFREG | 0600, .st_uid = t->s->sandbox_uid, .st_gid = t->s->sandbox_uid };
	char path[PATH_MAX + 8];

	if (text_format(path, sizeof(path), "%.*s%s%s%s", (int)folder_len, folder, folder_len ? "/" : "", name,
			suffix) < 0)
		return refuse(t, "its path is too long");
	fill_entry(t, path, &st);
	return put_header(t);
}

/* The hardlink's target when this inode was seen; else notes it. */
static int find_link(struct tarer *t, const struct stat *st, const char **ret)
{
	struct inode at;
	struct link *l;
	size_t n = strlen(t->path) + 1;

	memset(&at, 0, sizeof(at));
	at.dev = st->st_dev;
	at.ino = st->st_ino;
	HASH_FIND(hh, t->links, &at, sizeof(at), l);
	if (l) {
		*ret = l->path;
		return 0;
	}
	l = calloc(1, sizeof(*l) + n);
	if (!l)
		return err_errno(t->e, ENOMEM, "snapshot");
	l->at = at;
	memcpy(l->path, t->path, n);
	HASH_ADD(hh, t->links, at, sizeof(at), l);
	if (!l->hh.tbl) {
		free(l);
		return err_errno(t->e, ENOMEM, "snapshot");
	}
	*ret = NULL;
	return 0;
}

/* Tells libarchive where data is. lseek(2): SEEK_DATA past the last data is ENXIO. */
static void map_holes(struct tarer *t, int fd, off_t size)
{
	unsigned int n = 0;

	for (off_t at = 0; at < size;) {
		off_t from = lseek(fd, at, SEEK_DATA), to;

		if (from < 0) {
			if (errno == ENXIO && n == 0)
				archive_entry_sparse_add_entry(t->entry, 0, 0);
			return;
		}
		to = ++n == EXTENTS_MAX ? size : lseek(fd, from, SEEK_HOLE);
		if (to < 0 || to > size)
			to = size;
		if (from == 0 && to == size)
			return;
		archive_entry_sparse_add_entry(t->entry, from, to - from);
		at = to;
	}
}

static int put_zeros(struct tarer *t, off_t n)
{
	while (n > 0) {
		la_ssize_t k = archive_write_data(t->a, t->hole, MIN((size_t)n, (size_t)HOLE_SIZE));

		if (k <= 0)
			return archive_failed(t, "write a file");
		n -= (off_t)k;
	}
	return 0;
}

/* libarchive wants holes as zeros, and leaves them out of the tar where map_holes said so. */
static int put_data(struct tarer *t, int fd, off_t size)
{
	off_t at = 0;
	int r = 0;

	while (at < size && r == 0) {
		off_t data = lseek(fd, at, SEEK_DATA);
		ssize_t n;

		if (data < 0 || data > size)
			data = errno == ENXIO || data > size ? size : at;
		r = put_zeros(t, data - at);
		at = data;
		if (r < 0 || at >= size)
			break;
		if (cancelled(t))
			return err_set(t->e, ERR_NOT_READY, ECANCELED, NULL, "the snapshot was cancelled");
		n = pread(fd, t->in, (size_t)MIN((off_t)READ_SIZE, size - at), at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return entry_errno(t, errno, "read");
		if (n == 0)
			return put_zeros(t, size - at);
		if (archive_write_data(t->a, t->in, (size_t)n) != n)
			return archive_failed(t, "write a file");
		at += n;
	}
	return r;
}

static int put_file(struct tarer *t, int dirfd, const char *name, const struct stat *st)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME | O_CLOEXEC);
	size_t folder = strlen(t->path) - strlen(name);
	struct marks m = { 0 };
	int r;

	if (fd < 0 && errno == EPERM) /* O_NOATIME is for owners and for the capable (open(2)) */
		fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return entry_errno(t, errno, "open");
	fill_entry(t, t->path, st);
	r = take_xattrs(t, fd, &m);
	if (r < 0)
		return r;
	if (m.whiteout && st->st_size == 0)
		return put_marker(t, t->path, folder ? folder - 1 : 0, ".wh.", name);
	map_holes(t, fd, st->st_size);
	t->res->file_bytes += (uint64_t)st->st_size;
	r = put_header(t);
	return r < 0 ? r : put_data(t, fd, st->st_size);
}

static int put_symlink(struct tarer *t, int dirfd, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

	if (n < 0)
		return entry_errno(t, errno, "read");
	target[n] = '\0';
	fill_entry(t, t->path, st);
	archive_entry_set_symlink(t->entry, target);
	return put_header(t);
}

static int put_hardlink(struct tarer *t, const struct stat *st, const char *target)
{
	fill_entry(t, t->path, st);
	archive_entry_set_size(t->entry, 0);
	archive_entry_set_hardlink(t->entry, target);
	return put_header(t);
}

static int put_fifo(struct tarer *t, const struct stat *st)
{
	fill_entry(t, t->path, st);
	return put_header(t);
}

/* What is no folder. */
static int put_leaf(struct tarer *t, int dirfd, const char *name, const struct stat *st)
{
	size_t folder = strlen(t->path) - strlen(name);
	const char *target = NULL;
	int r;

	if (S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0))
		return put_marker(t, t->path, folder ? folder - 1 : 0, ".wh.", name);
	if (strncmp(name, ".wh.", 4) == 0)
		return refuse(t, "names with .wh. at the start mean deletions in a layer");
	if (S_ISSOCK(st->st_mode)) {
		t->res->sockets_skipped++;
		return 0;
	}
	if (st->st_nlink > 1 && !S_ISBLK(st->st_mode) && !S_ISCHR(st->st_mode)) {
		r = find_link(t, st, &target);
		if (r < 0)
			return r;
		if (target)
			return put_hardlink(t, st, target);
	}
	if (S_ISREG(st->st_mode))
		return put_file(t, dirfd, name, st);
	if (S_ISLNK(st->st_mode))
		return put_symlink(t, dirfd, name, st);
	if (S_ISFIFO(st->st_mode))
		return put_fifo(t, st);
	return refuse(t, "a device"); /* no sandbox can make one */
}

static int put_dir(struct tarer *t, int fd, const struct stat *st)
{
	struct marks m = { 0 };
	int r;

	fill_entry(t, *t->path ? t->path : ".", st);
	r = take_xattrs(t, fd, &m);
	if (r == 0)
		r = put_header(t);
	if (r == 0 && m.opaque)
		r = put_marker(t, t->path, strlen(t->path), ".wh..wh..opq", "");
	return r;
}

/* ---- the walk ---- */

static void dirp_close(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}

static int add_name(struct tarer *t, struct frame *f, size_t *cap, const char *name)
{
	size_t n = strlen(name) + 1;

	if (f->text_len + n > *cap) {
		size_t more = MAX(*cap * 2, (size_t)4096);
		char *p = realloc(f->text, more);

		if (!p)
			return err_errno(t->e, ENOMEM, "snapshot");
		f->text = p;
		*cap = more;
	}
	memcpy(f->text + f->text_len, name, n);
	f->text_len += n;
	f->n++;
	t->names_total += n;
	if (t->names_total > NAMES_MAX)
		return refuse(t, "too many names");
	return 0;
}

static int read_names(struct tarer *t, struct frame *f)
{
	int copy = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	_cleanup_(dirp_close) DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *de;
	size_t cap = 0;
	char *p;
	int r = 0;

	if (!d) {
		r = entry_errno(t, errno, "list");
		closep(&copy);
		return r;
	}
	while (r == 0 && (errno = 0, de = readdir(d)))
		if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			r = add_name(t, f, &cap, de->d_name);
	if (r == 0 && errno)
		r = entry_errno(t, errno, "list");
	if (r < 0 || f->n == 0)
		return r;
	f->names = calloc(f->n, sizeof(*f->names));
	if (!f->names)
		return err_errno(t->e, ENOMEM, "snapshot");
	p = f->text;
	for (size_t i = 0; i < f->n; i++, p += strlen(p) + 1)
		f->names[i] = p;
	qsort(f->names, f->n, sizeof(*f->names), compare_names);
	return 0;
}

static void pop(struct tarer *t)
{
	struct frame *f = &t->frames[--t->depth];

	t->names_total -= f->text_len;
	closep(&f->fd);
	free(f->text);
	free(f->names);
}

/* The folder at t->path, whose fd is taken. */
static int push(struct tarer *t, int fd)
{
	struct frame *f = &t->frames[t->depth];

	*f = (struct frame){ .fd = fd, .path_len = strlen(t->path) };
	if (t->depth > KEEP_FDS)
		closep(&t->frames[t->depth - 1].fd);
	t->depth++;
	return read_names(t, f);
}

static int open_frame(struct tarer *t, struct frame *f)
{
	if (f->fd < 0)
		f->fd = sys_openat2(t->s->upper_fd, t->path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_INSIDE);
	return f->fd < 0 ? entry_errno(t, -f->fd, "open") : 0;
}

static int visit(struct tarer *t, struct frame *f, const char *name)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r;

	t->path[f->path_len] = '\0';
	r = open_frame(t, f);
	if (r < 0)
		return r;
	if (f->path_len + strlen(name) + 2 > sizeof(t->path))
		return refuse(t, "a path below it is longer than 4095 bytes");
	(void)snprintf(t->path + f->path_len, sizeof(t->path) - f->path_len, "%s%s", f->path_len ? "/" : "", name);
	if (fstatat(f->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return entry_errno(t, errno, "look at");
	if (!S_ISDIR(st.st_mode))
		return put_leaf(t, f->fd, name, &st);
	if (strncmp(name, ".wh.", 4) == 0)
		return refuse(t, "names with .wh. at the start mean deletions in a layer");
	fd = sys_openat2(f->fd, name, O_RDONLY | O_DIRECTORY, 0, RESOLVE_INSIDE);
	if (fd < 0)
		return entry_errno(t, -fd, "open");
	r = put_dir(t, fd, &st);
	return r < 0 ? r : push(t, TAKE_FD(fd));
}

static int walk(struct tarer *t)
{
	_cleanup_close_ int fd = openat(t->s->upper_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return entry_errno(t, errno, "open");
	r = put_dir(t, fd, &st);
	if (r == 0)
		r = push(t, TAKE_FD(fd));
	while (r == 0 && t->depth > 0) {
		struct frame *f = &t->frames[t->depth - 1];

		if (f->i == f->n)
			pop(t);
		else
			r = visit(t, f, f->names[f->i++]);
	}
	while (t->depth > 0)
		pop(t);
	return r;
}

/* ---- all of it ---- */

static int open_writers(struct tarer *t)
{
	t->a = archive_write_new();
	t->entry = archive_entry_new();
	t->z = ZSTD_createCCtx();
	t->out_cap = OUT_SIZE;
	t->out = malloc(t->out_cap);
	t->in = malloc(READ_SIZE);
	t->frames = calloc(MAX_DEPTH + 2, sizeof(*t->frames));
	t->hole = mmap(NULL, HOLE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (t->hole == MAP_FAILED)
		t->hole = NULL;
	if (!t->a || !t->entry || !t->z || !t->out || !t->in || !t->frames || !t->hole)
		return err_errno(t->e, ENOMEM, "snapshot");
	(void)ZSTD_CCtx_setParameter(t->z, ZSTD_c_compressionLevel, ZSTD_LEVEL);
	(void)ZSTD_CCtx_setParameter(t->z, ZSTD_c_checksumFlag, 1);
	if (archive_write_set_format_pax(t->a) != ARCHIVE_OK ||
	    archive_write_set_format_option(t->a, "pax", "xattrheader", "SCHILY") != ARCHIVE_OK ||
	    archive_write_set_bytes_per_block(t->a, 128 << 10) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(t->a, 1) != ARCHIVE_OK ||
	    archive_write_open(t->a, t, NULL, on_tar, NULL) != ARCHIVE_OK)
		return archive_failed(t, "begin");
	return 0;
}

static int write_all(struct tarer *t)
{
	unsigned char d[SHA256_DIGEST_SIZE];
	int r = open_writers(t);

	if (r == 0)
		r = walk(t);
	if (r == 0 && archive_write_close(t->a) != ARCHIVE_OK)
		r = archive_failed(t, "end");
	if (r == 0) {
		r = t->s->plain ? 0 : t->piped ? end_pipe(t) : compress(t, NULL, 0, ZSTD_e_end);
		if (r < 0)
			r = err_errno(t->e, -r, "cannot write the snapshot");
	}
	sha256_digest(&t->sha, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(t->res->digest + 2 * i, 3, "%02x", d[i]);
	return r;
}

int snapshot_tar_write(const struct snapshot_tar_spec *s, struct snapshot_tar_result *ret, struct err *e)
{
	/* Only in a UTF-8 locale does libarchive write names as pax wants them; thread-local, restored. */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = (locale_t)0;
	struct tarer t = { .s = s, .res = ret, .e = e, .pipe = SNAPSHOT_PIPE_INIT };
	struct sigaction ignore = { .sa_handler = SIG_IGN }, pipe_before;
	struct link *l, *next;
	int r;

	*ret = (struct snapshot_tar_result){ .tar_bytes = 0 };
	sha256_init(&t.sha);
	if (utf8)
		before = uselocale(utf8);
	(void)sigaction(SIGPIPE, &ignore, &pipe_before); /* the child's end is told by write(2) */
	r = write_all(&t);
	if (r < 0)
		t.write_error = t.write_error ? t.write_error : r; /* closing must not write on */
	(void)snapshot_pipe_end(&t.pipe, false, NULL);
	(void)sigaction(SIGPIPE, &pipe_before, NULL);
	archive_entry_free(t.entry);
	if (t.a)
		(void)archive_write_free(t.a);
	ZSTD_freeCCtx(t.z);
	free(t.out);
	free(t.in);
	free(t.frames);
	if (t.hole)
		(void)munmap(t.hole, HOLE_SIZE);
	HASH_ITER(hh, t.links, l, next)
	{
		HASH_DEL(t.links, l);
		free(l);
	}
	if (utf8) {
		(void)uselocale(before);
		freelocale(utf8);
	}
	return r;
}
