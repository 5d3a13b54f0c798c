#include "rootfs/snapshot_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/names.h"

#define MANIFEST_SUFFIX ".json"
#define CLAIM_PREFIX ".claim-"
#define HOLDER_PREFIX ".holder-"
#define TRASH_PREFIX ".trash-"
#define TMP_PREFIX ".tmp-"
#define HOLDER_NAME "holder"
#define PRIVATE_HOLDER "own"
#define LOCK_TRIES 100 /* of 10 ms */
/* A half of a snapshot in a shared folder may be one that is being written; no longer than this. */
#define HALF_MAX_S 86400

#define ID_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

bool snapshot_id_valid(const char *id)
{
	size_t n = strspn(id, ID_CHARS);

	return n > 0 && n < SNAPSHOT_ID_SIZE && id[n] == '\0';
}

void snapshot_names(const char *id, char tar[static SNAPSHOT_NAME_SIZE], char manifest[static SNAPSHOT_NAME_SIZE])
{
	(void)text_format(tar, SNAPSHOT_NAME_SIZE, "%s" SNAPSHOT_TAR_SUFFIX, id);
	(void)text_format(manifest, SNAPSHOT_NAME_SIZE, "%s" MANIFEST_SUFFIX, id);
}

void snapshot_claim_name(const struct snapshot_dir *d, const char *id, char ret[static SNAPSHOT_NAME_SIZE])
{
	(void)text_format(ret, SNAPSHOT_NAME_SIZE, CLAIM_PREFIX "%s-%s" MANIFEST_SUFFIX, id, d->holder);
}

/* ---- opening ---- */

int snapshot_dir_open(int state_fd, int shared_fd, const char *holder, struct snapshot_dir *ret, struct err *e)
{
	struct snapshot_dir d = { .dir_fd = shared_fd, .state_fd = state_fd, .shared = shared_fd >= 0 };

	(void)snprintf(d.holder, sizeof(d.holder), "%s", holder ? holder : PRIVATE_HOLDER);
	if (!d.shared)
		d.dir_fd = sys_openat2(state_fd, "snapshots", O_RDONLY | O_DIRECTORY, 0,
				       RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
	if (d.dir_fd < 0)
		return err_errno(e, -d.dir_fd, "cannot open snapshots");
	*ret = d;
	return 0;
}

void snapshot_dir_close(struct snapshot_dir *d)
{
	closep(&d->dir_fd);
}

static bool holder_valid(const char *h)
{
	return strlen(h) == TEXT_ULID_SIZE - 1 && strspn(h, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") == TEXT_ULID_SIZE - 1;
}

static int own_file(int dirfd, const char *name, int flags, uid_t uid, gid_t gid)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags, 0600);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || (st.st_uid != uid && fchown(fd, uid, gid) < 0))
		r = -errno;
	if (r < 0)
		closep(&fd);
	return r < 0 ? r : fd;
}

/* A start that was cut short may have left it empty: then it is made again, and what that run claimed is put back
 * as any dead holder's. */
static int read_holder(int state_fd, uid_t uid, gid_t gid, char ret[static TEXT_ULID_SIZE])
{
	_cleanup_close_ int fd = own_file(state_fd, HOLDER_NAME, 0, uid, gid);
	ssize_t n = fd < 0 ? fd : fd_read_all(fd, ret, TEXT_ULID_SIZE - 1);

	if (n < 0)
		return (int)n;
	ret[n] = '\0';
	if (holder_valid(ret))
		return 0;
	text_ulid(clock_real_ms(), ret);
	if (ftruncate(fd, 0) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return -errno;
	n = fd_write_all(fd, ret, TEXT_ULID_SIZE - 1);
	return n < 0 ? (int)n : fsync(fd) < 0 ? -errno : 0;
}

int snapshot_hold(int state_fd, int shared_fd, uid_t uid, gid_t gid, char ret_holder[static TEXT_ULID_SIZE],
		  int *ret_fd, struct err *e)
{
	char name[SNAPSHOT_NAME_SIZE];
	int r = read_holder(state_fd, uid, gid, ret_holder), fd;

	if (r < 0)
		return err_errno(e, -r, "cannot tell this state dir's name in the snapshot dir");
	(void)text_format(name, sizeof(name), HOLDER_PREFIX "%s", ret_holder);
	fd = own_file(shared_fd, name, 0, uid, gid);
	if (fd < 0)
		return err_errno(e, -fd, "cannot write to the snapshot dir");
	/* Somebody may be asking whether we live. Whoever has it for longer is a keeper of this state dir's, which
	 * holds it for us as well. */
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK && i < LOCK_TRIES; i++)
		(void)poll(NULL, 0, 10);
	*ret_fd = fd;
	return 0;
}

int snapshot_dir_lock(const struct snapshot_dir *d, struct err *e)
{
	_cleanup_close_ int fd = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_SH) < 0)
		return err_errno(e, errno, "cannot lock the snapshots");
	return TAKE_FD(fd);
}

/* ---- claims ---- */

static int move(const struct snapshot_dir *d, const char *from, const char *to)
{
	/* Not durable before the next fsync of the folder. After a power cut nobody holds a claim anyway: it, or the
	 * snapshot under its own name, is there. */
	return renameat(d->dir_fd, from, d->dir_fd, to) < 0 ? -errno : 0;
}

int snapshot_claim(const struct snapshot_dir *d, const char *id, struct err *e)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE], claim[SNAPSHOT_NAME_SIZE];
	int r;

	if (!snapshot_id_valid(id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a snapshot's name");
	snapshot_names(id, tar, manifest);
	snapshot_claim_name(d, id, claim);
	r = move(d, manifest, claim);
	if (r == -ENOENT && faccessat(d->dir_fd, claim, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	if (r == -ENOENT)
		return err_set(e, ERR_NOT_FOUND, ENOENT, "snapshot_gone", "the snapshot of %s is not there any more",
			       id);
	return r < 0 ? err_errno(e, -r, "cannot claim the snapshot of %s", id) : 0;
}

int snapshot_unclaim(const struct snapshot_dir *d, const char *id, struct err *e)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE], claim[SNAPSHOT_NAME_SIZE];
	int r;

	snapshot_names(id, tar, manifest);
	snapshot_claim_name(d, id, claim);
	r = move(d, claim, manifest);
	return r < 0 && r != -ENOENT ? err_errno(e, -r, "cannot put the snapshot of %s back", id) : 0;
}

bool snapshot_available(const struct snapshot_dir *d, const char *id)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];

	if (!snapshot_id_valid(id))
		return false;
	snapshot_names(id, tar, manifest);
	return faccessat(d->dir_fd, manifest, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool holder_lives(const struct snapshot_dir *d, const char *holder)
{
	char name[SNAPSHOT_NAME_SIZE];
	_cleanup_close_ int fd = -1;

	(void)text_format(name, sizeof(name), HOLDER_PREFIX "%s", holder);
	fd = openat(d->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno != ENOENT;
	return flock(fd, LOCK_SH | LOCK_NB) < 0;
}

/* "<id>-<holder>.json", behind the prefix. */
static bool split_claim(const char *s, char id[static SNAPSHOT_ID_SIZE], char holder[static TEXT_ULID_SIZE])
{
	size_t n = strspn(s, ID_CHARS), h = s[n] == '-' ? strcspn(s + n + 1, ".") : 0;

	if (n == 0 || n >= SNAPSHOT_ID_SIZE || h == 0 || h >= TEXT_ULID_SIZE ||
	    strcmp(s + n + 1 + h, MANIFEST_SUFFIX) != 0)
		return false;
	memcpy(id, s, n);
	id[n] = '\0';
	memcpy(holder, s + n + 1, h);
	holder[h] = '\0';
	return true;
}

/* ---- the end ---- */

static int to_trash(const struct snapshot_dir *d, const char *name, struct err *e)
{
	char to[SNAPSHOT_NAME_SIZE * 2], ulid[TEXT_ULID_SIZE];
	int r;

	text_ulid(clock_real_ms(), ulid);
	r = text_format(to, sizeof(to), "disk/trash/%.64s.%s", name, ulid);
	if (r >= 0)
		r = renameat(d->dir_fd, name, d->state_fd, to) < 0 ? -errno : 0;
	if (r == -EXDEV) { /* a shared folder is on another file system */
		(void)text_format(to, sizeof(to), TRASH_PREFIX "%s", ulid);
		r = move(d, name, to);
	}
	return r < 0 && r != -ENOENT ? err_errno(e, -r, "cannot move %.64s to the trash", name) : r;
}

int snapshot_discard(const struct snapshot_dir *d, const char *id, struct err *e)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE], claim[SNAPSHOT_NAME_SIZE];
	const char *const whole[] = { tar, manifest };
	char half[SNAPSHOT_NAME_SIZE + 8];
	int r = 0;

	if (!snapshot_id_valid(id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a snapshot's name");
	snapshot_names(id, tar, manifest);
	snapshot_claim_name(d, id, claim);
	for (size_t i = 0; i < ARRAY_SIZE(whole); i++) { /* a killed worker's */
		(void)text_format(half, sizeof(half), TMP_PREFIX "%s", whole[i]);
		r = to_trash(d, half, e);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	r = to_trash(d, claim, e); /* first: without it the tar is nothing */
	if (r == -ENOENT)
		r = to_trash(d, manifest, e);
	/* Neither: then the tar is nobody's, or somebody else's. */
	if (r == -ENOENT && d->shared)
		return 0;
	if (r == 0 || r == -ENOENT)
		r = to_trash(d, tar, e);
	return r == -ENOENT ? 0 : r;
}

int snapshot_remove(const struct snapshot_dir *d, const char *id, struct err *e)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];

	if (!snapshot_id_valid(id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a snapshot's name");
	snapshot_names(id, tar, manifest);
	/* As a rename does, this goes well for one only. */
	if (unlinkat(d->dir_fd, manifest, 0) < 0)
		return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "there is no snapshot %s", id)
				       : err_errno(e, errno, "cannot remove the snapshot of %s", id);
	if (fsync(d->dir_fd) < 0 || (unlinkat(d->dir_fd, tar, 0) < 0 && errno != ENOENT))
		return err_errno(e, errno, "cannot remove the tar of %s", id);
	return 0;
}

/* ---- looking ---- */

/* Whether it is somebody's who lives. */
static bool put_back_dead(const struct snapshot_dir *d, const char *name)
{
	char id[SNAPSHOT_ID_SIZE], holder[TEXT_ULID_SIZE], tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];

	if (!split_claim(name + strlen(CLAIM_PREFIX), id, holder) || strcmp(holder, d->holder) == 0)
		return false;
	if (holder_lives(d, holder))
		return true;
	snapshot_names(id, tar, manifest);
	(void)move(d, name, manifest);
	return false;
}

/* The id of "<id>.json" or "<id>.tar.zst". */
static bool id_of(const char *name, char ret[static SNAPSHOT_ID_SIZE], bool *ret_manifest)
{
	const char *dot = strchr(name, '.');
	size_t n = dot ? (size_t)(dot - name) : 0;

	if (!dot || n >= SNAPSHOT_ID_SIZE)
		return false;
	*ret_manifest = strcmp(dot, MANIFEST_SUFFIX) == 0;
	if (!*ret_manifest && strcmp(dot, SNAPSHOT_TAR_SUFFIX) != 0)
		return false;
	memcpy(ret, name, n);
	ret[n] = '\0';
	return snapshot_id_valid(ret);
}

static int read_dir(const struct snapshot_dir *d, struct names *l, struct err *e)
{
	_cleanup_close_ int fd = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : names_read(l, fd);

	return r < 0 ? err_errno(e, -r, "cannot list the snapshots") : 0;
}

int snapshot_each(const struct snapshot_dir *d, void (*fn)(void *arg, const char *id), void *arg, struct err *e)
{
	_cleanup_names_ struct names l = NAMES_INIT;
	bool claims = false, others = false, manifest;
	char id[SNAPSHOT_ID_SIZE];
	int r = read_dir(d, &l, e);

	for (size_t i = 0; r == 0 && i < l.n; i++)
		if (d->shared && strncmp(names_at(&l, i), CLAIM_PREFIX, strlen(CLAIM_PREFIX)) == 0) {
			others |= put_back_dead(d, names_at(&l, i));
			claims = true;
		}
	if (r == 0 && claims) {
		names_free(&l);
		r = read_dir(d, &l, e);
	}
	for (size_t i = 0; r == 0 && i < l.n; i++)
		if (id_of(names_at(&l, i), id, &manifest) && manifest)
			fn(arg, id);
	return r < 0 ? r : others;
}

/* ---- start-up ---- */

struct sweep {
	const struct snapshot_dir *d;
	enum snapshot_fate (*fate)(void *arg, const char *id);
	void *arg;
	struct err *e;
};

static int sweep_claim(const struct sweep *s, const char *name)
{
	char id[SNAPSHOT_ID_SIZE], holder[TEXT_ULID_SIZE];

	if (!split_claim(name + strlen(CLAIM_PREFIX), id, holder))
		return s->d->shared ? 0 : to_trash(s->d, name, s->e);
	if (strcmp(holder, s->d->holder) != 0)
		return 0;
	if (s->fate(s->arg, id) != SNAPSHOT_OVER)
		return snapshot_unclaim(s->d, id, s->e);
	return snapshot_discard(s->d, id, s->e);
}

static bool is_old(const struct snapshot_dir *d, const char *name)
{
	struct stat st;

	return fstatat(d->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && time(NULL) - st.st_ctime > HALF_MAX_S;
}

/* What goes with something else: a tar without its manifest, a file in the making. */
static int sweep_half(const struct sweep *s, const char *name, const char *id, bool is_tar)
{
	if (is_tar && snapshot_available(s->d, id))
		return 0;
	if (s->d->shared && !is_old(s->d, name) && s->fate(s->arg, id) == SNAPSHOT_STRANGE)
		return 0;
	return to_trash(s->d, name, s->e);
}

static bool claimed_by_other(const struct names *l, const char *id)
{
	char other[SNAPSHOT_ID_SIZE], holder[TEXT_ULID_SIZE];

	for (size_t i = 0; i < l->n; i++)
		if (strncmp(names_at(l, i), CLAIM_PREFIX, strlen(CLAIM_PREFIX)) == 0 &&
		    split_claim(names_at(l, i) + strlen(CLAIM_PREFIX), other, holder) && strcmp(other, id) == 0)
			return true;
	return false;
}

static int sweep_name(const struct sweep *s, const struct names *l, const char *name)
{
	size_t tmp = strncmp(name, TMP_PREFIX, strlen(TMP_PREFIX)) == 0 ? strlen(TMP_PREFIX) : 0;
	char id[SNAPSHOT_ID_SIZE];
	bool manifest;

	if (strncmp(name, TRASH_PREFIX, strlen(TRASH_PREFIX)) == 0 ||
	    strncmp(name, CLAIM_PREFIX, strlen(CLAIM_PREFIX)) == 0)
		return 0;
	if (!id_of(name + tmp, id, &manifest))
		return s->d->shared ? 0 : to_trash(s->d, name, s->e);
	if (tmp)
		return sweep_half(s, name, id, false);
	if (!manifest)
		return claimed_by_other(l, id) ? 0 : sweep_half(s, name, id, true);
	return s->fate(s->arg, id) == SNAPSHOT_OVER ? to_trash(s->d, name, s->e) : 0;
}

int snapshot_sweep(const struct snapshot_dir *d, enum snapshot_fate (*fate)(void *arg, const char *id), void *arg,
		   struct err *e)
{
	const struct sweep s = { .d = d, .fate = fate, .arg = arg, .e = e };
	_cleanup_close_ int lock = openat(d->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_names_ struct names l = NAMES_INIT;
	int r;

	if (lock < 0 || (flock(lock, LOCK_EX | LOCK_NB) < 0 && !d->shared && errno == EWOULDBLOCK))
		return 0;
	r = read_dir(d, &l, e);
	for (size_t i = 0; r == 0 && i < l.n; i++)
		if (strncmp(names_at(&l, i), CLAIM_PREFIX, strlen(CLAIM_PREFIX)) == 0) {
			r = sweep_claim(&s, names_at(&l, i));
			r = r == -ENOENT ? 0 : r;
		}
	if (r < 0)
		return r;
	names_free(&l);
	r = read_dir(d, &l, e);
	for (size_t i = 0; r == 0 && i < l.n; i++) { /* "<id>.json" comes before "<id>.tar.zst" */
		r = sweep_name(&s, &l, names_at(&l, i));
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

int snapshot_empty_trash(const struct snapshot_dir *d, struct err *e)
{
	_cleanup_names_ struct names l = NAMES_INIT;
	int r = d->shared ? read_dir(d, &l, e) : 0;

	for (size_t i = 0; r == 0 && i < l.n; i++)
		if (strncmp(names_at(&l, i), TRASH_PREFIX, strlen(TRASH_PREFIX)) == 0 &&
		    unlinkat(d->dir_fd, names_at(&l, i), 0) < 0 && errno != ENOENT)
			r = err_errno(e, errno, "cannot remove a snapshot's remains");
	return r;
}
