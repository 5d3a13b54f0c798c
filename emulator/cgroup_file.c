/* Small helpers over cgroup folders and files; and cgroup.freeze, cgroup.kill, which a v2 tree has even
 * where its controllers belong to v1. See the kernel's Documentation/admin-guide/cgroup-v2.rst. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "emulator/cgroup-internal.h"

#define CGROUP_FILE_MAX 8192 /* memory.stat is the longest; it is under 3 KiB on Linux 6.18 */

int cgroup_open_dir(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static int make_dir(int dirfd, const char *name)
{
	if (mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	return cgroup_open_dir(dirfd, name);
}

int cgroup_make_top(int dirfd, const char *name)
{
	/* An earlier run's janitor may be at work here: it holds the lock only for the moment it removes
	 * things, and what it removed must be made again. */
	for (int i = 0; i < 50; i++) {
		_cleanup_close_ int fd = make_dir(dirfd, name);
		struct stat mine, now;

		if (fd < 0 && fd != -ENOENT)
			return fd;
		if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) == 0 && fstat(fd, &mine) == 0 &&
		    fstatat(dirfd, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && mine.st_ino == now.st_ino)
			return TAKE_FD(fd);
		(void)nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return -EBUSY;
}

int cgroup_give(int dirfd, uid_t uid, gid_t gid, bool all_files)
{
	static const char *const delegation[] = { "cgroup.procs", "cgroup.threads", "cgroup.subtree_control" };
	struct dirent *de;
	int fd, k = 0;
	DIR *d;

	if (fchownat(dirfd, "", uid, gid, AT_EMPTY_PATH) < 0)
		return -errno;
	if (!all_files) {
		for (size_t i = 0; i < ARRAY_SIZE(delegation); i++)
			if (fchownat(dirfd, delegation[i], uid, gid, AT_SYMLINK_NOFOLLOW) < 0 && errno != ENOENT)
				return -errno;
		return 0;
	}
	fd = cgroup_open_dir(dirfd, ".");
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		closep(&fd);
		return -EIO;
	}
	while (k == 0 && (de = readdir(d)))
		if (de->d_type == DT_REG && fchownat(dirfd, de->d_name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
			k = -errno;
	(void)closedir(d);
	return k;
}

/* It was made with these ids: with hundreds of groups alive the thousands of calls would be felt at a start. */
static bool is_given(int dirfd, uid_t uid, gid_t gid)
{
	struct stat dir, file;

	return fstat(dirfd, &dir) == 0 && dir.st_uid == uid && dir.st_gid == gid &&
	       fstatat(dirfd, "cgroup.procs", &file, AT_SYMLINK_NOFOLLOW) == 0 && file.st_uid == uid &&
	       file.st_gid == gid;
}

int cgroup_give_children(int dirfd, uid_t uid, gid_t gid)
{
	int fd = cgroup_open_dir(dirfd, "."), k = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *de;

	if (!d) {
		closep(&fd);
		return -EIO;
	}
	while (k == 0 && (de = readdir(d)))
		if (de->d_type == DT_DIR && cgroup_word_valid(de->d_name, CGROUP_SLOT_MAX)) {
			_cleanup_close_ int child = cgroup_open_dir(dirfd, de->d_name);

			if (child >= 0 && !is_given(child, uid, gid))
				k = cgroup_give(child, uid, gid, true);
		}
	(void)closedir(d);
	return k;
}

int cgroup_remove_tree(int dirfd, const char *name, unsigned int depth)
{
	struct dirent *de;
	int fd, k = 0;
	DIR *d;

	if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	if (errno != EBUSY && errno != ENOTEMPTY)
		return -errno;
	fd = depth > 0 ? cgroup_open_dir(dirfd, name) : -EBUSY;
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		closep(&fd);
		return -EBUSY;
	}
	while ((de = readdir(d)))
		if (de->d_type == DT_DIR && strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0)
			k = MIN(k, cgroup_remove_tree(fd, de->d_name, depth - 1));
	(void)closedir(d);
	if (k < 0)
		return k;
	return unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

static int file_path(char ret[static PATH_MAX], const char *slot, const char *file)
{
	return text_format(ret, PATH_MAX, "%s/%s", slot, file) < 0 ? -ENAMETOOLONG : 0;
}

static int read_text(int dirfd, const char *slot, const char *file, char ret[static CGROUP_FILE_MAX])
{
	char path[PATH_MAX];
	int k = file_path(path, slot, file);
	ssize_t n;

	if (k < 0)
		return k;
	n = fd_read_file(dirfd, path, ret, CGROUP_FILE_MAX);
	return n < 0 ? (int)n : 0;
}

/* Digits up to the first other character; "max" is UINT64_MAX. */
static int parse_number(const char *s, uint64_t *ret)
{
	char digits[24];
	size_t n = strspn(s, "0123456789");

	if (strncmp(s, "max", 3) == 0) {
		*ret = UINT64_MAX;
		return 0;
	}
	if (n == 0 || n >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, s, n);
	digits[n] = '\0';
	return text_parse_u64(digits, 0, UINT64_MAX, ret);
}

int cgroup_read_u64(int dirfd, const char *slot, const char *file, uint64_t *ret)
{
	char text[CGROUP_FILE_MAX];
	int k = read_text(dirfd, slot, file, text);

	return k < 0 ? k : parse_number(text, ret);
}

int cgroup_read_word(int dirfd, const char *slot, const char *file, char *ret, size_t cap)
{
	char text[CGROUP_FILE_MAX];
	int k = read_text(dirfd, slot, file, text);

	if (k == 0)
		(void)snprintf(ret, cap, "%.*s", (int)strcspn(text, " \n"), text);
	return k;
}

int cgroup_find_key(const char *text, const char *key, uint64_t *ret)
{
	size_t n = strlen(key);

	for (const char *line = text; *line;) {
		const char *end = strchrnul(line, '\n');

		if (strncmp(line, key, n) == 0 && line[n] == ' ')
			return parse_number(line + n + 1, ret);
		line = *end ? end + 1 : end;
	}
	return -ENOENT;
}

int cgroup_read_key(int dirfd, const char *slot, const char *file, const char *key, uint64_t *ret)
{
	char text[CGROUP_FILE_MAX];
	int k = read_text(dirfd, slot, file, text);

	return k < 0 ? k : cgroup_find_key(text, key, ret);
}

int cgroup_write(int dirfd, const char *slot, const char *file, const char *text)
{
	char path[PATH_MAX];
	int k = file_path(path, slot, file);

	return k < 0 ? k : fd_write_file(dirfd, path, text);
}

int cgroup_write_u64(int dirfd, const char *slot, const char *file, uint64_t v)
{
	char text[24];

	(void)text_format(text, sizeof(text), "%llu", (unsigned long long)v);
	return cgroup_write(dirfd, slot, file, text);
}

static int wait_frozen(int events_fd)
{
	int64_t until = clock_mono_us() + CGROUP_FREEZE_TIMEOUT_MS * 1000, left;

	for (;;) {
		struct pollfd p = { .fd = events_fd, .events = POLLPRI };
		char text[256];
		uint64_t frozen, populated;
		ssize_t n = pread(events_fd, text, sizeof(text) - 1, 0);

		if (n < 0)
			return -errno;
		text[n] = '\0';
		if (cgroup_find_key(text, "frozen", &frozen) < 0)
			return -EIO;
		if (frozen != 0)
			return 0;
		/* Killed meanwhile: without a process it never gets there. */
		if (cgroup_find_key(text, "populated", &populated) == 0 && populated == 0)
			return -ESRCH;
		left = until - clock_mono_us();
		if (left <= 0)
			return -ETIMEDOUT;
		/* kernfs wakes a poller when the file's contents changed since it was last read */
		if (poll(&p, 1, (int)(left / 1000) + 1) < 0 && errno != EINTR)
			return -errno;
	}
}

int cgroup_unified_freeze(int dirfd, const char *slot, bool freeze, struct err *e)
{
	_cleanup_close_ int fd = -1;
	char path[PATH_MAX];
	int k = file_path(path, slot, "cgroup.events");

	if (k == 0) {
		fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
		k = fd < 0 ? -errno : cgroup_write(dirfd, slot, "cgroup.freeze", freeze ? "1" : "0");
	}
	/* What is thawed goes on at once, but "frozen 0" may have to wait for a CPU quota's next period. */
	if (k == 0 && freeze)
		k = wait_frozen(fd);
	if (k < 0 && freeze)
		(void)cgroup_write(dirfd, slot, "cgroup.freeze", "0");
	return k < 0 ? err_errno(e, -k, "%s the cgroup %s", freeze ? "freezing" : "thawing", slot) : 0;
}

int cgroup_unified_kill(int dirfd, const char *slot)
{
	return cgroup_write(dirfd, slot, "cgroup.kill", "1");
}

int cgroup_unified_make(int top_fd, uid_t uid, gid_t gid, struct err *e)
{
	_cleanup_close_ int daemon_fd = make_dir(top_fd, "daemon");
	_cleanup_close_ int sandboxes_fd = make_dir(top_fd, "sandboxes");
	int k = MIN(daemon_fd, sandboxes_fd);

	if (k < 0)
		return err_errno(e, -k, "making the emulator's cgroups");
	k = cgroup_give(top_fd, uid, gid, false);
	if (k == 0)
		k = cgroup_give(daemon_fd, uid, gid, false);
	if (k == 0)
		k = cgroup_give(sandboxes_fd, uid, gid, false);
	if (k == 0)
		k = cgroup_give_children(sandboxes_fd, uid, gid);
	return k < 0 ? err_errno(e, -k, "giving the cgroups to the emulator's id") : TAKE_FD(sandboxes_fd);
}

int cgroup_unified_enter(int top_fd, struct err *e)
{
	int k = cgroup_write(top_fd, "daemon", "cgroup.procs", "0");

	return k < 0 ? err_errno(e, -k, "moving into the emulator's cgroup") : 0;
}
