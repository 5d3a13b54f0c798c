#pragma once
/* Archives for tests, in memory: entries as a table, written by libarchive as pax tar, which keeps any
 * name as it is. */

#include <archive.h>
#include <archive_entry.h>
#include <criterion/criterion.h>
#include <locale.h>
#include <string.h>

#include "emulator/base/fd.h"

/* A table says only what matters in a row; the rest is zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

enum kind { END, FILE_, DIR_, LINK_, HARD_, FIFO_, DEV_ };

struct ent {
	enum kind kind;
	const char *path;
	const char *data; /* contents, or target */
	mode_t mode;	  /* 0: 0644 or 0755 */
	int64_t uid, gid;
	time_t mtime;
	int64_t size; /* not 0: a sparse file of that size */
	const char *xattr, *xvalue;
	size_t xsize;
};

enum packing { PLAIN, GZIP, ZSTD, XZ };

struct bytes {
	char *p;
	size_t n;
};

static inline void bytes_free(struct bytes *b)
{
	free(b->p);
}
#define _cleanup_bytes_ _cleanup_(bytes_free)

static inline void add_entry(struct archive *a, const struct ent *t)
{
	static const mode_t types[] = { [FILE_] = AE_IFREG, [DIR_] = AE_IFDIR,	[LINK_] = AE_IFLNK,
					[HARD_] = AE_IFREG, [FIFO_] = AE_IFIFO, [DEV_] = AE_IFCHR };
	struct archive_entry *e = archive_entry_new();
	size_t n = t->kind == FILE_ && t->data ? strlen(t->data) : 0;

	archive_entry_set_pathname(e, t->path);
	archive_entry_set_filetype(e, types[t->kind]);
	archive_entry_set_perm(e, t->mode ? t->mode : t->kind == DIR_ ? 0755 : 0644);
	archive_entry_set_uid(e, t->uid);
	archive_entry_set_gid(e, t->gid);
	archive_entry_set_mtime(e, t->mtime, t->mtime ? 123456789 : 0);
	archive_entry_set_size(e, t->size ? t->size : (int64_t)n);
	if (t->size && n)
		archive_entry_sparse_add_entry(e, t->size - (int64_t)n, (int64_t)n);
	if (t->kind == LINK_)
		archive_entry_set_symlink(e, t->data);
	if (t->kind == HARD_)
		archive_entry_set_hardlink(e, t->data);
	if (t->kind == DEV_)
		archive_entry_set_rdev(e, 0x103);
	if (t->xattr)
		archive_entry_xattr_add_entry(e, t->xattr, t->xvalue, t->xsize);
	cr_assert_eq(archive_write_header(a, e), ARCHIVE_OK, "%s: %s", t->path, archive_error_string(a));
	if (t->size) {
		char *whole = calloc(1, (size_t)t->size);

		/* The writer leaves out what is not listed above. */
		cr_assert_not_null(whole);
		memcpy(whole + t->size - n, t->data, n);
		cr_assert_eq(archive_write_data(a, whole, (size_t)t->size), (la_ssize_t)t->size);
		free(whole);
	} else if (n) {
		cr_assert_eq(archive_write_data(a, t->data, n), (la_ssize_t)n);
	}
	archive_entry_free(e);
}

static inline struct bytes make_archive(const struct ent *t, enum packing packing)
{
	/* Names in pax headers are UTF-8; the writer asks the locale. */
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0), before = uselocale(utf8);
	struct bytes b = { .p = malloc(8u << 20) };
	struct archive *a = archive_write_new();

	cr_assert_not_null(b.p);
	cr_assert_eq(archive_write_set_format_pax(a), ARCHIVE_OK);
	if (packing == GZIP)
		cr_assert_eq(archive_write_add_filter_gzip(a), ARCHIVE_OK);
	if (packing == ZSTD)
		cr_assert_eq(archive_write_add_filter_zstd(a), ARCHIVE_OK);
	if (packing == XZ)
		cr_assert_eq(archive_write_add_filter_xz(a), ARCHIVE_OK);
	cr_assert_eq(archive_write_open_memory(a, b.p, 8u << 20, &b.n), ARCHIVE_OK);
	for (; t->kind != END; t++)
		add_entry(a, t);
	cr_assert_eq(archive_write_close(a), ARCHIVE_OK, "%s", archive_error_string(a));
	(void)archive_write_free(a);
	(void)uselocale(before);
	freelocale(utf8);
	return b;
}

/* The header of a file that says any size, without its data. */
static inline struct bytes make_header(const char *name, uint64_t size)
{
	struct bytes b = { .p = calloc(1, 512), .n = 512 };
	unsigned int sum = 8 * ' ';

	cr_assert_not_null(b.p);
	(void)snprintf(b.p, 100, "%s", name);
	(void)snprintf(b.p + 100, 8, "0000644");
	(void)snprintf(b.p + 108, 8, "0000000");
	(void)snprintf(b.p + 116, 8, "0000000");
	b.p[124] = (char)0x80; /* base 256: more than 8 GiB */
	for (int i = 0; i < 8; i++)
		b.p[135 - i] = (char)(size >> (8 * i));
	(void)snprintf(b.p + 136, 12, "00000000000");
	b.p[156] = '0';
	memcpy(b.p + 257, "ustar\00000", 8);
	for (int i = 0; i < 512; i++)
		sum += (unsigned char)b.p[i];
	(void)snprintf(b.p + 148, 8, "%06o", sum);
	b.p[155] = ' ';
	return b;
}

/* An fd to read the archive from. */
static inline int archive_fd(const struct bytes *b)
{
	int fd = fd_memfile("archive", b->p, b->n);

	cr_assert_geq(fd, 0);
	return fd;
}
