#pragma once
/* A hostile tar archive into a folder that becomes a layer, or into one a sandbox works in (live); never a
 * byte outside it. See unpack.c. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"

struct unpack_limits {
	uint64_t max_bytes;  /* of the uncompressed stream, and of the files' sizes */
	uint64_t max_stream; /* of the uncompressed stream, if that is less: files may have holes. 0: max_bytes */
	uint64_t max_entries;
};
#define UNPACK_LIMITS_DEFAULT ((struct unpack_limits){ .max_bytes = 64ull << 30, .max_entries = 5000000 })

struct unpack_spec {
	/* The archive (tar; plain, gzip, zstd, xz or bzip2): as read(2), 0 at the end, or a negative errno. */
	ssize_t (*read)(void *arg, void *p, size_t n);
	void *read_arg;
	int root_fd;	    /* where to; stays the caller's */
	uid_t sandbox_uid;  /* added to every owner in the archive */
	bool single_id;	    /* no chown at all */
	bool whiteouts;	    /* there are layers below: .wh. entries mean something */
	bool root_too;	    /* the root folder's own mode, owner, attributes and time are the archive's */
	bool as_root;	    /* everything is owned by the sandbox's root, whatever the archive says */
	bool strict;	    /* absolute names and devices refuse the archive */
	bool no_digest;	    /* the caller has it from elsewhere */
	const char *strip;  /* a first path component that goes ("package"); other entries are skipped. Or NULL */
	const char *prefix; /* a folder in root_fd everything goes under, made where missing. Or NULL */
	/* The folder is one a sandbox is working in: see unpack.c. Absolute names are refused, owners are the
	 * caller's file system ids (setfsuid(2)), no digest is made; single_id, whiteouts, as_root mean nothing. */
	bool live;
	const volatile bool *stop; /* once true, it ends with ERR_NOT_READY (ECANCELED). Or NULL */
	struct unpack_limits limits;
	void (*progress)(void *arg, uint64_t bytes, uint64_t entries); /* about once a second, or NULL */
	void *progress_arg;
};

struct unpack_result {
	char digest[TEXT_SHA256_SIZE]; /* of the uncompressed stream */
	uint64_t bytes;		       /* of the uncompressed stream */
	uint64_t entries;
	uint64_t made;	     /* of these, what is now there: all but what was skipped, and the one that failed */
	uint64_t file_bytes; /* of the files' sizes */
	uint64_t devices_skipped;
	uint64_t xattrs_dropped; /* entries that lost an extended attribute */
	uint64_t owners_clamped;
};

/* ERR_INVALID "archive_invalid" (damaged, hostile; says which entry), ERR_TOO_LARGE, ERR_FULL, ERR_IO. What was
 * written up to then is the caller's to throw away, or (live) stays: each file whole, or not there. */
int unpack_archive(const struct unpack_spec *s, struct unpack_result *ret, struct err *e);

/* read for a spec: *(int *)arg is the fd. */
ssize_t unpack_read_fd(void *arg, void *p, size_t n);
