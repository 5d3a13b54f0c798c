#include "emulator/statedir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"

#define MARKER_HEAD "orkestr-emulator state dir, format "
#define MARKER_VERSION 1

static int default_path(const struct idmap *m, char ret[static PATH_MAX], struct err *e)
{
	const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int r;

	if (m->caller_uid == 0)
		return text_format(ret, PATH_MAX, "/var/lib/orkestr-emulator");
	if (xdg && *xdg == '/') { /* the XDG base directory specification: a relative one is to be ignored */
		r = text_format(ret, PATH_MAX, "%s/orkestr-emulator", xdg);
	} else {
		if (!home || *home != '/') {
			const struct passwd *pw = getpwuid(m->caller_uid);

			home = pw ? pw->pw_dir : NULL;
		}
		if (!home || *home != '/')
			return err_set(e, ERR_INVALID, ENOENT, NULL, "no home folder is known; pass --state-dir");
		r = text_format(ret, PATH_MAX, "%s/.local/state/orkestr-emulator", home);
	}
	return r < 0 ? err_errno(e, -r, "the default state dir") : 0;
}

/* An absolute path without a slash at its end. */
static int absolute(const char *path, const struct idmap *m, char ret[static PATH_MAX], struct err *e)
{
	char cwd[PATH_MAX];
	size_t n;
	int r;

	if (!path) {
		r = default_path(m, ret, e);
		if (r < 0)
			return r;
	} else if (!*path) {
		return err_set(e, ERR_INVALID, EINVAL, NULL, "the state dir's path is empty");
	} else if (*path == '/') {
		r = text_format(ret, PATH_MAX, "%s", path);
		if (r < 0)
			return err_errno(e, -r, "state dir");
	} else {
		if (!getcwd(cwd, sizeof(cwd)))
			return err_errno(e, errno, "cannot tell the current folder");
		r = text_format(ret, PATH_MAX, "%s/%s", cwd, path);
		if (r < 0)
			return err_errno(e, -r, "state dir");
	}
	for (n = strlen(ret); n > 0 && ret[n - 1] == '/'; n--)
		ret[n - 1] = '\0';
	if (n == 0)
		return err_set(e, ERR_EXISTS, EEXIST, "not_a_state_dir",
			       "/ cannot be a state dir; pass another --state-dir");
	return 0;
}

/* Opens the folder that holds path's last component, making what is missing when `make`.
 * A user's folders are 0700, as the XDG specification wants them. */
static int open_parent(char *path, mode_t mode, bool make, const char **ret_base, struct err *e)
{
	char *slash = strrchr(path, '/');
	int fd;

	if (make)
		for (char *p = path + 1; p <= slash; p++) {
			if (*p != '/' || p[-1] == '/')
				continue;
			*p = '\0';
			if (mkdir(path, mode) < 0 && errno != EEXIST && errno != EROFS && errno != EACCES) {
				int err = errno;

				return err_errno(e, err, "cannot make %s", path);
			}
			*p = '/';
		}
	*ret_base = slash + 1;
	*slash = '\0';
	fd = open(*path ? path : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		fd = err_errno(e, errno, "cannot open %s, which should hold the state dir", *path ? path : "/");
	*slash = '/';
	return fd;
}

/* What stands there is no folder. If it is the caller's own symlink, opens (makes) what it names. */
static int open_symlink(int parent, const char *base, const char *path, const struct idmap *m, bool make, struct err *e)
{
	_cleanup_close_ int link = openat(parent, base, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	char target[PATH_MAX];
	struct stat st;
	ssize_t n;
	int fd;

	if (link < 0 || fstat(link, &st) < 0)
		return err_errno(e, errno, "cannot open the state dir %s", path);
	if (!S_ISLNK(st.st_mode))
		return err_set(e, ERR_EXISTS, ENOTDIR, "not_a_state_dir", "%s is no folder; pass another --state-dir",
			       path);
	if (st.st_uid != m->caller_uid)
		return err_set(e, ERR_DENIED, EPERM, NULL,
			       "%s is a symlink of another user (uid %u); pass the folder itself as --state-dir", path,
			       st.st_uid);
	/* Read from the very symlink whose owner was seen, not by its name again. */
	n = readlinkat(link, "", target, sizeof(target) - 1);
	if (n < 0)
		return err_errno(e, errno, "cannot read the symlink %s", path);
	target[n] = '\0';
	if (make && mkdirat(parent, target, 0700) < 0 && errno != EEXIST)
		return err_errno(e, errno, "%s is a symlink to %s, which cannot be made", path, target);
	fd = openat(parent, target, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "there is no state dir %s", path);
	if (fd < 0)
		return err_set(e, ERR_INVALID, errno, NULL,
			       "%s is a symlink to %s, which cannot be opened as a folder: %s", path, target,
			       strerror(errno));
	return fd;
}

static int open_folder(int parent, const char *base, const char *path, const struct idmap *m, bool make, struct err *e)
{
	for (int tries = 0;; tries++) {
		int fd = openat(parent, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		if (errno == ELOOP || errno == ENOTDIR)
			return open_symlink(parent, base, path, m, make, e);
		if (errno != ENOENT || tries >= 3)
			return err_errno(e, errno, "cannot open the state dir %s", path);
		if (!make)
			return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "there is no state dir %s", path);
		if (mkdirat(parent, base, 0700) < 0 && errno != EEXIST)
			return err_errno(e, errno, "cannot make the state dir %s", path);
	}
}

/* Nothing of anyone's inside: an unfinished marker and the lock don't count. -errno on failure. */
static int is_empty(int fd)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), empty = 1;
	const struct dirent *de;
	DIR *d;

	if (copy < 0)
		return -errno;
	d = fdopendir(copy);
	if (!d) {
		int r = -errno;

		(void)close(copy);
		return r;
	}
	while (empty && (de = readdir(d)))
		empty = strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0 ||
			strcmp(de->d_name, STATEDIR_MARKER) == 0 || strcmp(de->d_name, STATEDIR_LOCK) == 0;
	(void)closedir(d);
	return empty;
}

/* The marker's version; 0: there is none, or one that was never finished; -EINVAL: it is something else. */
static int read_marker(int fd)
{
	_cleanup_close_ int f = openat(fd, STATEDIR_MARKER, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	const size_t head = sizeof(MARKER_HEAD) - 1;
	char s[128];
	uint64_t v;
	ssize_t n;

	if (f < 0)
		return errno == ENOENT ? 0 : errno == ELOOP ? -EINVAL : -errno;
	n = fd_read_all(f, s, sizeof(s));
	if (n <= 0)
		return (int)n;
	if ((size_t)n < head + 2 || (size_t)n >= sizeof(s) || memcmp(s, MARKER_HEAD, head) != 0 || s[n - 1] != '\n')
		return -EINVAL;
	s[n - 1] = '\0';
	return text_parse_u64(s + head, 1, INT_MAX, &v) < 0 ? -EINVAL : (int)v;
}

static int write_marker(int fd, const struct idmap *m, const struct stat *dir, struct err *e)
{
	_cleanup_close_ int f = -1;
	char line[64];
	int n, r;

	f = openat(fd, STATEDIR_MARKER, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (f < 0)
		return err_errno(e, errno, "cannot write the state dir's marker");
	n = text_format(line, sizeof(line), MARKER_HEAD "%d\n", MARKER_VERSION);
	r = fd_write_all(f, line, (size_t)n);
	if (r < 0)
		return err_errno(e, -r, "cannot write the state dir's marker");
	if (dir->st_uid != m->own_uid && fchown(f, m->own_uid, m->own_gid) < 0)
		return err_errno(e, errno, "cannot give the state dir's marker to uid %u", m->own_uid);
	return 0;
}

static int check_owner(const struct stat *st, const struct idmap *m, const char *path, struct err *e)
{
	const struct passwd *pw;

	if (st->st_uid == m->own_uid || st->st_uid == m->caller_uid)
		return 0;
	pw = getpwuid(st->st_uid);
	return err_set(e, ERR_DENIED, EPERM, "state_dir_owner",
		       "%s belongs to %s%suid %u; run as that user, or pass another --state-dir", path,
		       pw ? pw->pw_name : "", pw ? ", " : "", st->st_uid);
}

/* Is it ours, or may it become ours? *ret_new: it is empty and has to be marked. */
static int check_contents(int fd, const struct stat *st, const struct idmap *m, const char *path, bool *ret_new,
			  struct err *e)
{
	int version = read_marker(fd), empty = is_empty(fd);

	if (empty < 0)
		return err_errno(e, -empty, "cannot read the state dir %s", path);
	if (version < 0 && version != -EINVAL)
		return err_errno(e, -version, "cannot read %s/%s", path, STATEDIR_MARKER);
	if (version > MARKER_VERSION)
		return err_set(
			e, ERR_UNSUPPORTED, EPROTONOSUPPORT, "state_dir_newer",
			"%s was made by a newer orkestr-emulator (format %d, this one knows %d); use that one, or pass "
			"another --state-dir",
			path, version, MARKER_VERSION);
	if (version == -EINVAL || (version == 0 && !empty))
		return err_set(e, ERR_EXISTS, ENOTEMPTY, "not_a_state_dir",
			       "%s is not empty and is no state dir of the emulator's; pass an empty or a new folder "
			       "as --state-dir",
			       path);
	/* Only a start that was cut short leaves a marked folder with the caller. */
	if (st->st_uid != m->own_uid && !empty)
		return err_set(e, ERR_DENIED, EPERM, "state_dir_owner",
			       "%s was made for uid %u, but this emulator runs as uid %u; pass another --state-dir",
			       path, st->st_uid, m->own_uid);
	*ret_new = version == 0;
	return 0;
}

static int take(int fd, const struct stat *st, const struct idmap *m, const char *path, bool is_new, struct err *e)
{
	if (is_new) {
		int r = write_marker(fd, m, st, e);

		if (r < 0)
			return r;
	}
	if ((st->st_mode & 07777) != 0700 && fchmod(fd, 0700) < 0)
		return err_errno(e, errno, "cannot close the state dir %s to others", path);
	if (st->st_uid != m->own_uid && fchown(fd, m->own_uid, m->own_gid) < 0)
		return err_errno(e, errno, "cannot give the state dir %s to uid %u", path, m->own_uid);
	return 0;
}

static void resolved_path(int fd, char *path, size_t cap)
{
	char link[32], to[PATH_MAX];
	ssize_t n;

	(void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, to, sizeof(to) - 1);
	if (n > 0 && (size_t)n < cap && to[0] == '/') {
		memcpy(path, to, (size_t)n);
		path[n] = '\0';
	}
}

static int open_checked(const char *path, const struct idmap *m, bool make, int *ret_fd, char *ret_path, size_t cap,
			struct err *e)
{
	_cleanup_close_ int parent = -1, fd = -1;
	char full[PATH_MAX];
	const char *base = NULL;
	bool is_new = false;
	struct stat st;
	int r;

	r = absolute(path, m, full, e);
	if (r < 0)
		return r;
	parent = open_parent(full, m->caller_uid == 0 ? 0755 : 0700, make, &base, e);
	if (parent < 0)
		return parent;
	fd = open_folder(parent, base, full, m, make, e);
	if (fd < 0)
		return fd;
	resolved_path(fd, full, sizeof(full));
	if (fstat(fd, &st) < 0)
		return err_errno(e, errno, "cannot look at the state dir %s", full);
	r = check_owner(&st, m, full, e);
	if (r >= 0)
		r = check_contents(fd, &st, m, full, &is_new, e);
	if (r >= 0 && is_new && !make)
		return err_set(e, ERR_EXISTS, EINVAL, "not_a_state_dir", "%s is an empty folder and no state dir",
			       full);
	if (r >= 0 && make)
		r = take(fd, &st, m, full, is_new, e);
	if (r < 0)
		return r;
	if (text_format(ret_path, cap, "%s", full) < 0)
		return err_errno(e, ENAMETOOLONG, "state dir %s", full);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int statedir_open(const char *path, const struct idmap *m, int *ret_fd, char *ret_path, size_t cap, struct err *e)
{
	return open_checked(path, m, true, ret_fd, ret_path, cap, e);
}

int statedir_open_existing(const char *path, const struct idmap *m, int *ret_fd, char *ret_path, size_t cap,
			   struct err *e)
{
	return open_checked(path, m, false, ret_fd, ret_path, cap, e);
}

int statedir_open_snapshots(const char *path, const struct idmap *m, bool make, int *ret_fd, struct err *e)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_errno(e, errno, "cannot make the snapshot dir %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_errno(e, errno, "the snapshot dir %s", path);
	if (st.st_uid != m->own_uid && (st.st_uid != m->caller_uid || is_empty(fd) != 1))
		return err_set(e, ERR_DENIED, EPERM, "snapshot_dir_owner",
			       "%s belongs to uid %u, and this emulator runs as uid %u: those who share a snapshot dir "
			       "must run as the same user, and a new one must be empty",
			       path, st.st_uid, m->own_uid);
	if ((st.st_mode & 07777) != 0700 && fchmod(fd, 0700) < 0)
		return err_errno(e, errno, "cannot close the snapshot dir %s to others", path);
	if (st.st_uid != m->own_uid && fchown(fd, m->own_uid, m->own_gid) < 0)
		return err_errno(e, errno, "cannot give the snapshot dir %s to uid %u", path, m->own_uid);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int locked_by_other(int state_fd, int lock_fd, struct err *e)
{
	char path[PATH_MAX] = "this state dir", pid[16] = "";
	ssize_t n = pread(lock_fd, pid, sizeof(pid) - 1, 0);
	uint64_t v;

	resolved_path(state_fd, path, sizeof(path));
	if (n > 0 && pid[n - 1] == '\n') {
		pid[n - 1] = '\0';
		if (text_parse_u64(pid, 1, INT_MAX, &v) == 0)
			return err_set(e, ERR_BUSY, EBUSY, "state_dir_locked",
				       "another emulator (pid %s) uses %s; stop it or pass --state-dir", pid, path);
	}
	return err_set(e, ERR_BUSY, EBUSY, "state_dir_locked", "another emulator uses %s; stop it or pass --state-dir",
		       path);
}

int statedir_lock(int state_fd, struct err *e)
{
	for (;;) {
		_cleanup_close_ int fd =
			openat(state_fd, STATEDIR_LOCK, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
		struct stat st, dir;
		char pid[16];
		int n;

		if (fd < 0 || fstat(state_fd, &dir) < 0 || fstat(fd, &st) < 0)
			return err_errno(e, errno, "cannot open the state dir's lock");
		/* Made by root, it must be the emulator's too; inside E both are 0 already. */
		if (st.st_uid != dir.st_uid && fchown(fd, dir.st_uid, dir.st_gid) < 0)
			return err_errno(e, errno, "cannot give the state dir's lock to its owner");
		if (flock(fd, LOCK_EX | LOCK_NB) < 0)
			return errno == EWOULDBLOCK ? locked_by_other(state_fd, fd, e)
						    : err_errno(e, errno, "cannot lock the state dir");
		if (fstat(fd, &st) < 0)
			return err_errno(e, errno, "cannot look at the state dir's lock");
		if (st.st_nlink == 0) /* `clean` removed it between our open and our flock */
			continue;
		/* For the message above only: a full disk is no reason not to start. */
		n = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
		if (ftruncate(fd, 0) == 0)
			(void)!pwrite(fd, pid, (size_t)n, 0);
		return TAKE_FD(fd);
	}
}

void statedir_name(const char *path, char ret[static STATEDIR_NAME_SIZE])
{
	char hex[TEXT_SHA256_SIZE];

	text_sha256(path, strlen(path), hex);
	memcpy(ret, hex, 12);
	ret[12] = '\0';
}
