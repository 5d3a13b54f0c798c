#include "rootfs/snapshot_archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "emulator/base/fd.h"
#include "rootfs/json.h"
#include "rootfs/newfile.h"
#include "rootfs/snapshot_tape.h"
#include "rootfs/unpack.h"

#define MANIFEST_NAME "manifest.json"
#define LAYER_NAME "layer.tar.zst"
#define MANIFEST_DEPTH 8
#define COPY_SIZE (256u << 10)

/* ---- export ---- */

/* A manifest is written after its tar and taken away before the next: the same one before and after the tar was
 * opened means that they belong together. */
int snapshot_open(const struct snapshot_dir *d, const char *id, struct snapshot_open *ret, struct err *e)
{
	_cleanup_snapshot_ struct snapshot_open o = SNAPSHOT_OPEN_INIT;
	char tar[SNAPSHOT_NAME_SIZE], manifest[SNAPSHOT_NAME_SIZE];
	struct snapshot_info after;
	int r = snapshot_id_valid(id) ? snapshot_load(d, id, &o.info, e) : -ENOENT;

	if (r == -ENOENT)
		return err_set(e, ERR_NOT_FOUND, ENOENT, NULL, "there is no snapshot %.40s", id);
	if (r < 0)
		return r;
	snapshot_names(id, tar, manifest);
	o.tar_fd = openat(d->dir_fd, tar, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (o.tar_fd < 0 && errno != ENOENT)
		return err_errno(e, errno, "the snapshot of %s", id);
	r = o.tar_fd < 0 ? -ENOENT : snapshot_manifest(d, id, &o.manifest, e);
	if (r == 0 && (!snapshot_read_info(o.manifest, &after) || !snapshot_same_pause(&o.info, &after)))
		r = -ENOENT;
	if (r == -ENOENT)
		return err_set(e, ERR_BUSY, EBUSY, NULL, "the snapshot of %s is being taken or used up now", id);
	if (r < 0)
		return r;
	ret->info = o.info;
	ret->manifest = TAKE_PTR(o.manifest);
	ret->tar_fd = TAKE_FD(o.tar_fd);
	return 0;
}

void snapshot_open_close(struct snapshot_open *o)
{
	json_object_put(o->manifest);
	o->manifest = NULL;
	closep(&o->tar_fd);
}

int snapshot_export(const struct snapshot_open *o, int out_fd, struct err *e)
{
	const char *text =
		json_object_to_json_string_ext(o->manifest, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
	int64_t when = o->info.paused_ms / 1000;
	struct tape t;
	int r;

	if (!text)
		return err_errno(e, ENOMEM, "export");
	r = tape_open(&t, out_fd, e);
	if (r == 0)
		r = tape_text(&t, MANIFEST_NAME, text, strlen(text), when, e);
	if (r == 0)
		r = tape_file(&t, LAYER_NAME, o->tar_fd, o->info.size_bytes, when, e);
	return tape_close(&t, r, e);
}

/* ---- import ---- */

struct importer {
	const struct snapshot_import *s;
	struct archive *a;
	struct json_object *manifest;
	struct snapshot_info info;
	struct newfile layer;
	struct err *e;
};

static int refuse(struct importer *m, const char *why)
{
	return err_set(m->e, ERR_INVALID, EINVAL, "archive_invalid", "this is no snapshot, or a damaged one: %s", why);
}

static int reader_error(struct importer *m)
{
	const char *why = archive_error_string(m->a);
	char text[160];
	size_t i = 0;

	for (; why && why[i] && i < sizeof(text) - 1; i++)
		text[i] = why[i] >= 0x20 && why[i] < 0x7f ? why[i] : '?';
	text[i] = '\0';
	return refuse(m, i ? text : "it can't be read");
}

/* The next entry, which must be a plain file of this name; *ret_size: what it says of itself. */
static int next_entry(struct importer *m, const char *name, uint64_t max, uint64_t *ret_size)
{
	struct archive_entry *en;
	int r = archive_read_next_header(m->a, &en);
	const char *is = r < ARCHIVE_WARN || r == ARCHIVE_EOF ? NULL : archive_entry_pathname(en);
	char why[128];

	if (r == ARCHIVE_EOF) {
		(void)snprintf(why, sizeof(why), "%s is missing", name);
		return refuse(m, why);
	}
	if (r < ARCHIVE_WARN)
		return reader_error(m);
	(void)snprintf(why, sizeof(why),
		       "its entries are " MANIFEST_NAME " and " LAYER_NAME ", in this order, and "
		       "plain files");
	if (!is || strcmp(is, name) != 0 || archive_entry_filetype(en) != AE_IFREG || archive_entry_hardlink(en) ||
	    archive_entry_size(en) < 0 || archive_entry_sparse_count(en) > 0)
		return refuse(m, why);
	*ret_size = (uint64_t)archive_entry_size(en);
	if (*ret_size <= max)
		return 0;
	return err_set(m->e, ERR_TOO_LARGE, EFBIG, "archive_too_large",
		       "the archive is refused: its %s has %llu bytes, more than %llu", name,
		       (unsigned long long)*ret_size, (unsigned long long)max);
}

static int read_manifest(struct importer *m)
{
	_cleanup_free_ char *text = NULL;
	uint64_t size = 0;
	size_t got = 0;
	int r = next_entry(m, MANIFEST_NAME, SNAPSHOT_MANIFEST_MAX, &size);

	if (r < 0)
		return r;
	text = malloc(size + 1);
	if (!text)
		return err_errno(m->e, ENOMEM, "import");
	while (got < size) {
		la_ssize_t n = archive_read_data(m->a, text + got, size - got);

		if (n < 0)
			return reader_error(m);
		if (n == 0)
			return refuse(m, "it ends in the middle of " MANIFEST_NAME);
		got += (size_t)n;
	}
	text[size] = '\0';
	if (json_parse(text, size, MANIFEST_DEPTH, &m->manifest, NULL) < 0 ||
	    !json_object_is_type(m->manifest, json_type_object))
		return refuse(m, MANIFEST_NAME " is no JSON object");
	if (!snapshot_read_info(m->manifest, &m->info))
		return refuse(m, MANIFEST_NAME " makes no sense, or is of another version");
	return 0;
}

static int room(struct importer *m, int fd, uint64_t bytes, const char *what)
{
	struct statvfs v;
	uint64_t left;

	if (fstatvfs(fd, &v) < 0)
		return err_errno(m->e, errno, "import");
	left = (uint64_t)v.f_bavail * v.f_frsize;
	if (bytes <= left)
		return 0;
	return err_set(m->e, ERR_FULL, ENOSPC, NULL, "%s needs %llu MB, and %llu MB are free", what,
		       (unsigned long long)(bytes >> 20), (unsigned long long)(left >> 20));
}

/* What the manifest claims is the most that will be believed. */
static int check_claims(struct importer *m)
{
	const struct snapshot_info *i = &m->info;
	int r;

	if (i->tar_bytes > SNAPSHOT_IMPORT_MAX || i->file_bytes > SNAPSHOT_IMPORT_MAX * 16 ||
	    i->entries > UNPACK_LIMITS_DEFAULT.max_entries || i->size_bytes > SNAPSHOT_IMPORT_MAX)
		return err_set(
			m->e, ERR_TOO_LARGE, EFBIG, "archive_too_large",
			"the archive is refused: it claims to hold %llu MB in %llu entries, more than %llu MB or %llu",
			(unsigned long long)(i->tar_bytes >> 20), (unsigned long long)i->entries,
			SNAPSHOT_IMPORT_MAX >> 20, (unsigned long long)UNPACK_LIMITS_DEFAULT.max_entries);
	r = m->s->check(m->s->arg, m->manifest, i, m->e);
	if (r == 0)
		r = room(m, m->s->d->dir_fd, i->size_bytes, "its layer");
	return r < 0 ? r : room(m, m->s->env->state_fd, i->tar_bytes, "what it holds");
}

static int copy_layer(struct importer *m)
{
	_cleanup_free_ char *block = malloc(COPY_SIZE);
	uint64_t size = 0, got = 0;
	int r = next_entry(m, LAYER_NAME, m->info.size_bytes, &size);

	if (!block)
		return err_errno(m->e, ENOMEM, "import");
	if (r < 0)
		return r;
	if (size != m->info.size_bytes)
		return refuse(m, LAYER_NAME " has another size than the manifest says");
	r = newfile_open(&m->layer, m->s->d->dir_fd);
	while (r == 0 && got < size) {
		la_ssize_t n = archive_read_data(m->a, block, COPY_SIZE);

		if (n < 0)
			return reader_error(m);
		if (n == 0)
			return refuse(m, "it ends in the middle of " LAYER_NAME);
		r = fd_write_all(m->layer.fd, block, (size_t)n);
		got += (uint64_t)n;
	}
	if (r == 0 && fsync(m->layer.fd) < 0)
		r = -errno;
	return r < 0 ? err_errno(m->e, -r, "cannot write the snapshot") : 0;
}

static int expect_end(struct importer *m)
{
	struct archive_entry *en;
	int r = archive_read_next_header(m->a, &en);

	if (r == ARCHIVE_EOF)
		return 0;
	return r < ARCHIVE_WARN ? reader_error(m) : refuse(m, "there is more in it than a manifest and a layer");
}

/* Would a resume work? Only doing it tells: names, links, devices, sizes and the digest are checked on the way. */
static int try_unpack(struct importer *m)
{
	_cleanup_close_ int lock = layer_lock(m->s->env->state_fd, m->e);
	_cleanup_layer_ struct layer_new scratch = LAYER_NEW_INIT;
	struct unpack_spec us = { .read = unpack_read_fd,
				  .read_arg = &m->layer.fd,
				  .sandbox_uid = m->s->env->sandbox_uid,
				  .single_id = m->s->env->single_id,
				  .whiteouts = true,
				  .root_too = true,
				  .strict = true };
	struct unpack_result res;
	int r = lock < 0 ? lock : layer_begin(m->s->env, &scratch, m->e);

	if (r < 0)
		return r;
	if (lseek(m->layer.fd, 0, SEEK_SET) < 0)
		return err_errno(m->e, errno, "import");
	us.root_fd = scratch.root_fd;
	us.limits = (struct unpack_limits){ .max_bytes = MAX(m->info.tar_bytes, m->info.file_bytes),
					    .max_stream = m->info.tar_bytes,
					    .max_entries = m->info.entries };
	r = unpack_archive(&us, &res, m->e);
	if (r < 0)
		return r;
	if (res.bytes != m->info.tar_bytes || strcmp(res.digest, m->info.tar_digest) != 0)
		return err_set(
			m->e, ERR_INVALID, EBADMSG, "snapshot_damaged",
			"the layer is not the one of the manifest: its digest is sha256:%s, and sha256:%s is said",
			res.digest, m->info.tar_digest);
	return 0;
}

static int publish(struct importer *m)
{
	_cleanup_close_ int lock = snapshot_dir_lock(m->s->d, m->e);
	char tar[SNAPSHOT_NAME_SIZE], name[SNAPSHOT_NAME_SIZE];
	int r;

	if (lock < 0)
		return lock;
	if (!json_put(m->manifest, "sandbox", json_object_new_string(m->s->id)))
		return err_errno(m->e, ENOMEM, "import");
	snapshot_names(m->s->id, tar, name);
	r = newfile_publish(&m->layer, tar, false);
	if (r < 0)
		return err_errno(m->e, -r, "cannot name the snapshot");
	r = json_write_file(m->s->d->dir_fd, name, m->manifest, m->e);
	if (r < 0)
		(void)unlinkat(m->s->d->dir_fd, tar, 0);
	return r;
}

int snapshot_import(const struct snapshot_import *s, struct err *e)
{
	struct importer m = { .s = s, .layer = NEWFILE_INIT, .e = e };
	int r = 0;

	if (!snapshot_id_valid(s->id))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "not a snapshot's name");
	m.a = archive_read_new();
	if (!m.a || archive_read_support_format_tar(m.a) != ARCHIVE_OK)
		r = err_errno(e, ENOMEM, "import");
	else if (archive_read_open_fd(m.a, s->in_fd, COPY_SIZE) != ARCHIVE_OK)
		r = reader_error(&m);
	if (r == 0)
		r = read_manifest(&m);
	if (r == 0)
		r = check_claims(&m);
	if (r == 0)
		r = copy_layer(&m);
	if (r == 0)
		r = expect_end(&m);
	if (r == 0)
		r = try_unpack(&m);
	if (r == 0)
		r = publish(&m);
	(void)archive_read_free(m.a);
	newfile_drop(&m.layer);
	json_object_put(m.manifest);
	return r;
}
