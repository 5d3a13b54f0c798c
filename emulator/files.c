/* Theory of operation
 *
 * The sandbox is hostile and may change its tree under us at any moment. We hold one O_PATH fd of its
 * root and never build a host path: the kernel resolves every path below that fd (openat2(2),
 * RESOLVE_IN_ROOT), and what we then create, rename or remove is named by a directory fd obtained that
 * way and one component. So a directory swapped for a symlink between two steps changes at most which
 * of the sandbox's own files is meant.
 *
 * Whose hands: the daemon is id 0 of the emulator's user namespace E and has its capabilities over every
 * id of the sandbox. But the sandbox's mounts (overlay, tmpfs) belong to the sandbox's nested namespace,
 * in which E's 0 has no name, and the kernel refuses to let an id make files on a file system that can't
 * express it (EOVERFLOW; fsuidgid_has_mapping in fs/namei.c). Therefore what makes names runs with the file
 * system ids of the sandbox's root: see files_identity_enter.
 *
 * Mount points need care of their own: the kernel refuses to remove or replace one only in the caller's
 * mount namespace, and detaches it in all others. We are in another one, so we look first (statx(2),
 * STATX_ATTR_MOUNT_ROOT). */

#include "emulator/files-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "emulator/base/sys.h"
#include "emulator/base/text.h"

/* RESOLVE_IN_ROOT answers EAGAIN when something was renamed while ".." was walked (openat2(2)). */
#define OPEN_TRIES 128

#ifndef FUSE_SUPER_MAGIC
#define FUSE_SUPER_MAGIC 0x65735546
#endif

/* setfsuid(2) away from 0 drops the file system capabilities from the effective set (capabilities(7),
 * "Effect of user ID changes"); we want the id without losing them. Changing ids also forgets the parent
 * death signal and makes the process undumpable (PR_SET_PDEATHSIG(2const)), which nobody asked for. */
static void set_fs_ids(uid_t uid, gid_t gid)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];
	bool have_caps = syscall(SYS_capget, &h, caps) == 0;
	int dumpable = prctl(PR_GET_DUMPABLE), sig = 0;

	(void)prctl(PR_GET_PDEATHSIG, &sig);
	/* Neither call reports failure; without CAP_SETUID the old ids stay, and the chown that follows does. */
	(void)setfsgid(gid);
	(void)setfsuid(uid);
	if (have_caps)
		(void)syscall(SYS_capset, &h, caps);
	if (dumpable == 1)
		(void)prctl(PR_SET_DUMPABLE, 1);
	if (sig != 0)
		(void)prctl(PR_SET_PDEATHSIG, sig);
}

void files_identity_enter(struct files_identity *id, uid_t uid)
{
	/* An id of -1 is the documented way to ask without changing (setfsuid(2)). */
	id->uid = (uid_t)setfsuid((uid_t)-1);
	id->gid = (gid_t)setfsgid((gid_t)-1);
	id->changed = id->uid != uid || id->gid != uid;
	if (id->changed)
		set_fs_ids(uid, uid);
	id->umask = umask(0);
}

void files_identity_leave(struct files_identity *id)
{
	(void)umask(id->umask);
	if (id->changed)
		set_fs_ids(id->uid, id->gid);
	id->changed = false;
}

/* A path fit for a message: it came from a client, may hold anything, and must not fill the message. */
static void path_for_message(const char *path, char *ret, size_t cap)
{
	size_t n = strnlen(path, cap);
	bool utf8;

	if (n >= cap)
		n = cap - 4;
	utf8 = text_utf8_valid(path, n);
	for (size_t i = 0; i < n; i++) {
		unsigned char ch = (unsigned char)path[i];

		ret[i] = ch < 0x20 || ch == 0x7f || (ch >= 0x80 && !utf8) ? '?' : path[i];
	}
	ret[n] = '\0';
	if (path[n] != '\0')
		memcpy(ret + n, "...", 4);
}

static const struct {
	int errnum;
	enum err_kind kind;
	const char *reason;
	const char *why;
} by_errno[] = {
	{ ENOENT, ERR_NOT_FOUND, "file_not_found", "no such file or directory" },
	{ ENOTDIR, ERR_INVALID, "not_a_directory", "not a directory" },
	{ EISDIR, ERR_INVALID, "is_a_directory", "is a directory" },
	{ ELOOP, ERR_INVALID, "path_invalid", "too many symbolic links, or one that only the kernel can follow" },
	{ ENAMETOOLONG, ERR_INVALID, "path_invalid", "the path or a name in it is too long" },
	{ EINVAL, ERR_INVALID, "path_invalid", "not a valid path" },
	{ EILSEQ, ERR_INVALID, "path_invalid", "not a valid name there" },
	{ EBUSY, ERR_INVALID, "path_invalid", "a file system is mounted there" },
	{ EXDEV, ERR_INVALID, "path_invalid", "a file system is mounted there" },
	{ EROFS, ERR_INVALID, "path_invalid", "the file system is read-only" },
	{ EACCES, ERR_INVALID, "path_invalid", "permission denied" },
	{ EPERM, ERR_INVALID, "path_invalid", "not permitted" },
	{ ENXIO, ERR_INVALID, "not_a_file", "not a regular file" },
	{ ENODEV, ERR_INVALID, "not_a_file", "not a regular file" },
	{ ENOTEMPTY, ERR_EXISTS, "directory_not_empty", "the directory is not empty" },
	{ EEXIST, ERR_EXISTS, "directory_not_empty", "the directory is not empty" },
	{ ENOSPC, ERR_FULL, "disk_full", "no space left on the sandbox's disk" },
	{ EDQUOT, ERR_FULL, "disk_full", "no space left on the sandbox's disk" },
	{ EFBIG, ERR_TOO_LARGE, "payload_too_large", "the file would be too large" },
	{ EAGAIN, ERR_BUSY, NULL, "the sandbox keeps changing it" },
};

int files_err(struct err *e, int errnum, const char *path, const char *what)
{
	char shown[160];

	path_for_message(path, shown, sizeof(shown));
	for (size_t i = 0; i < ARRAY_SIZE(by_errno); i++)
		if (by_errno[i].errnum == errnum)
			return err_set(e, by_errno[i].kind, errnum, by_errno[i].reason, "%s %s: %s", what, shown,
				       by_errno[i].why);
	return err_errno(e, errnum, "%s %s", what, shown);
}

void files_err_classify(struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(by_errno); i++)
		if (by_errno[i].errnum == e->errnum) {
			e->kind = by_errno[i].kind;
			e->reason = by_errno[i].reason;
		}
}

int files_check_path(const char *path, struct err *e)
{
	size_t n = strnlen(path, FILES_PATH_MAX + 1), part = 0;

	if (path[0] != '/')
		return err_set(e, ERR_INVALID, EINVAL, "path_invalid", "the path must be absolute");
	if (n > FILES_PATH_MAX)
		return err_set(e, ERR_INVALID, ENAMETOOLONG, "path_invalid", "the path is longer than %d bytes",
			       FILES_PATH_MAX);
	for (size_t i = 0; i < n; i++) {
		part = path[i] == '/' ? 0 : part + 1;
		if (part > FILES_NAME_MAX)
			return err_set(e, ERR_INVALID, ENAMETOOLONG, "path_invalid",
				       "a name in the path is longer than %d bytes", FILES_NAME_MAX);
	}
	return 0;
}

int files_open_in(const struct files_ctx *c, const char *path, uint64_t flags)
{
	int fd = -EAGAIN;

	for (int i = 0; i < OPEN_TRIES && (fd == -EAGAIN || fd == -EINTR); i++)
		fd = sys_openat2(c->root_fd, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
	return fd;
}

int files_open_child(int dirfd, const char *name, uint64_t flags, bool no_xdev)
{
	uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
	int fd = -EAGAIN;

	if (no_xdev)
		resolve |= RESOLVE_NO_XDEV;
	for (int i = 0; i < OPEN_TRIES && (fd == -EAGAIN || fd == -EINTR); i++)
		fd = sys_openat2(dirfd, name, flags | O_NOFOLLOW, 0, resolve);
	return fd;
}

void files_split(const char *path, char ret_dir[static FILES_PATH_MAX + 1], char ret_name[static FILES_NAME_MAX + 1],
		 bool *ret_slash)
{
	size_t end = strlen(path), from;

	*ret_slash = end > 1 && path[end - 1] == '/';
	while (end > 0 && path[end - 1] == '/')
		end--;
	for (from = end; from > 0 && path[from - 1] != '/'; from--)
		;
	memcpy(ret_name, path + from, end - from);
	ret_name[end - from] = '\0';
	memcpy(ret_dir, path, from);
	ret_dir[from] = '\0';
	if (from == 0)
		memcpy(ret_dir, "/", 2);
}

bool files_is_pseudo(int fd)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return true;
	switch ((unsigned long)fs.f_type) {
	case PROC_SUPER_MAGIC:
	case SYSFS_MAGIC:
	case CGROUP_SUPER_MAGIC:
	case CGROUP2_SUPER_MAGIC:
	case DEVPTS_SUPER_MAGIC:
	case SECURITYFS_MAGIC:
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case BPF_FS_MAGIC:
	case NSFS_MAGIC:
	case BINFMTFS_MAGIC:
	case SELINUX_MAGIC:
	case FUSE_SUPER_MAGIC: /* the sandbox itself would answer, or not */
		return true;
	default:
		return false;
	}
}

int files_lstat(int dirfd, const char *name, struct statx *ret, bool *ret_mounted)
{
	if (statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, ret) < 0)
		return -errno;
	*ret_mounted = (ret->stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
	return 0;
}

void files_entry_from_stat(const struct stat *st, const char *name, struct files_entry *ret)
{
	*ret = (struct files_entry){
		.name = name,
		.is_dir = S_ISDIR(st->st_mode),
		.is_symlink = S_ISLNK(st->st_mode),
		.size = st->st_size > 0 ? (uint64_t)st->st_size : 0,
		.mode = st->st_mode & 07777,
		.modified_ms = (int64_t)st->st_mtim.tv_sec * 1000 + st->st_mtim.tv_nsec / 1000000,
	};
}

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash && slash[1] != '\0' ? slash + 1 : path;
}

static int check_readable(int fd, const char *path, struct stat *st, struct err *e)
{
	if (fstat(fd, st) < 0)
		return files_err(e, errno, path, "read");
	if (S_ISDIR(st->st_mode))
		return files_err(e, EISDIR, path, "read");
	if (!S_ISREG(st->st_mode))
		return files_err(e, ENXIO, path, "read");
	return 0;
}

int files_open(const struct files_ctx *c, const char *path, struct files_entry *ret, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	int r = files_check_path(path, e);

	if (r < 0)
		return r;
	/* Opening a fifo or a device may block or do things, so first look without opening; what is there
	 * may change in between, hence O_NONBLOCK (fifos, leases) and the second look. */
	fd = files_open_in(c, path, O_PATH);
	if (fd < 0)
		return files_err(e, -fd, path, "read");
	r = check_readable(fd, path, &st, e);
	if (r < 0)
		return r;
	closep(&fd);
	fd = files_open_in(c, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return files_err(e, -fd, path, "read");
	r = check_readable(fd, path, &st, e);
	if (r < 0)
		return r;
	files_entry_from_stat(&st, last_component(path), ret);
	return TAKE_FD(fd);
}
