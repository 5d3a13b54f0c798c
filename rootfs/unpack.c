/* Theory of operation. libarchive only decodes; every file is made here, by dirfd. One reader undoes the
 * compression (its "raw" format), so the uncompressed stream passes through our hands: hashed, counted
 * against the byte budget, then read as tar by a second reader.
 *
 * A name is cut into components (a leading "/" and "." are dropped, ".." refuses the archive), the parent
 * is opened with openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV), and the last component
 * is made in it with O_EXCL after what was there is unlinked. So no symlink of the archive is ever
 * walked through, no hardlink leaves the folder, and a second entry of the same name can't write through
 * the first. Device nodes are left out (a sandbox has its own /dev). Overlayfs' own attributes
 * ("user.overlay.*") are never taken from an archive: they could redirect into other layers.
 *
 * Owners: the archive's N becomes sandbox_uid + N; beyond 65534 it becomes nobody. */

#include "rootfs/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <locale.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/sys.h"

#define SANDBOX_NOBODY 65534
#define READ_SIZE (128u << 10)
#define SYMLINK_MAX 4095
#define DIR_TIMES_MAX (64u << 20) /* memory for folders' times; beyond it they keep today's */
#define RESOLVE_INSIDE (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS)
#define WHITEOUT ".wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"

struct unpacker {
	const struct unpack_spec *s;
	struct unpack_result *res;
	struct err *e;
	int base_fd; /* root_fd, or the prefix in it */
	struct archive *outer, *tar;
	char in[READ_SIZE];
	int read_error; /* of spec->read: negative errno */
	bool over_budget;
	struct sha256_ctx sha;
	int64_t last_progress_us;
	char parent[PATH_MAX]; /* what parent_fd is */
	int parent_fd;
	struct buf dir_times; /* struct dir_time and the path with its NUL, for each folder */
};

struct dir_time {
	struct timespec mtime;
	size_t len;
};

/* One entry's place: its parent folder (borrowed) and its last component. */
struct place {
	int dirfd;
	const char *name;    /* NULL: the root folder itself */
	char path[PATH_MAX]; /* normalised, for messages and parents */
};

/* An archive's name in a message: printable and short. */
static const char *shown(const char *path, char ret[static 97])
{
	size_t i = 0;

	for (; path && path[i] && i < 96; i++)
		ret[i] = path[i] >= 0x20 && path[i] < 0x7f ? path[i] : '?';
	ret[i] = '\0';
	return ret;
}

static int refuse(struct unpacker *u, const char *path, const char *why)
{
	char name[97];

	return err_set(u->e, ERR_INVALID, EINVAL, "archive_invalid", "the archive is refused: %s: %s",
		       shown(path, name), why);
}

static int entry_errno(struct unpacker *u, int errnum, const char *path, const char *what)
{
	char name[97];

	return err_errno(u->e, errnum, "cannot %s %s", what, shown(path, name));
}

static int too_large(struct unpacker *u)
{
	return err_set(u->e, ERR_TOO_LARGE, EFBIG, "archive_too_large",
		       "the archive is refused: it holds more than %llu bytes or %llu entries",
		       (unsigned long long)u->s->limits.max_bytes, (unsigned long long)u->s->limits.max_entries);
}

static void show_progress(struct unpacker *u)
{
	int64_t now = clock_mono_us();

	if (!u->s->progress || now - u->last_progress_us < 1000000)
		return;
	u->last_progress_us = now;
	u->s->progress(u->s->progress_arg, u->res->bytes, u->res->entries);
}

/* ---- the two readers ---- */

ssize_t unpack_read_fd(void *arg, void *p, size_t n)
{
	ssize_t k;

	do
		k = read(*(int *)arg, p, n);
	while (k < 0 && errno == EINTR);
	return k < 0 ? -errno : k;
}

static la_ssize_t outer_read(struct archive *a, void *arg, const void **ret)
{
	struct unpacker *u = arg;
	ssize_t n = u->s->read(u->s->read_arg, u->in, sizeof(u->in));

	*ret = u->in;
	if (n < 0) {
		u->read_error = (int)n;
		archive_set_error(a, (int)-n, "read error");
		return -1;
	}
	return (la_ssize_t)n;
}

/* The next piece of the uncompressed stream. */
static la_ssize_t inner_read(struct archive *a, void *arg, const void **ret)
{
	struct unpacker *u = arg;
	la_int64_t offset;
	size_t n = 0;
	int r;

	do
		r = archive_read_data_block(u->outer, ret, &n, &offset);
	while (r == ARCHIVE_OK && n == 0);
	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK) {
		archive_set_error(a, EIO, "%s",
				  archive_error_string(u->outer) ? archive_error_string(u->outer) : "read error");
		return -1;
	}
	u->res->bytes += n;
	if (u->res->bytes > u->s->limits.max_bytes) {
		u->over_budget = true;
		archive_set_error(a, EFBIG, "too large");
		return -1;
	}
	sha256_update(&u->sha, n, *ret);
	show_progress(u);
	return (la_ssize_t)n;
}

/* Why a reader stopped, in the order of what is closest to the truth. */
static int reader_error(struct unpacker *u, struct archive *a)
{
	const char *why = archive_error_string(a);
	char text[97];

	if (u->over_budget)
		return too_large(u);
	if (u->read_error)
		return err_errno(u->e, -u->read_error, "cannot read the archive");
	return err_set(u->e, ERR_INVALID, EINVAL, "archive_invalid", "the archive is damaged or no tar: %s",
		       shown(why ? why : "unknown format", text));
}

static int open_readers(struct unpacker *u)
{
	struct archive_entry *entry;
	int r;

	u->outer = archive_read_new();
	u->tar = archive_read_new();
	if (!u->outer || !u->tar)
		return err_set(u->e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	/* Filters that libarchive runs as programs (lrzip, grzip) stay off. */
	if (archive_read_support_filter_gzip(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_zstd(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_xz(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_bzip2(u->outer) != ARCHIVE_OK ||
	    archive_read_support_format_raw(u->outer) != ARCHIVE_OK ||
	    archive_read_support_format_tar(u->tar) != ARCHIVE_OK)
		return err_set(u->e, ERR_UNAVAILABLE, ENOSYS, NULL, "libarchive lacks a filter it should have");
	if (archive_read_open(u->outer, u, NULL, outer_read, NULL) != ARCHIVE_OK)
		return reader_error(u, u->outer);
	r = archive_read_next_header(u->outer, &entry);
	if (r == ARCHIVE_EOF)
		return err_set(u->e, ERR_INVALID, EINVAL, "archive_invalid", "the archive is empty");
	if (r != ARCHIVE_OK)
		return reader_error(u, u->outer);
	if (archive_read_open(u->tar, u, NULL, inner_read, NULL) != ARCHIVE_OK)
		return reader_error(u, u->tar);
	return 0;
}

/* ---- names and folders ---- */

/* Drops "/", "." and doubled slashes; refuses "..", and what no file system could hold. */
static int normalise(struct unpacker *u, const char *path, char ret[static PATH_MAX])
{
	size_t o = 0;

	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.')
			return refuse(u, path, "a name with \"..\"");
		if (n > NAME_MAX || o + n + 2 > PATH_MAX)
			return refuse(u, path, "the name is too long");
		if (n > 0 && !(n == 1 && p[0] == '.')) {
			if (o > 0)
				ret[o++] = '/';
			memcpy(ret + o, p, n);
			o += n;
		}
		p += n;
		p += strspn(p, "/");
	}
	ret[o] = '\0';
	return 0;
}

/* Cuts off the first component when it is the one to strip. False: not below it, or it itself. */
static bool strip_first(const char *first, char path[static PATH_MAX])
{
	size_t n = strlen(first);

	if (strncmp(path, first, n) != 0 || path[n] != '/')
		return false;
	memmove(path, path + n + 1, strlen(path + n + 1) + 1);
	return true;
}

static int own(const struct unpacker *u, int dirfd, const char *name, uid_t uid, gid_t gid, int flags)
{
	if (u->s->single_id)
		return 0;
	return fchownat(dirfd, name, uid, gid, flags | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

/* Makes the folders of `path` below u->base_fd that are missing; returns an O_PATH fd of the last. */
static int make_parents(struct unpacker *u, const char *path)
{
	_cleanup_close_ int fd = fcntl(u->base_fd, F_DUPFD_CLOEXEC, 0);
	char part[NAME_MAX + 1];

	if (fd < 0)
		return -errno;
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");
		int sub, r;

		memcpy(part, p, n);
		part[n] = '\0';
		sub = sys_openat2(fd, part, O_PATH | O_DIRECTORY, 0, RESOLVE_INSIDE);
		if (sub == -ENOENT) {
			if (mkdirat(fd, part, 0755) < 0)
				return -errno;
			r = own(u, fd, part, u->s->sandbox_uid, (gid_t)u->s->sandbox_uid, 0);
			if (r < 0)
				return r;
			sub = sys_openat2(fd, part, O_RDONLY | O_DIRECTORY, 0, RESOLVE_INSIDE);
			if (sub >= 0 && fchmod(sub, 0755) < 0) { /* whatever the umask is */
				r = -errno;
				closep(&sub);
				return r;
			}
		}
		if (sub < 0)
			return sub;
		closep(&fd);
		fd = sub;
		p += n;
		p += *p == '/';
	}
	return TAKE_FD(fd);
}

/* The parent folder of a normalised path; cached, because archives list a folder's files together. */
static int open_parent(struct unpacker *u, const char *path, size_t len, int *ret)
{
	char parent[PATH_MAX];
	int fd;

	if (len == 0) {
		*ret = u->base_fd;
		return 0;
	}
	memcpy(parent, path, len);
	parent[len] = '\0';
	if (u->parent_fd >= 0 && strcmp(parent, u->parent) == 0) {
		*ret = u->parent_fd;
		return 0;
	}
	fd = sys_openat2(u->base_fd, parent, O_PATH | O_DIRECTORY, 0, RESOLVE_INSIDE);
	if (fd == -ENOENT)
		fd = make_parents(u, parent);
	if (fd == -ELOOP || fd == -EXDEV)
		return refuse(u, path, "a symlink of the archive is on its way");
	if (fd == -ENOTDIR || fd == -EEXIST)
		return refuse(u, path, "something that is no folder is on its way");
	if (fd < 0)
		return entry_errno(u, -fd, path, "open the folder of");
	closep(&u->parent_fd);
	u->parent_fd = fd;
	memcpy(u->parent, parent, len + 1);
	*ret = fd;
	return 0;
}

/* 1: skip this entry (not below what is stripped). */
static int find_place(struct unpacker *u, const char *path, struct place *ret)
{
	const char *slash;
	int r;

	if (!path)
		return refuse(u, "?", "an entry without a readable name");
	r = normalise(u, path, ret->path);
	if (r < 0)
		return r;
	if (u->s->strip && !strip_first(u->s->strip, ret->path))
		return 1;
	ret->name = NULL;
	ret->dirfd = u->base_fd;
	if (!*ret->path)
		return 0;
	slash = strrchr(ret->path, '/');
	ret->name = slash ? slash + 1 : ret->path;
	return open_parent(u, ret->path, slash ? (size_t)(slash - ret->path) : 0, &ret->dirfd);
}

/* Makes room for something that is no folder. */
static int clear_place(struct unpacker *u, const struct place *at)
{
	if (unlinkat(at->dirfd, at->name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR)
		return entry_errno(u, errno, at->path, "replace");
	if (unlinkat(at->dirfd, at->name, AT_REMOVEDIR) < 0)
		return refuse(u, at->path, "it would replace a folder that is not empty");
	/* A cached parent may be the folder that just went. */
	closep(&u->parent_fd);
	return 0;
}

/* ---- what an entry carries besides its data ---- */

static uid_t map_owner(struct unpacker *u, la_int64_t id)
{
	if (u->s->as_root)
		return u->s->sandbox_uid;
	if (id < 0 || id > SANDBOX_NOBODY) {
		u->res->owners_clamped++;
		id = SANDBOX_NOBODY;
	}
	return u->s->sandbox_uid + (uid_t)id;
}

static int own_entry(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	uid_t uid = map_owner(u, archive_entry_uid(entry)), gid = map_owner(u, archive_entry_gid(entry));
	int r = own(u, at->dirfd, at->name, uid, (gid_t)gid, 0);

	return r < 0 ? entry_errno(u, -r, at->path, "give an owner to") : 0;
}

/* capabilities(7), "Namespaced file capabilities": version 3 names the root whose namespace they count
 * in, here a sandbox's. The kernel would otherwise note the emulator's own. */
static int set_capability(const struct unpacker *u, int fd, const void *value, size_t size)
{
	struct vfs_ns_cap_data cap = { 0 };

	if (size != XATTR_CAPS_SZ_2 && size != XATTR_CAPS_SZ_3)
		return -EINVAL;
	memcpy(&cap, value, MIN(size, sizeof(cap)));
	if ((cap.magic_etc & VFS_CAP_REVISION_MASK) != VFS_CAP_REVISION_2 &&
	    (cap.magic_etc & VFS_CAP_REVISION_MASK) != VFS_CAP_REVISION_3)
		return -EINVAL;
	cap.magic_etc = (cap.magic_etc & ~VFS_CAP_REVISION_MASK) | VFS_CAP_REVISION_3;
	cap.rootid = u->s->sandbox_uid;
	return fsetxattr(fd, "security.capability", &cap, sizeof(cap), 0) < 0 ? -errno : 0;
}

static void set_xattrs(struct unpacker *u, int fd, struct archive_entry *entry)
{
	const char *name;
	const void *value;
	bool dropped = false;
	size_t size;

	(void)archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		bool ok = false;

		if (!name)
			continue;
		if (strcmp(name, "security.capability") == 0)
			ok = set_capability(u, fd, value, size) == 0;
		else if (strncmp(name, "user.", 5) == 0 && strncmp(name, "user.overlay.", 13) != 0)
			ok = fsetxattr(fd, name, value, size, 0) == 0;
		dropped |= !ok;
	}
	u->res->xattrs_dropped += dropped;
}

static struct timespec entry_mtime(struct archive_entry *entry)
{
	struct timespec ts = { .tv_sec = archive_entry_mtime(entry), .tv_nsec = archive_entry_mtime_nsec(entry) };

	if (!archive_entry_mtime_is_set(entry))
		ts.tv_nsec = UTIME_OMIT;
	else if (ts.tv_nsec < 0 || ts.tv_nsec > 999999999)
		ts.tv_nsec = 0;
	return ts;
}

static void set_mtime(int dirfd, const char *name, struct timespec mtime)
{
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, mtime };

	/* A date the file system can't hold is not worth refusing an archive for. */
	(void)utimensat(dirfd, name, ts, AT_SYMLINK_NOFOLLOW);
}

/* ---- one entry of each kind ---- */

static int write_data(struct unpacker *u, int fd, const char *path)
{
	const void *p;
	size_t n;
	la_int64_t offset;

	for (;;) {
		int r = archive_read_data_block(u->tar, &p, &n, &offset);
		const char *c = p;

		if (r == ARCHIVE_EOF)
			return 0;
		if (r < ARCHIVE_WARN)
			return reader_error(u, u->tar);
		if (offset < 0 || (uint64_t)offset > u->s->limits.max_bytes)
			return refuse(u, path, "data beyond the end of the file");
		while (n > 0) {
			ssize_t k = pwrite(fd, c, n, offset);

			if (k < 0 && errno == EINTR)
				continue;
			if (k < 0)
				return entry_errno(u, errno, path, "write");
			c += k;
			offset += k;
			n -= (size_t)k;
		}
	}
}

static int make_file(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	la_int64_t size = archive_entry_size(entry);
	_cleanup_close_ int fd = -1;
	int r;

	if (size < 0)
		return refuse(u, at->path, "a negative size");
	/* A sparse file says a size its data doesn't have: that counts too. */
	if ((uint64_t)size > u->s->limits.max_bytes || u->res->file_bytes > u->s->limits.max_bytes - (uint64_t)size)
		return too_large(u);
	u->res->file_bytes += (uint64_t)size;
	fd = openat(at->dirfd, at->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return entry_errno(u, errno, at->path, "make");
	r = write_data(u, fd, at->path);
	if (r < 0)
		return r;
	if (ftruncate(fd, size) < 0)
		return entry_errno(u, errno, at->path, "set the size of");
	r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	/* After the owner: a change of owner takes setuid and capabilities away. */
	if (fchmod(fd, archive_entry_perm(entry) & 07777) < 0)
		return entry_errno(u, errno, at->path, "set the mode of");
	set_xattrs(u, fd, entry);
	set_mtime(at->dirfd, at->name, entry_mtime(entry));
	return 0;
}

static void note_dir_time(struct unpacker *u, const char *path, struct timespec mtime)
{
	struct dir_time t = { .mtime = mtime, .len = strlen(path) + 1 };

	if (buf_add(&u->dir_times, &t, sizeof(t)) == 0 && buf_add(&u->dir_times, path, t.len) < 0)
		u->dir_times.len -= sizeof(t);
}

/* A folder's time changes with what is put into it: set at the end. */
static void set_dir_times(struct unpacker *u)
{
	for (size_t i = 0; i < u->dir_times.len;) {
		struct dir_time t;
		const char *path;
		int dirfd;

		memcpy(&t, u->dir_times.p + i, sizeof(t));
		path = u->dir_times.p + i + sizeof(t);
		i += sizeof(t) + t.len;
		dirfd = sys_openat2(u->base_fd, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_INSIDE);
		if (dirfd >= 0) {
			struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, t.mtime };

			(void)futimens(dirfd, ts);
		}
		closep(&dirfd);
	}
}

static int make_dir(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	_cleanup_close_ int fd = -1;
	int r;

	if (mkdirat(at->dirfd, at->name, 0700) < 0) {
		struct stat st;

		if (errno != EEXIST || fstatat(at->dirfd, at->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return entry_errno(u, errno, at->path, "make");
		if (!S_ISDIR(st.st_mode)) {
			r = clear_place(u, at);
			if (r == 0 && mkdirat(at->dirfd, at->name, 0700) < 0)
				r = entry_errno(u, errno, at->path, "make");
			if (r < 0)
				return r;
		}
	}
	fd = sys_openat2(at->dirfd, at->name, O_RDONLY | O_DIRECTORY, 0, RESOLVE_INSIDE);
	if (fd < 0)
		return entry_errno(u, -fd, at->path, "open");
	r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	if (fchmod(fd, archive_entry_perm(entry) & 07777) < 0)
		return entry_errno(u, errno, at->path, "set the mode of");
	set_xattrs(u, fd, entry);
	note_dir_time(u, at->path, entry_mtime(entry));
	return 0;
}

static int make_root(struct unpacker *u, struct archive_entry *entry)
{
	const struct place at = { .dirfd = u->base_fd, .name = "." };
	int r;

	if (archive_entry_filetype(entry) != AE_IFDIR)
		return refuse(u, ".", "the root is no folder");
	r = own_entry(u, &at, entry);
	if (r < 0)
		return r;
	if (fchmod(u->base_fd, archive_entry_perm(entry) & 07777) < 0)
		return entry_errno(u, errno, ".", "set the mode of");
	set_xattrs(u, u->base_fd, entry);
	note_dir_time(u, ".", entry_mtime(entry));
	return 0;
}

static int make_symlink(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	const char *target = archive_entry_symlink(entry);
	int r;

	if (!target || !*target || strlen(target) > SYMLINK_MAX)
		return refuse(u, at->path, "a symlink without a usable target");
	if (symlinkat(target, at->dirfd, at->name) < 0)
		return entry_errno(u, errno, at->path, "make");
	r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	set_mtime(at->dirfd, at->name, entry_mtime(entry));
	return 0;
}

static int make_hardlink(struct unpacker *u, const struct place *at, const char *target)
{
	char path[PATH_MAX];
	_cleanup_close_ int dirfd = -1;
	const char *name;
	char *slash;
	struct stat st;
	int r = normalise(u, target, path);

	if (r < 0)
		return r;
	if ((u->s->strip && !strip_first(u->s->strip, path)) || !*path)
		return refuse(u, at->path, "a hardlink to nothing");
	if (strcmp(path, at->path) == 0)
		return refuse(u, at->path, "a hardlink to itself");
	slash = strrchr(path, '/');
	name = slash ? slash + 1 : path;
	if (slash)
		*slash = '\0';
	dirfd = slash ? sys_openat2(u->base_fd, path, O_PATH | O_DIRECTORY, 0, RESOLVE_INSIDE)
		      : fcntl(u->base_fd, F_DUPFD_CLOEXEC, 0);
	if (dirfd < 0)
		return refuse(u, at->path, "a hardlink to something the archive does not hold");
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode))
		return refuse(u, at->path, "a hardlink to something the archive does not hold");
	r = clear_place(u, at);
	if (r < 0)
		return r;
	if (linkat(dirfd, name, at->dirfd, at->name, 0) < 0)
		return entry_errno(u, errno, at->path, "link");
	return 0;
}

static int make_fifo(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	int r;

	if (mkfifoat(at->dirfd, at->name, 0600) < 0)
		return entry_errno(u, errno, at->path, "make");
	r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	/* It was made just now, in a folder nobody else writes to: no symlink can be there. */
	if (fchmodat(at->dirfd, at->name, archive_entry_perm(entry) & 07777, 0) < 0)
		return entry_errno(u, errno, at->path, "set the mode of");
	set_mtime(at->dirfd, at->name, entry_mtime(entry));
	return 0;
}

/* OCI image specification, layer, "Whiteouts". */
static int make_whiteout(struct unpacker *u, struct place *at)
{
	int r;

	if (!u->s->whiteouts)
		return refuse(u, at->path, "a whiteout in a layer that has none below");
	if (strcmp(at->name, WHITEOUT_OPAQUE) == 0) {
		_cleanup_close_ int fd = openat(at->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0 || fsetxattr(fd, "user.overlay.opaque", "y", 1, 0) < 0)
			return entry_errno(u, errno, at->path, "mark the folder of");
		return 0;
	}
	if (strncmp(at->name + strlen(WHITEOUT), WHITEOUT, strlen(WHITEOUT)) == 0)
		return 0; /* reserved for AUFS' own bookkeeping */
	at->name += strlen(WHITEOUT);
	if (!*at->name || strcmp(at->name, ".") == 0 || strcmp(at->name, "..") == 0)
		return refuse(u, at->path, "a whiteout of nothing");
	r = clear_place(u, at);
	if (r < 0)
		return r;
	/* Any user namespace may make device 0/0 (Linux 5.8); overlayfs takes it for "not here". */
	if (mknodat(at->dirfd, at->name, S_IFCHR, makedev(0, 0)) < 0)
		return entry_errno(u, errno, at->path, "make");
	return 0;
}

static int unpack_entry(struct unpacker *u, struct archive_entry *entry)
{
	const char *hardlink = archive_entry_hardlink(entry);
	struct place at;
	int r = find_place(u, archive_entry_pathname(entry), &at);

	if (r != 0)
		return MIN(r, 0);
	if (!at.name) /* the root folder: a layer's is always 0755 and the sandbox's root's */
		return u->s->root_too ? make_root(u, entry) : 0;
	if (strncmp(at.name, WHITEOUT, strlen(WHITEOUT)) == 0)
		return make_whiteout(u, &at);
	if (hardlink)
		return make_hardlink(u, &at, hardlink);
	if (archive_entry_filetype(entry) == AE_IFDIR)
		return make_dir(u, &at, entry);
	if (archive_entry_filetype(entry) == AE_IFCHR || archive_entry_filetype(entry) == AE_IFBLK) {
		u->res->devices_skipped++;
		return 0;
	}
	r = clear_place(u, &at);
	if (r < 0)
		return r;
	switch (archive_entry_filetype(entry)) {
	case AE_IFREG:
		return make_file(u, &at, entry);
	case AE_IFLNK:
		return make_symlink(u, &at, entry);
	case AE_IFIFO:
		return make_fifo(u, &at, entry);
	default:
		return refuse(u, at.path, "an entry of an unknown kind");
	}
}

static int unpack_all(struct unpacker *u)
{
	for (;;) {
		struct archive_entry *entry;
		int r = archive_read_next_header(u->tar, &entry);

		if (r == ARCHIVE_EOF)
			break;
		if (r < ARCHIVE_WARN)
			return reader_error(u, u->tar);
		if (++u->res->entries > u->s->limits.max_entries)
			return too_large(u);
		show_progress(u);
		r = unpack_entry(u, entry);
		if (r < 0)
			return r;
	}
	/* The digest is of the whole stream, padding after the end mark included. */
	for (;;) {
		const void *p;
		la_ssize_t n = inner_read(u->tar, u, &p);

		if (n < 0)
			return reader_error(u, u->tar);
		if (n == 0)
			return 0;
	}
}

static int unpack_prepared(struct unpacker *u)
{
	unsigned char d[SHA256_DIGEST_SIZE];
	int r = open_readers(u);

	if (r == 0)
		r = unpack_all(u);
	if (r < 0)
		return r;
	set_dir_times(u);
	sha256_digest(&u->sha, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(u->res->digest + 2 * i, 3, "%02x", d[i]);
	return 0;
}

int unpack_archive(const struct unpack_spec *s, struct unpack_result *ret, struct err *e)
{
	/* Without a UTF-8 locale libarchive can't decode the names in pax headers; thread-local, restored. */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = (locale_t)0;
	_cleanup_free_ struct unpacker *u = calloc(1, sizeof(*u));
	_cleanup_close_ int prefix_fd = -1;
	int r;

	if (!u) {
		if (utf8)
			freelocale(utf8);
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	}
	*ret = (struct unpack_result){ .bytes = 0 };
	u->s = s;
	u->res = ret;
	u->e = e;
	u->base_fd = s->root_fd;
	u->parent_fd = -1;
	u->dir_times = BUF_INIT(DIR_TIMES_MAX);
	u->last_progress_us = clock_mono_us();
	sha256_init(&u->sha);
	if (utf8)
		before = uselocale(utf8);
	r = 0;
	if (s->prefix) {
		prefix_fd = make_parents(u, s->prefix);
		u->base_fd = prefix_fd;
		if (prefix_fd < 0)
			r = err_errno(e, -prefix_fd, "cannot make %s in the layer", s->prefix);
	}
	if (r == 0)
		r = unpack_prepared(u);
	archive_read_free(u->tar);
	archive_read_free(u->outer);
	closep(&u->parent_fd);
	buf_free(&u->dir_times);
	if (utf8) {
		(void)uselocale(before);
		freelocale(utf8);
	}
	return r;
}
