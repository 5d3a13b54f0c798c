/* Atomic writes.
 *
 * The data goes into a file without a name in the target's directory (rootfs/newfile.h); commit gives it
 * owner and mode, then its name. Nothing is synced: a sandbox's disk doesn't outlive a power cut anyway.
 *
 * A symlink as the last component is written through, as a shell's redirection does. The kernel can
 * resolve it but won't tell the directory it ended in, so the links are walked here, one readlinkat(2)
 * each; every step is again resolved below the root. What replaces a file keeps its owner and, unless
 * told otherwise, its mode; other hard links keep the old contents. */

#include "emulator/files-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <string.h>

#include "emulator/base/fd.h"
#include "emulator/base/text.h"
#include "rootfs/newfile.h"

#define MAX_LINKS 40 /* as the kernel's own MAXSYMLINKS */
#define MAKE_TRIES 16

struct files_write {
	int dirfd; /* O_PATH: where the target is */
	struct newfile data;
	char name[FILES_NAME_MAX + 1];
	uid_t uid;
	uint32_t mode;
	bool exists;
	bool failed; /* some data did not get in */
	char shown[256];
};

static void write_free(struct files_write *w)
{
	if (!w)
		return;
	newfile_drop(&w->data);
	closep(&w->dirfd);
	free(w);
}

static void write_freep(struct files_write **w)
{
	write_free(*w);
}

/* The directory `name` in dirfd, made if it is missing. -ENOTDIR also for a symlink. */
static int enter_or_make(int dirfd, const char *name)
{
	int fd = -ENOENT;

	for (int i = 0; i < MAKE_TRIES && fd == -ENOENT; i++) {
		fd = files_open_child(dirfd, name, O_PATH | O_DIRECTORY, false);
		if (fd != -ENOENT)
			break;
		if (files_is_pseudo(dirfd))
			return -EPERM;
		if (mkdirat(dirfd, name, 0755) < 0 && errno != EEXIST)
			return -errno;
	}
	return fd;
}

/* As files_open_in, but makes what is missing on the way, one name at a time. */
static int make_path(const struct files_ctx *c, const char *path)
{
	_cleanup_close_ int at = files_open_in(c, "/", O_PATH | O_DIRECTORY);
	char name[FILES_NAME_MAX + 1], prefix[FILES_PATH_MAX + 1];
	const char *p = path, *end;

	while (at >= 0) {
		int next;

		p += strspn(p, "/");
		if (*p == '\0')
			return TAKE_FD(at);
		end = strchrnul(p, '/');
		memcpy(name, p, (size_t)(end - p));
		name[end - p] = '\0';
		memcpy(prefix, path, (size_t)(end - path));
		prefix[end - path] = '\0';
		next = strcmp(name, "..") == 0 ? -ELOOP : enter_or_make(at, name);
		/* ".." and symlinks are for the kernel, from the root on. */
		if (next == -ELOOP || next == -ENOTDIR)
			next = files_open_in(c, prefix, O_PATH | O_DIRECTORY);
		closep(&at);
		at = next;
		p = end;
	}
	return at;
}

int files_open_dir(const struct files_ctx *c, const char *dir, bool make)
{
	int fd = files_open_in(c, dir, O_PATH | O_DIRECTORY);

	return fd == -ENOENT && make ? make_path(c, dir) : fd;
}

/* Puts where the symlink dirfd/name leads in path, as a path from the root. */
static int follow_link(int dirfd, const char *dir, const char *name, char path[static FILES_PATH_MAX + 1])
{
	char to[FILES_PATH_MAX + 1];
	ssize_t n = readlinkat(dirfd, name, to, sizeof(to));

	if (n < 0)
		return errno == EINVAL ? -EAGAIN : -errno; /* no symlink any more */
	if (n == 0)
		return -ENOENT;
	if ((size_t)n >= sizeof(to))
		return -ENAMETOOLONG;
	to[n] = '\0';
	if (to[0] == '/') {
		memcpy(path, to, (size_t)n + 1);
		return 0;
	}
	n = text_format(path, FILES_PATH_MAX + 1, "%s/%s", dir, to);
	return n < 0 ? (int)n : 0;
}

/* What is at dirfd/name: 1 a symlink, 0 nothing or a file that may be replaced, or a negative errno. */
static int check_target(int dirfd, const char *name, struct statx *st, bool *ret_exists)
{
	bool mounted;
	int r = files_lstat(dirfd, name, st, &mounted);

	*ret_exists = r == 0;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (S_ISDIR(st->stx_mode))
		return -EISDIR;
	if (mounted)
		return -EBUSY;
	if (S_ISLNK(st->stx_mode))
		return 1;
	return S_ISREG(st->stx_mode) ? 0 : -ENXIO;
}

/* Fills w->dirfd, w->name and w->exists. A negative errno. */
static int locate(const struct files_ctx *c, const char *path, struct files_write *w)
{
	char at[FILES_PATH_MAX + 1], dir[FILES_PATH_MAX + 1];
	struct statx st;

	memcpy(at, path, strlen(path) + 1);
	for (int hop = 0; hop <= MAX_LINKS; hop++) {
		bool slash;
		int r;

		if (hop > 0 && files_check_path(at, NULL) < 0)
			return -ENAMETOOLONG;
		files_split(at, dir, w->name, &slash);
		if (slash || w->name[0] == '\0' || strcmp(w->name, ".") == 0 || strcmp(w->name, "..") == 0)
			return -EISDIR;
		closep(&w->dirfd);
		r = files_open_dir(c, dir, hop == 0);
		if (r < 0)
			return r;
		w->dirfd = r;
		if (files_is_pseudo(w->dirfd))
			return -EPERM;
		r = check_target(w->dirfd, w->name, &st, &w->exists);
		if (r <= 0)
			return r;
		r = follow_link(w->dirfd, dir, w->name, at);
		if (r < 0)
			return r;
	}
	return -ELOOP;
}

int files_write_begin(const struct files_ctx *c, const char *path, uint32_t mode, struct files_write **ret,
		      struct err *e)
{
	_cleanup_(write_freep) struct files_write *w = NULL;
	struct files_identity id;
	int r = files_check_path(path, e);

	if (r < 0)
		return r;
	w = calloc(1, sizeof(*w));
	if (!w)
		return err_errno(e, ENOMEM, "write a file");
	w->dirfd = -1;
	w->data = NEWFILE_INIT;
	w->uid = c->uid;
	w->mode = mode;
	(void)snprintf(w->shown, sizeof(w->shown), "%s", path);
	files_identity_enter(&id, c->uid);
	r = locate(c, path, w);
	if (r >= 0)
		r = newfile_open(&w->data, w->dirfd);
	files_identity_leave(&id);
	if (r < 0)
		return files_err(e, -r, path, "write");
	*ret = TAKE_PTR(w);
	return 0;
}

bool files_write_replaces(const struct files_write *w)
{
	return w->exists;
}

void files_write_set_mode(struct files_write *w, uint32_t mode)
{
	w->mode = mode;
}

int files_write_data(struct files_write *w, const void *p, size_t n, struct err *e)
{
	int r = fd_write_all(w->data.fd, p, n);

	if (r < 0) {
		w->failed = true;
		return files_err(e, -r, w->shown, "write");
	}
	return 0;
}

int files_write_reread(const struct files_write *w, uint64_t offset, void *p, size_t n, struct err *e)
{
	char *to = p;

	while (n > 0) {
		ssize_t k = pread(w->data.fd, to, n, (off_t)offset);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return files_err(e, k < 0 ? errno : EIO, w->shown, "read back");
		to += k;
		offset += (uint64_t)k;
		n -= (size_t)k;
	}
	return 0;
}

static int set_owner_and_mode(struct files_write *w, const struct statx *old)
{
	uid_t uid = w->exists ? old->stx_uid : w->uid;
	gid_t gid = w->exists ? old->stx_gid : w->uid;
	mode_t mode = 0644;

	if (w->mode != UINT32_MAX)
		mode = w->mode & 07777;
	else if (w->exists)
		mode = old->stx_mode & 07777;
	/* The owner first: changing it clears the set-id bits (chown(2)). */
	if (fchown(w->data.fd, uid, gid) < 0 || fchmod(w->data.fd, mode) < 0)
		return -errno;
	return 0;
}

static int publish(struct files_write *w)
{
	struct statx old;
	int r = check_target(w->dirfd, w->name, &old, &w->exists);

	if (r != 0)
		return r < 0 ? r : -ENXIO;
	r = set_owner_and_mode(w, &old);
	return r < 0 ? r : newfile_publish(&w->data, w->name, w->exists);
}

int files_write_commit(struct files_write *given, struct files_entry *ret, struct err *e)
{
	_cleanup_(write_freep) struct files_write *w = given;
	struct files_identity id;
	struct stat st;
	int r;

	if (w->failed)
		return err_set(e, ERR_IO, EIO, NULL, "write: not all of the data could be written");
	files_identity_enter(&id, w->uid);
	r = publish(w);
	files_identity_leave(&id);
	if (r < 0)
		return files_err(e, -r, w->shown, "write");
	if (fstat(w->data.fd, &st) < 0)
		return files_err(e, errno, w->shown, "write");
	if (ret)
		files_entry_from_stat(&st, NULL, ret);
	return 0;
}

void files_write_abort(struct files_write *w)
{
	write_free(w);
}
