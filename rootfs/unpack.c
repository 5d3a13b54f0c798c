/* Theory of operation. libarchive only decodes; every file is made here, by dirfd. One reader undoes the
 * compression (its "raw" format), so the uncompressed stream passes through our hands: hashed, counted
 * against the byte budget, then read as tar by a second reader.
 *
 * A name is cut into components (a leading "/" and "." are dropped, ".." refuses the archive), the parent
 * is opened with openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV), and the last component
 * is made in it with O_EXCL after what was there is unlinked. So no symlink of the archive is ever
 * walked through, no hardlink leaves the folder, and a second entry of the same name can't write through
 * the first. Device nodes are left out (a sandbox has its own /dev). Overlayfs' own attributes
 * ("user.overlay.*") are never taken from an archive: they could redirect into other layers.
 *
 * A folder may be live: a sandbox works in it while we do, as hostile as the archive. Then nothing is taken
 * away before what replaces it is whole (a file is born nameless, rootfs/newfile.h; other things under a
 * hidden name), mount points stay (replaced from another mount namespace they would be detached), a folder
 * that is there keeps its mode and owner, files are born with the caller's file system ids instead of being
 * given away by name, and whiteouts are names like any other.
 *
 * Owners in a layer: the archive's N becomes sandbox_uid + N; beyond 65534 it becomes nobody. */

#include "rootfs/unpack-internal.h"

#include <errno.h>
#include <locale.h>
#include <string.h>

#include "emulator/base/clock.h"

#define DIR_TIMES_MAX (64u << 20) /* memory for folders' times; beyond it they keep today's */

/* An archive's name in a message: printable and short. */
#define SHOWN_SIZE 97
static const char *shown(const char *path, char ret[static SHOWN_SIZE])
{
	size_t i = 0;

	for (; path && path[i] && i < SHOWN_SIZE - 1; i++)
		ret[i] = path[i] >= 0x20 && path[i] < 0x7f ? path[i] : '?';
	ret[i] = '\0';
	return ret;
}

int unpack_refuse(struct unpacker *u, const char *path, const char *why)
{
	char name[SHOWN_SIZE];

	return err_set(u->e, ERR_INVALID, EINVAL, "archive_invalid", "the archive is refused: %s: %s",
		       shown(path, name), why);
}

int unpack_entry_errno(struct unpacker *u, int errnum, const char *path, const char *what)
{
	char name[SHOWN_SIZE];

	return err_errno(u->e, errnum, "cannot %s %s", what, shown(path, name));
}

int unpack_too_large(struct unpacker *u)
{
	return err_set(u->e, ERR_TOO_LARGE, EFBIG, "archive_too_large",
		       "the archive is refused: it holds more than %llu bytes or %llu entries",
		       (unsigned long long)u->s->limits.max_bytes, (unsigned long long)u->s->limits.max_entries);
}

int unpack_stopped(struct unpacker *u)
{
	return err_set(u->e, ERR_NOT_READY, ECANCELED, NULL, "unpacking was stopped");
}

static void show_progress(struct unpacker *u)
{
	int64_t now = clock_mono_us();

	if (!u->s->progress || now - u->last_progress_us < 1000000)
		return;
	u->last_progress_us = now;
	u->s->progress(u->s->progress_arg, u->res->bytes, u->res->entries);
}

/* ---- the two readers ---- */

ssize_t unpack_read_fd(void *arg, void *p, size_t n)
{
	ssize_t k;

	do
		k = read(*(int *)arg, p, n);
	while (k < 0 && errno == EINTR);
	return k < 0 ? -errno : k;
}

static la_ssize_t outer_read(struct archive *a, void *arg, const void **ret)
{
	struct unpacker *u = arg;
	ssize_t n = u->s->read(u->s->read_arg, u->in, sizeof(u->in));

	*ret = u->in;
	if (n < 0) {
		u->read_error = (int)n;
		archive_set_error(a, (int)-n, "read error");
		return -1;
	}
	return (la_ssize_t)n;
}

/* The next piece of the uncompressed stream. */
static la_ssize_t inner_read(struct archive *a, void *arg, const void **ret)
{
	struct unpacker *u = arg;
	la_int64_t offset;
	size_t n = 0;
	int r;

	if (unpack_must_stop(u)) {
		archive_set_error(a, ECANCELED, "stopped");
		return -1;
	}
	do
		r = archive_read_data_block(u->outer, ret, &n, &offset);
	while (r == ARCHIVE_OK && n == 0);
	if (r == ARCHIVE_EOF)
		return 0;
	if (r != ARCHIVE_OK) {
		archive_set_error(a, EIO, "%s",
				  archive_error_string(u->outer) ? archive_error_string(u->outer) : "read error");
		return -1;
	}
	u->res->bytes += n;
	if (u->res->bytes > u->s->limits.max_bytes ||
	    (u->s->limits.max_stream && u->res->bytes > u->s->limits.max_stream)) {
		u->over_budget = true;
		archive_set_error(a, EFBIG, "too large");
		return -1;
	}
	if (!u->s->live && !u->s->no_digest)
		sha256_update(&u->sha, n, *ret);
	show_progress(u);
	return (la_ssize_t)n;
}

int unpack_reader_error(struct unpacker *u, struct archive *a)
{
	const char *why = archive_error_string(a);
	char text[SHOWN_SIZE];

	if (unpack_must_stop(u))
		return unpack_stopped(u);
	if (u->over_budget)
		return unpack_too_large(u);
	if (u->read_error)
		return err_errno(u->e, -u->read_error, "cannot read the archive");
	return err_set(u->e, ERR_INVALID, EINVAL, "archive_invalid", "the archive is damaged or no tar: %s",
		       shown(why ? why : "unknown format", text));
}

static int open_readers(struct unpacker *u)
{
	struct archive_entry *entry;
	int r;

	u->outer = archive_read_new();
	u->tar = archive_read_new();
	if (!u->outer || !u->tar)
		return err_set(u->e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	/* Filters that libarchive runs as programs (lrzip, grzip) stay off. */
	if (archive_read_support_filter_gzip(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_zstd(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_xz(u->outer) != ARCHIVE_OK ||
	    archive_read_support_filter_bzip2(u->outer) != ARCHIVE_OK ||
	    archive_read_support_format_raw(u->outer) != ARCHIVE_OK ||
	    archive_read_support_format_tar(u->tar) != ARCHIVE_OK)
		return err_set(u->e, ERR_UNAVAILABLE, ENOSYS, NULL, "libarchive lacks a filter it should have");
	if (archive_read_open(u->outer, u, NULL, outer_read, NULL) != ARCHIVE_OK)
		return unpack_reader_error(u, u->outer);
	r = archive_read_next_header(u->outer, &entry);
	if (r == ARCHIVE_EOF)
		return err_set(u->e, ERR_INVALID, EINVAL, "archive_invalid", "the archive is empty");
	if (r != ARCHIVE_OK)
		return unpack_reader_error(u, u->outer);
	if (archive_read_open(u->tar, u, NULL, inner_read, NULL) != ARCHIVE_OK)
		return unpack_reader_error(u, u->tar);
	return 0;
}

static int unpack_all(struct unpacker *u)
{
	for (;;) {
		struct archive_entry *entry;
		int r = archive_read_next_header(u->tar, &entry);

		if (r == ARCHIVE_EOF)
			break;
		if (r < ARCHIVE_WARN)
			return unpack_reader_error(u, u->tar);
		if (++u->res->entries > u->s->limits.max_entries)
			return unpack_too_large(u);
		show_progress(u);
		if (unpack_must_stop(u))
			return unpack_stopped(u);
		r = unpack_entry(u, entry);
		if (r < 0)
			return r;
	}
	/* The digest is of the whole stream, padding after the end mark included. */
	for (;;) {
		const void *p;
		la_ssize_t n = inner_read(u->tar, u, &p);

		if (n < 0)
			return unpack_reader_error(u, u->tar);
		if (n == 0)
			return 0;
	}
}

static int unpack_prepared(struct unpacker *u)
{
	unsigned char d[SHA256_DIGEST_SIZE];
	int r = open_readers(u);

	if (r == 0)
		r = unpack_all(u);
	if (r < 0)
		return r;
	unpack_set_dir_times(u);
	if (u->s->live)
		return 0;
	sha256_digest(&u->sha, sizeof(d), d);
	for (size_t i = 0; i < sizeof(d); i++)
		(void)snprintf(u->res->digest + 2 * i, 3, "%02x", d[i]);
	return 0;
}

int unpack_archive(const struct unpack_spec *s, struct unpack_result *ret, struct err *e)
{
	/* Without a UTF-8 locale libarchive can't decode the names in pax headers; thread-local, restored. */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = (locale_t)0;
	_cleanup_free_ struct unpacker *u = calloc(1, sizeof(*u));
	_cleanup_close_ int prefix_fd = -1;
	int r;

	if (!u) {
		if (utf8)
			freelocale(utf8);
		return err_set(e, ERR_CAPACITY, ENOMEM, NULL, "out of memory");
	}
	*ret = (struct unpack_result){ .bytes = 0 };
	u->s = s;
	u->res = ret;
	u->e = e;
	u->base_fd = s->root_fd;
	u->parent_fd = -1;
	u->dir_times = BUF_INIT(DIR_TIMES_MAX);
	u->last_progress_us = clock_mono_us();
	sha256_init(&u->sha);
	if (utf8)
		before = uselocale(utf8);
	r = 0;
	if (s->prefix) {
		prefix_fd = unpack_make_parents(u, s->prefix);
		u->base_fd = prefix_fd;
		if (prefix_fd < 0)
			r = err_errno(e, -prefix_fd, "cannot make %s in the layer", s->prefix);
	}
	if (r == 0)
		r = unpack_prepared(u);
	archive_read_free(u->tar);
	archive_read_free(u->outer);
	closep(&u->parent_fd);
	buf_free(&u->dir_times);
	if (utf8) {
		(void)uselocale(before);
		freelocale(utf8);
	}
	return r;
}
