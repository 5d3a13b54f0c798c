/* Theory of operation. Removing a tree of unknown depth with neither recursion nor one fd a level: what
 * is not empty is moved up. The folder to remove is "top"; each folder found in it is opened, its plain
 * entries are unlinked and its own non-empty folders are renamed into top under fresh names, after which
 * it is empty and goes. So two fds are open at any time and no path is ever longer than one name. Every
 * step is by dirfd and O_NOFOLLOW; RESOLVE_NO_XDEV keeps it from entering a mount, which is reported. */

#include "rootfs/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/clock.h"
#include "emulator/base/sys.h"
#include "emulator/base/text.h"

#define SLOT_SIZE (2 + 26 + 1)

static void dirp_close(DIR **d)
{
	if (*d)
		(void)closedir(*d);
}
#define _cleanup_dir_ _cleanup_(dirp_close)

/* "s-" and a ULID in lower case. */
static bool slot_valid(const char *slot)
{
	if (strlen(slot) != SLOT_SIZE - 1 || slot[0] != 's' || slot[1] != '-')
		return false;
	return strspn(slot + 2, "0123456789abcdefghjkmnpqrstvwxyz") == 26;
}

static bool is_dot(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* One folder below dirfd, made where missing; mode and owner as wanted whatever the umask is. */
static int ensure_dir(int dirfd, const char *path, mode_t mode, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (mkdirat(dirfd, path, 0700) < 0 && errno != EEXIST)
		return err_errno(e, errno, "state dir: cannot make %s", path);
	fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_errno(e, errno, "state dir: cannot open %s", path);
	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "state dir: %s", path);
	if (st.st_uid != geteuid())
		return err_set(e, ERR_DENIED, EPERM, NULL, "state dir: %s belongs to another user", path);
	if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
		return err_errno(e, errno, "state dir: cannot set the mode of %s", path);
	return 0;
}

int tree_prepare_state(int state_fd, struct err *e)
{
	static const struct {
		const char *path;
		mode_t mode;
	} dirs[] = {
		{ "disk", 0711 },	{ "disk/l", 0711 },    { "disk/s", 0711 },    { "disk/m", 0711 },
		{ "disk/trash", 0700 }, { "templates", 0700 }, { "snapshots", 0700 }, { "disk/b", 0700 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		int r = ensure_dir(state_fd, dirs[i].path, dirs[i].mode, e);

		if (r < 0)
			return r;
	}
	return 0;
}

static int make_owned(int dirfd, const char *name, mode_t mode, uid_t uid)
{
	_cleanup_close_ int fd = -1;

	if (mkdirat(dirfd, name, 0700) < 0)
		return -errno;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fchmod(fd, mode) < 0)
		return -errno;
	if (uid != geteuid() && fchown(fd, uid, (gid_t)uid) < 0)
		return -errno;
	return 0;
}

int tree_make_slot(int state_fd, const char *slot, uid_t uid, struct err *e)
{
	_cleanup_close_ int s_fd = -1, slot_fd = -1;
	int r;

	if (!slot_valid(slot))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a slot name");
	s_fd = sys_openat2(state_fd, "disk/s", O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (s_fd < 0)
		return err_errno(e, -s_fd, "cannot open disk/s");
	if (mkdirat(s_fd, slot, 0711) < 0) {
		if (errno == EEXIST)
			return err_set(e, ERR_EXISTS, EEXIST, NULL, "slot %s is there already", slot);
		return err_errno(e, errno, "cannot make slot %s", slot);
	}
	slot_fd = openat(s_fd, slot, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	r = slot_fd < 0 ? -errno : 0;
	if (r == 0 && fchmod(slot_fd, 0711) < 0)
		r = -errno;
	if (r == 0)
		r = make_owned(slot_fd, "u", 0755, uid);
	if (r == 0)
		r = make_owned(slot_fd, "w", 0700, uid);
	if (r < 0) {
		(void)tree_remove(s_fd, slot, NULL);
		return err_errno(e, -r, "cannot make the folders of slot %s", slot);
	}
	return 0;
}

int tree_trash_slot(int state_fd, const char *slot, struct err *e)
{
	char from[64], to[128], ulid[TEXT_ULID_SIZE];

	if (!slot_valid(slot))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a slot name");
	(void)text_format(from, sizeof(from), "disk/s/%s", slot);
	/* The trash may still hold an earlier folder of that name. */
	text_ulid(clock_real_ms(), ulid);
	(void)text_format(to, sizeof(to), "disk/trash/%s.%s", slot, ulid);
	if (renameat(state_fd, from, state_fd, to) < 0 && errno != ENOENT)
		return err_errno(e, errno, "cannot move slot %s to the trash", slot);
	return 0;
}

static DIR *dir_open(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	DIR *d;

	if (copy < 0)
		return NULL;
	d = fdopendir(copy);
	if (!d)
		(void)close(copy);
	else
		rewinddir(d);
	return d;
}

int tree_empty_trash(int state_fd, struct err *e)
{
	_cleanup_close_ int fd =
		sys_openat2(state_fd, "disk/trash", O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *de;
	int ret = 0;

	if (fd < 0)
		return fd == -ENOENT ? 0 : err_errno(e, -fd, "cannot open the trash");
	d = dir_open(fd);
	if (!d)
		return err_errno(e, errno, "cannot read the trash");
	while ((de = readdir(d))) {
		int r;

		if (is_dot(de->d_name))
			continue;
		/* One that can't go must not keep the others. */
		r = tree_remove(fd, de->d_name, ret == 0 ? e : NULL);
		if (r < 0 && ret == 0)
			ret = r;
	}
	return ret;
}

/* Opens a folder that may have no permission bit: without CAP_DAC_OVERRIDE its owner gives it some. */
static int open_subdir(int dirfd, const char *name)
{
	const uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
	int fd = sys_openat2(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, resolve);
	_cleanup_close_ int path_fd = -1;
	char link[64];

	if (fd != -EACCES)
		return fd;
	path_fd = sys_openat2(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, resolve);
	if (path_fd < 0)
		return path_fd;
	(void)text_format(link, sizeof(link), "/proc/self/fd/%d", path_fd);
	if (chmod(link, 0700) < 0)
		return -EACCES;
	return sys_openat2(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, resolve);
}

struct remover {
	int top;
	uint64_t serial; /* names for what was moved up */
};

/* Unlinks name in dirfd, or removes it if it is an empty folder. -ENOTEMPTY: a folder with something in it. */
static int unlink_any(int dirfd, const char *name, unsigned char type)
{
	if (type != DT_DIR) {
		if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
			return 0;
		if (errno != EISDIR && errno != EPERM)
			return -errno;
	}
	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno == ENOTDIR)
		return -EPERM; /* a file that may not be unlinked (immutable, append-only) */
	return errno == EEXIST ? -ENOTEMPTY : -errno;
}

static int move_up(struct remover *m, int dirfd, const char *name)
{
	for (;;) {
		char to[48];

		(void)text_format(to, sizeof(to), ".rm-%llu", (unsigned long long)m->serial++);
		if (renameat2(dirfd, name, m->top, to, RENAME_NOREPLACE) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
}

/* Removes every entry of the folder at fd; full(m, fd, name) makes room of a folder that isn't empty. Some file
 * systems skip entries when others go meanwhile: it reads until a pass finds none. */
static int empty(struct remover *m, int fd, int (*full)(struct remover *m, int fd, const char *name))
{
	_cleanup_dir_ DIR *d = dir_open(fd);
	bool again = true;

	if (!d)
		return -errno;
	while (again) {
		struct dirent *de;

		again = false;
		rewinddir(d);
		while ((de = readdir(d))) {
			int r;

			if (is_dot(de->d_name))
				continue;
			again = true;
			r = unlink_any(fd, de->d_name, de->d_type);
			if (r == -ENOTEMPTY)
				r = full(m, fd, de->d_name);
			if (r < 0)
				return r;
		}
	}
	return 0;
}

/* A folder below the top: what isn't empty in it goes up to the top, so that no path grows. */
static int remove_below_top(struct remover *m, int fd, const char *name)
{
	_cleanup_close_ int sub = open_subdir(fd, name);
	int r = sub < 0 ? sub : empty(m, sub, move_up);

	return r == 0 && unlinkat(fd, name, AT_REMOVEDIR) < 0 ? -errno : r;
}

int tree_remove(int dirfd, const char *name, struct err *e)
{
	_cleanup_close_ int top = -1;
	int r;

	if (!*name || is_dot(name) || strchr(name, '/'))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not one name in a folder");
	r = unlink_any(dirfd, name, DT_UNKNOWN);
	if (r == -ENOTEMPTY || r == -EACCES) {
		struct remover m = { .top = -1 };

		top = open_subdir(dirfd, name);
		m.top = top;
		r = top < 0 ? top : empty(&m, m.top, remove_below_top);
		if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
			r = -errno;
	}
	if (r == -EBUSY || r == -EXDEV)
		return err_set(e, ERR_BUSY, EBUSY, NULL, "cannot remove %s: something is mounted in it", name);
	return r < 0 ? err_errno(e, -r, "cannot remove %s", name) : 0;
}

int tree_each_slot(int state_fd, int (*fn)(void *arg, const char *slot), void *arg)
{
	_cleanup_close_ int fd =
		sys_openat2(state_fd, "disk/s", O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	_cleanup_dir_ DIR *d = NULL;
	struct dirent *de;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	d = dir_open(fd);
	if (!d)
		return -errno;
	while ((de = readdir(d))) {
		int r;

		if (!slot_valid(de->d_name))
			continue;
		r = fn(arg, de->d_name);
		if (r != 0)
			return r;
	}
	return 0;
}
