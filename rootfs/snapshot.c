#include "rootfs/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "emulator/base/clock.h"
#include "emulator/base/fd.h"
#include "emulator/base/sys.h"
#include "rootfs/json.h"
#include "rootfs/snapshot_inflate.h"
#include "rootfs/snapshot_tar.h"
#include "rootfs/unpack.h"

#define LOST_NAME "lost.json"

static int bad_id(struct err *e)
{
	return err_set(e, ERR_INVALID, EINVAL, NULL, "not a snapshot's name");
}

static int open_folder(int state_fd, const char *path, struct err *e)
{
	int fd = sys_openat2(state_fd, path, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);

	return fd < 0 ? err_errno(e, -fd, "cannot open %s", path) : fd;
}

static int open_upper(int state_fd, const char *slot, struct err *e)
{
	char path[96];

	if (strchr(slot, '/') || text_format(path, sizeof(path), "disk/s/%s/u", slot) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a slot name");
	return open_folder(state_fd, path, e);
}

/* ---- writing ---- */

/* A file of a snapshot in the making. */
struct part {
	int fd;
	char tmp[JSON_TMP_SIZE];
};

static int write_tar(int dirfd, int upper_fd, const char *name, const struct snapshot_spec *s, struct part *p,
		     struct snapshot_tar_result *res, struct err *e)
{
	struct snapshot_tar_spec ts = { .upper_fd = upper_fd,
					.sandbox_uid = s->sandbox_uid,
					.single_id = s->single_id,
					.cancelled = s->cancelled };

	(void)text_format(p->tmp, sizeof(p->tmp), ".tmp-%s", name);
	(void)unlinkat(dirfd, p->tmp, 0);
	p->fd = openat(dirfd, p->tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (p->fd < 0)
		return err_errno(e, errno, "cannot make the snapshot");
	ts.out_fd = p->fd;
	return snapshot_tar_write(&ts, res, e);
}

/* One wait for the disk, not two in a row: both are on their way before the first is waited for, and a journal
 * that commits one of them commits the other as well. The manifest's name comes last. */
static int publish(int dirfd, const struct part *tar, const char *tar_name, const struct part *manifest,
		   const char *manifest_name, struct err *e)
{
	(void)sync_file_range(manifest->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	if (fsync(tar->fd) < 0 || fsync(manifest->fd) < 0)
		return err_errno(e, errno, "cannot write the snapshot");
	if (renameat(dirfd, tar->tmp, dirfd, tar_name) < 0 || renameat(dirfd, manifest->tmp, dirfd, manifest_name) < 0)
		return err_errno(e, errno, "cannot name the snapshot");
	return fsync(dirfd) < 0 ? err_errno(e, errno, "cannot write the snapshot") : 0;
}

static struct json_object *number(uint64_t n)
{
	return json_object_new_uint64(n);
}

/* What a resume without the processes' memory can't bring back. */
static struct json_object *lost_list(const struct snapshot_tar_result *res)
{
	struct json_object *a = json_object_new_array();
	static const char *const always[] = { "processes and their memory", "network connections",
					      "open files that were deleted", "/dev/shm and other tmpfs" };

	for (size_t i = 0; a && i < ARRAY_SIZE(always); i++)
		(void)json_object_array_add(a, json_object_new_string(always[i]));
	if (a && res->sockets_skipped > 0)
		(void)json_object_array_add(a, json_object_new_string("sockets in the file system"));
	return a;
}

static int write_manifest(int dirfd, const char *name, const struct snapshot_spec *s,
			  const struct snapshot_tar_result *res, struct part *p, struct err *e)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	char iso[CLOCK_ISO_SIZE];

	clock_iso(s->paused_ms, iso);
	if (!o || !json_put(o, "version", json_object_new_int(SNAPSHOT_VERSION)) ||
	    !json_put(o, "sandbox", json_object_new_string(s->id)) ||
	    !json_put(o, "paused_at", json_object_new_string(iso)) ||
	    !json_put(o, "paused_ms", number((uint64_t)s->paused_ms)) ||
	    !json_put(o, "template", json_object_new_string(s->template_name)) ||
	    !json_put(o, "template_digest", json_object_new_string(s->template_digest)) ||
	    !json_put(o, "tar_sha256", json_object_new_string(res->digest)) ||
	    !json_put(o, "tar_bytes", number(res->tar_bytes)) || !json_put(o, "size_bytes", number(res->size_bytes)) ||
	    !json_put(o, "file_bytes", number(res->file_bytes)) || !json_put(o, "entries", number(res->entries)) ||
	    !json_put(o, "processes", json_object_get(s->processes)) ||
	    !json_put(o, "listening", json_object_get(s->ports)) ||
	    !json_put(o, "lost_on_cold_resume", lost_list(res)) ||
	    (s->row && !json_put(o, "row", json_object_get(s->row))))
		return err_errno(e, ENOMEM, "snapshot");
	return json_write_temp(dirfd, name, o, p->tmp, &p->fd, e);
}

static void fill_info(const struct snapshot_spec *s, const struct snapshot_tar_result *res, struct snapshot_info *ret)
{
	*ret = (struct snapshot_info){ .tar_bytes = res->tar_bytes,
				       .size_bytes = res->size_bytes,
				       .file_bytes = res->file_bytes,
				       .entries = res->entries,
				       .paused_ms = s->paused_ms };
	(void)snprintf(ret->id, sizeof(ret->id), "%s", s->id);
	(void)snprintf(ret->template_name, sizeof(ret->template_name), "%s", s->template_name);
	(void)snprintf(ret->template_digest, sizeof(ret->template_digest), "%s", s->template_digest);
	(void)snprintf(ret->tar_digest, sizeof(ret->tar_digest), "%s", res->digest);
}

int snapshot_write(const struct snapshot_dir *d, const struct snapshot_spec *s, struct snapshot_info *ret,
		   struct err *e)
{
	_cleanup_close_ int upper_fd = -1;
	struct part layer = { .fd = -1 }, about = { .fd = -1 };
	struct snapshot_tar_result res;
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];
	int r;

	if (!snapshot_id_valid(s->id))
		return bad_id(e);
	snapshot_names(s->id, tar, manifest);
	upper_fd = open_upper(d->state_fd, s->slot, e);
	if (upper_fd < 0)
		return upper_fd;
	/* From here on an earlier one of that name is none. */
	if (unlinkat(d->dir_fd, manifest, 0) < 0 && errno != ENOENT)
		return err_errno(e, errno, "cannot replace the snapshot");
	r = write_tar(d->dir_fd, upper_fd, tar, s, &layer, &res, e);
	if (r == 0)
		r = write_manifest(d->dir_fd, manifest, s, &res, &about, e);
	if (r == 0)
		r = publish(d->dir_fd, &layer, tar, &about, manifest, e);
	closep(&layer.fd);
	closep(&about.fd);
	if (r < 0) {
		const char *const made[] = { manifest, tar, about.tmp, layer.tmp };

		for (size_t i = 0; i < ARRAY_SIZE(made); i++)
			if (*made[i])
				(void)unlinkat(d->dir_fd, made[i], 0);
		return r;
	}
	fill_info(s, &res, ret);
	return 0;
}

/* ---- reading ---- */

static int damaged(const char *id, const char *why, struct err *e)
{
	return err_set(e, ERR_UNAVAILABLE, EBADMSG, "snapshot_damaged", "the snapshot of %s is damaged: %s", id, why);
}

int snapshot_manifest(const struct snapshot_dir *d, const char *id, struct json_object **ret, struct err *e)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE], claim[SNAPSHOT_NAME_SIZE];
	int r;

	if (!snapshot_id_valid(id))
		return bad_id(e);
	snapshot_names(id, tar, manifest);
	snapshot_claim_name(d, id, claim);
	if (faccessat(d->dir_fd, manifest, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		r = json_read_file(d->dir_fd, manifest, SNAPSHOT_MANIFEST_MAX, ret, e);
		if (r != -ENOENT)
			return r;
	}
	return json_read_file(d->dir_fd, claim, SNAPSHOT_MANIFEST_MAX, ret, e);
}

bool snapshot_read_info(struct json_object *o, struct snapshot_info *i)
{
	uint64_t paused = 0, version = 0;

	*i = (struct snapshot_info){ .paused_ms = 0 };
	if (json_get_u64(o, "version", &version) < 0 || version != SNAPSHOT_VERSION ||
	    json_get_string(o, "sandbox", i->id, sizeof(i->id)) < 0 ||
	    json_get_string(o, "template", i->template_name, sizeof(i->template_name)) < 0 ||
	    json_get_string(o, "template_digest", i->template_digest, sizeof(i->template_digest)) < 0 ||
	    json_get_string(o, "tar_sha256", i->tar_digest, sizeof(i->tar_digest)) < 0 ||
	    json_get_u64(o, "tar_bytes", &i->tar_bytes) < 0 || json_get_u64(o, "size_bytes", &i->size_bytes) < 0 ||
	    json_get_u64(o, "file_bytes", &i->file_bytes) < 0 || json_get_u64(o, "entries", &i->entries) < 0 ||
	    json_get_u64(o, "paused_ms", &paused) < 0 || paused > INT64_MAX)
		return false;
	i->paused_ms = (int64_t)paused;
	return snapshot_id_valid(i->id) && strlen(i->tar_digest) == TEXT_SHA256_SIZE - 1 &&
	       strspn(i->tar_digest, "0123456789abcdef") == TEXT_SHA256_SIZE - 1;
}

bool snapshot_same_pause(const struct snapshot_info *a, const struct snapshot_info *b)
{
	return a->paused_ms == b->paused_ms && strcmp(a->tar_digest, b->tar_digest) == 0;
}

static int load_manifest(const struct snapshot_dir *d, const char *id, struct snapshot_info *ret, struct err *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	int r = snapshot_manifest(d, id, &o, e);

	if (r == -ENOENT)
		return r;
	if (r < 0)
		return damaged(id, "its manifest can't be read", e);
	if (!snapshot_read_info(o, ret) || strcmp(ret->id, id) != 0)
		return damaged(id, "its manifest makes no sense, or is of another version", e);
	return 0;
}

/* NULL, or what is wrong with its tar. */
static const char *fault_of_tar(const struct snapshot_dir *d, const struct snapshot_info *i)
{
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];
	struct stat st;

	snapshot_names(i->id, tar, manifest);
	if (fstatat(d->dir_fd, tar, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return "its tar is not there";
	return S_ISREG(st.st_mode) && (uint64_t)st.st_size == i->size_bytes ? NULL : "its tar has another size";
}

int snapshot_load(const struct snapshot_dir *d, const char *id, struct snapshot_info *ret, struct err *e)
{
	struct snapshot_info i, before = { 0 };
	const char *fault;

	/* A resume takes the manifest away and then the tar: only a manifest that stays tells of a damaged one. */
	for (;;) {
		int r = load_manifest(d, id, &i, e);

		if (r < 0)
			return r;
		fault = fault_of_tar(d, &i);
		if (!fault)
			break;
		if (snapshot_same_pause(&i, &before))
			return damaged(id, fault, e);
		before = i;
	}
	*ret = i;
	return 0;
}

/* For GET /_emulator/sandboxes/{id}: it goes with the slot. */
static int write_lost(const struct snapshot_dir *d, const char *id, const char *slot, struct err *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	_cleanup_close_ int fd = -1;
	char path[96];
	int r = snapshot_manifest(d, id, &o, e);

	if (r < 0)
		return r;
	json_object_object_del(o, "row");
	(void)text_format(path, sizeof(path), "disk/s/%s", slot);
	fd = open_folder(d->state_fd, path, e);
	return fd < 0 ? fd : json_write_file(fd, LOST_NAME, o, e);
}

int snapshot_lost(int state_fd, const char *slot, struct json_object **ret, struct err *e)
{
	char path[128];

	if (!*slot || strchr(slot, '/') || text_format(path, sizeof(path), "disk/s/%s/" LOST_NAME, slot) < 0)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "not a slot name");
	return json_read_file(state_fd, path, SNAPSHOT_MANIFEST_MAX, ret, e);
}

int snapshot_unpack(const struct snapshot_dir *d, const struct snapshot_info *i, const char *slot, uid_t sandbox_uid,
		    bool single_id, const volatile bool *cancelled, struct err *e)
{
	_cleanup_close_ int upper_fd = -1, fd = -1;
	_cleanup_inflater_ struct inflater inflater = INFLATER_INIT;
	struct snapshot_inflated got = { .r = -EIO };
	struct unpack_spec us = { .read = unpack_read_fd,
				  .read_arg = &inflater.fd,
				  .no_digest = true,
				  .sandbox_uid = sandbox_uid,
				  .single_id = single_id,
				  .whiteouts = true,
				  .root_too = true,
				  .strict = true,
				  .stop = cancelled };
	struct unpack_result res;
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];
	int r;

	if (!snapshot_id_valid(i->id))
		return bad_id(e);
	snapshot_names(i->id, tar, manifest);
	fd = openat(d->dir_fd, tar, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return damaged(i->id, "its tar can't be opened", e);
	upper_fd = open_upper(d->state_fd, slot, e);
	if (upper_fd < 0)
		return upper_fd;
	us.root_fd = upper_fd;
	/* The manifest's own numbers: what claims more is something else. */
	us.limits = (struct unpack_limits){ .max_bytes = MAX(i->tar_bytes, i->file_bytes),
					    .max_stream = i->tar_bytes,
					    .max_entries = i->entries };
	r = inflater_start(&inflater, fd, i->tar_bytes, e);
	if (r < 0)
		return r;
	r = unpack_archive(&us, &res, e);
	inflater_end(&inflater, &got);
	if (r < 0 && e && (e->kind == ERR_INVALID || e->kind == ERR_TOO_LARGE))
		return damaged(i->id, "its tar is no tar, or not the one it was", e);
	if (r < 0)
		return r;
	if (got.r < 0 || got.bytes != i->tar_bytes || strcmp(got.digest, i->tar_digest) != 0)
		return damaged(i->id, "its content is not what was written", e);
	return write_lost(d, i->id, slot, e);
}
