/* One entry of each kind, with what it carries besides its data. */

#include "rootfs/unpack-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "rootfs/newfile.h"

#define SANDBOX_NOBODY 65534
#define SYMLINK_MAX 4095
#define WHITEOUT ".wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"

struct dir_time {
	struct timespec mtime;
	size_t len;
};

int unpack_own(const struct unpacker *u, int dirfd, const char *name, uid_t uid, gid_t gid, int flags)
{
	if (u->s->single_id || u->s->live)
		return 0;
	return fchownat(dirfd, name, uid, gid, flags | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

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
	int r = unpack_own(u, at->dirfd, at->name, uid, (gid_t)gid, 0);

	return r < 0 ? unpack_entry_errno(u, -r, at->path, "give an owner to") : 0;
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

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* libarchive (3.6) writes SCHILY.xattr names with %XX for what is not plain, and does not undo that when it reads. In
 * an archive that it wrote (strict: a snapshot) a "%" is always one of those. False: no name. */
static bool decode_name(const char *name, char ret[static XATTR_NAME_MAX + 1])
{
	size_t n = 0;

	for (; *name && n < XATTR_NAME_MAX; name++) {
		char c = *name;

		if (c == '%') {
			int high = hex_value(name[1]), low = high < 0 ? -1 : hex_value(name[2]);

			if (low < 0 || (high | low) == 0)
				return false;
			c = (char)(high << 4 | low);
			name += 2;
		}
		ret[n++] = c;
	}
	ret[n] = '\0';
	return !*name;
}

static void set_xattrs(struct unpacker *u, int fd, struct archive_entry *entry)
{
	char decoded[XATTR_NAME_MAX + 1];
	const char *name;
	const void *value;
	bool dropped = false;
	size_t size;

	(void)archive_entry_xattr_reset(entry);
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
		bool ok = false;

		if (!name)
			continue;
		if (u->s->strict && decode_name(name, decoded))
			name = decoded;
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

		if (unpack_must_stop(u))
			return unpack_stopped(u);
		if (r == ARCHIVE_EOF)
			return 0;
		if (r < ARCHIVE_WARN)
			return unpack_reader_error(u, u->tar);
		if (offset < 0 || (uint64_t)offset > u->s->limits.max_bytes)
			return unpack_refuse(u, path, "data beyond the end of the file");
		while (n > 0) {
			ssize_t k = pwrite(fd, c, n, offset);

			if (k < 0 && errno == EINTR)
				continue;
			if (k < 0)
				return unpack_entry_errno(u, errno, path, "write");
			c += k;
			offset += k;
			n -= (size_t)k;
		}
	}
}

/* A sparse file says a size its data doesn't have: that counts too. */
static int check_size(struct unpacker *u, const char *path, la_int64_t size)
{
	if (size < 0)
		return unpack_refuse(u, path, "a negative size");
	if ((uint64_t)size > u->s->limits.max_bytes || u->res->file_bytes > u->s->limits.max_bytes - (uint64_t)size)
		return unpack_too_large(u);
	u->res->file_bytes += (uint64_t)size;
	return 0;
}

static int fill_file(struct unpacker *u, const struct place *at, int fd, struct archive_entry *entry)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, entry_mtime(entry) };
	uid_t uid = map_owner(u, archive_entry_uid(entry)), gid = map_owner(u, archive_entry_gid(entry));
	int r = write_data(u, fd, at->path);

	if (r < 0)
		return r;
	if (ftruncate(fd, archive_entry_size(entry)) < 0)
		return unpack_entry_errno(u, errno, at->path, "set the size of");
	if (!u->s->single_id && !u->s->live && fchown(fd, uid, (gid_t)gid) < 0)
		return unpack_entry_errno(u, errno, at->path, "give an owner to");
	/* After the owner: a change of owner takes setuid and capabilities away. */
	if (fchmod(fd, archive_entry_perm(entry) & 07777) < 0)
		return unpack_entry_errno(u, errno, at->path, "set the mode of");
	set_xattrs(u, fd, entry);
	/* A date the file system can't hold is not worth refusing an archive for. */
	(void)futimens(fd, times);
	return 0;
}

static int make_live_file(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	_cleanup_newfile_ struct newfile f = NEWFILE_INIT;
	bool there = false;
	int r = newfile_open(&f, at->dirfd);

	if (r < 0)
		return unpack_entry_errno(u, -r, at->path, "make");
	r = fill_file(u, at, f.fd, entry);
	if (r == 0)
		r = unpack_check_live(u, at, &there);
	if (r < 0)
		return r;
	r = newfile_publish(&f, at->name, there);
	return r < 0 ? unpack_entry_errno(u, -r, at->path, "make") : 0;
}

static int make_file(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	_cleanup_close_ int fd = -1;
	int r = check_size(u, at->path, archive_entry_size(entry));

	if (r < 0)
		return r;
	if (u->s->live)
		return make_live_file(u, at, entry);
	r = unpack_clear_place(u, at);
	if (r < 0)
		return r;
	fd = openat(at->dirfd, at->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return unpack_entry_errno(u, errno, at->path, "make");
	return fill_file(u, at, fd, entry);
}

static void note_dir_time(struct unpacker *u, const char *path, struct timespec mtime)
{
	struct dir_time t = { .mtime = mtime, .len = strlen(path) + 1 };

	if (buf_add(&u->dir_times, &t, sizeof(t)) == 0 && buf_add(&u->dir_times, path, t.len) < 0)
		u->dir_times.len -= sizeof(t);
}

void unpack_set_dir_times(struct unpacker *u)
{
	for (size_t i = 0; i < u->dir_times.len;) {
		struct dir_time t;
		const char *path;
		int dirfd;

		memcpy(&t, u->dir_times.p + i, sizeof(t));
		path = u->dir_times.p + i + sizeof(t);
		i += sizeof(t) + t.len;
		dirfd = sys_openat2(u->base_fd, path, O_RDONLY | O_DIRECTORY, 0, UNPACK_RESOLVE);
		if (dirfd >= 0) {
			struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, t.mtime };

			(void)futimens(dirfd, ts);
		}
		closep(&dirfd);
	}
}

/* Makes the folder, or finds one there. */
static int ensure_dir(struct unpacker *u, const struct place *at, bool *ret_new)
{
	struct stat st;
	bool there;
	int r;

	*ret_new = true;
	if (mkdirat(at->dirfd, at->name, 0700) == 0)
		return 0;
	if (errno != EEXIST || fstatat(at->dirfd, at->name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return unpack_entry_errno(u, errno, at->path, "make");
	*ret_new = !S_ISDIR(st.st_mode);
	if (!*ret_new)
		return 0;
	r = u->s->live ? unpack_check_live(u, at, &there) : 0;
	if (r == 0)
		r = unpack_clear_place(u, at);
	if (r == 0 && mkdirat(at->dirfd, at->name, 0700) < 0)
		r = unpack_entry_errno(u, errno, at->path, "make");
	return r;
}

static int make_dir(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	_cleanup_close_ int fd = -1;
	bool new;
	int r = ensure_dir(u, at, &new);

	if (r < 0)
		return r;
	fd = sys_openat2(at->dirfd, at->name, O_RDONLY | O_DIRECTORY, 0, UNPACK_RESOLVE);
	if (u->s->live && (fd == -ELOOP || fd == -EXDEV))
		return unpack_refuse(u, at->path, "a symlink or a mount point is there");
	if (fd < 0)
		return unpack_entry_errno(u, -fd, at->path, "open");
	if (u->s->live && !new)
		return 0;
	r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	if (fchmod(fd, archive_entry_perm(entry) & 07777) < 0)
		return unpack_entry_errno(u, errno, at->path, "set the mode of");
	set_xattrs(u, fd, entry);
	note_dir_time(u, at->path, entry_mtime(entry));
	return 0;
}

static int make_root(struct unpacker *u, struct archive_entry *entry)
{
	const struct place at = { .dirfd = u->base_fd, .name = "." };
	int r;

	if (archive_entry_filetype(entry) != AE_IFDIR)
		return unpack_refuse(u, ".", "the root is no folder");
	r = own_entry(u, &at, entry);
	if (r < 0)
		return r;
	if (fchmod(u->base_fd, archive_entry_perm(entry) & 07777) < 0)
		return unpack_entry_errno(u, errno, ".", "set the mode of");
	set_xattrs(u, u->base_fd, entry);
	note_dir_time(u, ".", entry_mtime(entry));
	return 0;
}

static int symlink_at(void *target, int dirfd, const char *name)
{
	return symlinkat(target, dirfd, name) < 0 ? -errno : 0;
}

static int make_symlink(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	const char *target = archive_entry_symlink(entry);
	int r;

	if (!target || !*target || strlen(target) > SYMLINK_MAX)
		return unpack_refuse(u, at->path, "a symlink without a usable target");
	r = unpack_make_at(u, at, symlink_at, (void *)(uintptr_t)target);
	if (r == 0)
		r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	set_mtime(at->dirfd, at->name, entry_mtime(entry));
	return 0;
}

struct link_source {
	int dirfd;
	const char *name;
};

static int link_at(void *arg, int dirfd, const char *name)
{
	const struct link_source *from = arg;

	return linkat(from->dirfd, from->name, dirfd, name, 0) < 0 ? -errno : 0;
}

static int make_hardlink(struct unpacker *u, const struct place *at, const char *target)
{
	char path[PATH_MAX];
	_cleanup_close_ int dirfd = -1;
	const char *name;
	char *slash;
	struct stat st;
	int r = unpack_normalise(u, target, path);

	if (r < 0)
		return r;
	if ((u->s->strip && !unpack_strip_first(u->s->strip, path)) || !*path)
		return unpack_refuse(u, at->path, "a hardlink to nothing");
	if (strcmp(path, at->path) == 0)
		return unpack_refuse(u, at->path, "a hardlink to itself");
	slash = strrchr(path, '/');
	name = slash ? slash + 1 : path;
	if (slash)
		*slash = '\0';
	dirfd = slash ? sys_openat2(u->base_fd, path, O_PATH | O_DIRECTORY, 0, UNPACK_RESOLVE)
		      : fcntl(u->base_fd, F_DUPFD_CLOEXEC, 0);
	if (dirfd < 0)
		return unpack_refuse(u, at->path, "a hardlink to something the archive does not hold");
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISDIR(st.st_mode))
		return unpack_refuse(u, at->path, "a hardlink to something the archive does not hold");
	return unpack_make_at(u, at, link_at, &(struct link_source){ dirfd, name });
}

static int fifo_at(void *mode, int dirfd, const char *name)
{
	return mkfifoat(dirfd, name, *(const mode_t *)mode) < 0 ? -errno : 0;
}

static int make_fifo(struct unpacker *u, const struct place *at, struct archive_entry *entry)
{
	mode_t mode = archive_entry_perm(entry) & 07777;
	int r = unpack_make_at(u, at, fifo_at, &mode);

	if (r == 0)
		r = own_entry(u, at, entry);
	if (r < 0)
		return r;
	/* In a layer nobody else writes there, so no symlink can have come; in a live folder there is no umask. */
	if (!u->s->live && fchmodat(at->dirfd, at->name, mode, 0) < 0)
		return unpack_entry_errno(u, errno, at->path, "set the mode of");
	set_mtime(at->dirfd, at->name, entry_mtime(entry));
	return 0;
}

/* OCI image specification, layer, "Whiteouts". */
static int make_whiteout(struct unpacker *u, struct place *at)
{
	int r;

	if (!u->s->whiteouts)
		return unpack_refuse(u, at->path, "a whiteout in a layer that has none below");
	if (strcmp(at->name, WHITEOUT_OPAQUE) == 0) {
		_cleanup_close_ int fd = openat(at->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd < 0 || fsetxattr(fd, "user.overlay.opaque", "y", 1, 0) < 0)
			return unpack_entry_errno(u, errno, at->path, "mark the folder of");
		return 0;
	}
	if (strncmp(at->name + strlen(WHITEOUT), WHITEOUT, strlen(WHITEOUT)) == 0)
		return 0; /* reserved for AUFS' own bookkeeping */
	at->name += strlen(WHITEOUT);
	if (!*at->name || strcmp(at->name, ".") == 0 || strcmp(at->name, "..") == 0)
		return unpack_refuse(u, at->path, "a whiteout of nothing");
	r = unpack_clear_place(u, at);
	if (r < 0)
		return r;
	/* Any user namespace may make device 0/0 (Linux 5.8); overlayfs takes it for "not here". */
	if (mknodat(at->dirfd, at->name, S_IFCHR, makedev(0, 0)) < 0)
		return unpack_entry_errno(u, errno, at->path, "make");
	return 0;
}

/* What stays where it is: 0. What was left out: 1. */
static int make_entry(struct unpacker *u, struct place *at, struct archive_entry *entry)
{
	const char *hardlink = archive_entry_hardlink(entry);

	if (!u->s->live && strncmp(at->name, WHITEOUT, strlen(WHITEOUT)) == 0)
		return make_whiteout(u, at);
	if (hardlink)
		return make_hardlink(u, at, hardlink);
	switch (archive_entry_filetype(entry)) {
	case AE_IFDIR:
		return make_dir(u, at, entry);
	case AE_IFCHR:
	case AE_IFBLK:
		if (u->s->strict)
			return unpack_refuse(u, at->path, "a device node");
		u->res->devices_skipped++;
		return 1;
	case AE_IFREG:
		return make_file(u, at, entry);
	case AE_IFLNK:
		return make_symlink(u, at, entry);
	case AE_IFIFO:
		return make_fifo(u, at, entry);
	default:
		return unpack_refuse(u, at->path, "an entry of an unknown kind");
	}
}

int unpack_entry(struct unpacker *u, struct archive_entry *entry)
{
	struct place at;
	int r = unpack_find_place(u, archive_entry_pathname(entry), &at);

	if (r != 0)
		return MIN(r, 0);
	if (!at.name) /* the root folder: a layer's is always 0755 and the sandbox's root's */
		return u->s->root_too ? make_root(u, entry) : 0;
	r = make_entry(u, &at, entry);
	if (r == 0)
		u->res->made++;
	return MIN(r, 0);
}
