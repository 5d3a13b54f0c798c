#include "rootfs/snapshot_tape.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define COPY_SIZE (1u << 20)

static int failed(struct tape *t, struct err *e)
{
	int errnum = archive_errno(t->a);

	return err_errno(e, errnum > 0 ? errnum : EIO, "cannot write the archive");
}

int tape_open(struct tape *t, int out_fd, struct err *e)
{
	t->a = archive_write_new();
	if (!t->a)
		return err_errno(e, ENOMEM, "archive");
	if (archive_write_set_format_pax_restricted(t->a) != ARCHIVE_OK ||
	    archive_write_set_bytes_in_last_block(t->a, 1) != ARCHIVE_OK ||
	    archive_write_open_fd(t->a, out_fd) != ARCHIVE_OK)
		return failed(t, e);
	return 0;
}

static int header(struct tape *t, const char *name, mode_t mode, uint64_t size, int64_t mtime, struct err *e)
{
	struct archive_entry *en = archive_entry_new();
	int r;

	if (!en)
		return err_errno(e, ENOMEM, "archive");
	archive_entry_set_pathname(en, name);
	archive_entry_set_mode(en, mode);
	archive_entry_set_mtime(en, mtime, 0);
	archive_entry_set_size(en, (la_int64_t)size);
	r = archive_write_header(t->a, en) < ARCHIVE_WARN ? failed(t, e) : 0;
	archive_entry_free(en);
	return r;
}

int tape_folder(struct tape *t, const char *name, int64_t mtime, struct err *e)
{
	return header(t, name, S_IFDIR | 0755, 0, mtime, e);
}

int tape_text(struct tape *t, const char *name, const char *text, size_t n, int64_t mtime, struct err *e)
{
	int r = header(t, name, S_IFREG | 0600, n, mtime, e);

	return r == 0 && archive_write_data(t->a, text, n) != (la_ssize_t)n ? failed(t, e) : r;
}

int tape_file(struct tape *t, const char *name, int fd, uint64_t size, int64_t mtime, struct err *e)
{
	_cleanup_free_ char *block = malloc(COPY_SIZE);
	int r = block ? header(t, name, S_IFREG | 0600, size, mtime, e) : err_errno(e, ENOMEM, "archive");

	for (uint64_t at = 0; r == 0 && at < size;) {
		ssize_t n = pread(fd, block, MIN((uint64_t)COPY_SIZE, size - at), (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			r = err_errno(e, n < 0 ? errno : EIO, "cannot read what goes into the archive");
		else if (archive_write_data(t->a, block, (size_t)n) != n)
			r = failed(t, e);
		else
			at += (uint64_t)n;
	}
	return r;
}

int tape_close(struct tape *t, int r, struct err *e)
{
	if (!t->a)
		return r;
	if (r == 0 && archive_write_close(t->a) != ARCHIVE_OK)
		r = failed(t, e);
	if (r < 0)
		(void)archive_write_fail(t->a); /* freeing it must not write on */
	(void)archive_write_free(t->a);
	t->a = NULL;
	return r;
}
