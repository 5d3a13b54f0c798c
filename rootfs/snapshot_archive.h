#pragma once
/* A snapshot as one file that can be carried elsewhere: a tar of two entries,
 *
 *   manifest.json    as next to the snapshot; first
 *   layer.tar.zst    its layer
 *
 * An export reads only, and needs no lock: what it has opened stays whole whatever becomes of the snapshot. An import
 * trusts nothing: it unpacks the whole layer into a scratch folder first, in the very way a resume will, and only then
 * gives the snapshot its name. Killed at any time it leaves no snapshot, and no file with a name that the next start
 * of an emulator, or the next import, does not remove. Both block: for CLI commands, in E. */

#include <json-c/json.h>

#include "emulator/base/err.h"
#include "rootfs/layer.h"
#include "rootfs/snapshot.h"

#define SNAPSHOT_IMPORT_MAX (64ull << 30) /* bytes, of the uncompressed layer */

/* An open snapshot: a manifest, and the layer it is about. */
struct snapshot_open {
	struct json_object *manifest;
	struct snapshot_info info;
	int tar_fd;
};
#define SNAPSHOT_OPEN_INIT ((struct snapshot_open){ .tar_fd = -1 })
int snapshot_open(const struct snapshot_dir *d, const char *id, struct snapshot_open *ret, struct err *e);
void snapshot_open_close(struct snapshot_open *o);
#define _cleanup_snapshot_ _cleanup_(snapshot_open_close)

/* Writes o to out_fd. The manifest may have been changed. */
int snapshot_export(const struct snapshot_open *o, int out_fd, struct err *e);

struct snapshot_import {
	const struct snapshot_dir *d;
	const struct layer_env *env;
	int in_fd;	/* may be a pipe */
	const char *id; /* its name here */
	/* Looks at the manifest, whose own members make sense by then, before anything is written, and may change it.
	 * A negative errno refuses it. */
	int (*check)(void *arg, struct json_object *manifest, const struct snapshot_info *info, struct err *e);
	void *arg;
};

/* ERR_INVALID "archive_invalid" or "snapshot_damaged" with what is wrong, ERR_TOO_LARGE, ERR_FULL. */
int snapshot_import(const struct snapshot_import *s, struct err *e);
