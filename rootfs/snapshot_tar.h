#pragma once
/* A sandbox's upper folder as one OCI layer: a pax tar compressed with zstd. See snapshot_tar.c for what
 * becomes of each kind of file. Blocking: for a worker. The folder must not change meanwhile (its sandbox
 * is frozen); it is hostile all the same. */

#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"

struct snapshot_tar_spec {
	int upper_fd;	   /* the folder; stays the caller's */
	int out_fd;	   /* where the compressed tar goes */
	uid_t sandbox_uid; /* taken from every owner: in the tar they are the sandbox's own ids */
	bool single_id;
	bool plain;			/* not compressed */
	const volatile bool *cancelled; /* looked at now and then: true ends it with -ECANCELED. Or NULL */
};

struct snapshot_tar_result {
	char digest[TEXT_SHA256_SIZE]; /* of the uncompressed tar (OCI: the layer's diff id) */
	uint64_t tar_bytes;	       /* uncompressed */
	uint64_t size_bytes;	       /* as written */
	uint64_t file_bytes;	       /* of the files' sizes, holes included */
	uint64_t entries;
	uint64_t sockets_skipped; /* a tar can't hold them, and without its process a socket is of no use */
};

/* ERR_UNSUPPORTED "snapshot_unsupported" for what no layer can hold (the message names it), ERR_FULL, ERR_IO. */
int snapshot_tar_write(const struct snapshot_tar_spec *s, struct snapshot_tar_result *ret, struct err *e);
