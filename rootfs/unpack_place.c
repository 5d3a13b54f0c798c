/* Where an entry goes: its name made harmless, its parent folder opened or made, its place made free. */

#include "rootfs/unpack-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>
#include <sys/stat.h>

#include "rootfs/newfile.h"

int unpack_normalise(struct unpacker *u, const char *path, char ret[static PATH_MAX])
{
	size_t o = 0;

	if ((u->s->live || u->s->strict) && path[0] == '/')
		return unpack_refuse(u, path, "an absolute name");
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 2 && p[0] == '.' && p[1] == '.')
			return unpack_refuse(u, path, "a name with \"..\"");
		if (n > NAME_MAX || o + n + 2 > PATH_MAX)
			return unpack_refuse(u, path, "the name is too long");
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

bool unpack_strip_first(const char *first, char path[static PATH_MAX])
{
	size_t n = strlen(first);

	if (strncmp(path, first, n) != 0 || path[n] != '/')
		return false;
	memmove(path, path + n + 1, strlen(path + n + 1) + 1);
	return true;
}

int unpack_make_parents(struct unpacker *u, const char *path)
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
		sub = sys_openat2(fd, part, O_PATH | O_DIRECTORY, 0, UNPACK_RESOLVE);
		if (sub == -ENOENT) {
			if (mkdirat(fd, part, 0755) < 0 && !(u->s->live && errno == EEXIST))
				return -errno;
			r = unpack_own(u, fd, part, u->s->sandbox_uid, (gid_t)u->s->sandbox_uid, 0);
			if (r < 0)
				return r;
			sub = sys_openat2(fd, part, O_RDONLY | O_DIRECTORY, 0, UNPACK_RESOLVE);
			if (sub >= 0 && !u->s->live && fchmod(sub, 0755) < 0) { /* whatever the umask is */
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
	fd = sys_openat2(u->base_fd, parent, O_PATH | O_DIRECTORY, 0, UNPACK_RESOLVE);
	if (fd == -ENOENT)
		fd = unpack_make_parents(u, parent);
	if (fd == -ELOOP || fd == -EXDEV)
		return unpack_refuse(u, path, "a symlink or a mount point is on its way");
	if (fd == -ENOTDIR || fd == -EEXIST)
		return unpack_refuse(u, path, "something that is no folder is on its way");
	if (fd < 0)
		return unpack_entry_errno(u, -fd, path, "open the folder of");
	closep(&u->parent_fd);
	u->parent_fd = fd;
	memcpy(u->parent, parent, len + 1);
	*ret = fd;
	return 0;
}

int unpack_find_place(struct unpacker *u, const char *path, struct place *ret)
{
	const char *slash;
	int r;

	if (!path)
		return unpack_refuse(u, "?", "an entry without a readable name");
	r = unpack_normalise(u, path, ret->path);
	if (r < 0)
		return r;
	if (u->s->strip && !unpack_strip_first(u->s->strip, ret->path))
		return 1;
	ret->name = NULL;
	ret->dirfd = u->base_fd;
	if (!*ret->path)
		return 0;
	slash = strrchr(ret->path, '/');
	ret->name = slash ? slash + 1 : ret->path;
	return open_parent(u, ret->path, slash ? (size_t)(slash - ret->path) : 0, &ret->dirfd);
}

/* Removes an empty folder that is in the way. */
static int clear_folder(struct unpacker *u, const struct place *at)
{
	if (unlinkat(at->dirfd, at->name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return unpack_refuse(u, at->path, "it would replace a folder that is not empty");
	/* What is remembered as the last parent may be the folder that just went; not if this place is in it. */
	if (at->dirfd != u->parent_fd)
		closep(&u->parent_fd);
	return 0;
}

int unpack_clear_place(struct unpacker *u, const struct place *at)
{
	if (unlinkat(at->dirfd, at->name, 0) == 0 || errno == ENOENT)
		return 0;
	return errno == EISDIR ? clear_folder(u, at) : unpack_entry_errno(u, errno, at->path, "replace");
}

int unpack_check_live(struct unpacker *u, const struct place *at, bool *ret_there)
{
	struct statx st;

	*ret_there = false;
	if (statx(at->dirfd, at->name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &st) < 0)
		return errno == ENOENT ? 0 : unpack_entry_errno(u, errno, at->path, "look at");
	if (st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		return unpack_refuse(u, at->path, "a file system is mounted there");
	*ret_there = !S_ISDIR(st.stx_mode);
	return *ret_there ? 0 : clear_folder(u, at);
}

/* Gives `temp` the name of the place. */
static int move_over(struct unpacker *u, const struct place *at, const char *temp)
{
	int r = renameat(at->dirfd, temp, at->dirfd, at->name) < 0 ? -errno : 0;

	/* It is still there after a failure, and when both were names of one file: rename(2) does nothing then. */
	(void)unlinkat(at->dirfd, temp, 0);
	return r < 0 ? unpack_entry_errno(u, -r, at->path, "replace") : 0;
}

int unpack_make_at(struct unpacker *u, const struct place *at, int (*fn)(void *arg, int dirfd, const char *name),
		   void *arg)
{
	char temp[NEWFILE_TEMP_SIZE];
	bool there;
	int r;

	if (!u->s->live) {
		r = unpack_clear_place(u, at);
		if (r < 0)
			return r;
	}
	r = fn(arg, at->dirfd, at->name);
	if (r == -EEXIST && u->s->live) {
		r = unpack_check_live(u, at, &there);
		if (r < 0)
			return r;
		newfile_temp_name(temp);
		r = fn(arg, at->dirfd, temp);
		if (r == 0)
			return move_over(u, at, temp);
	}
	return r < 0 ? unpack_entry_errno(u, -r, at->path, "make") : 0;
}
