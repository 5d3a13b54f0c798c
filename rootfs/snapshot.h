#pragma once
/* Snapshots: what is left of a paused sandbox when its processes are gone. Two files in the state dir:
 *
 *   snapshots/<id>.tar.zst   its upper folder as an OCI layer (rootfs/snapshot_tar.h)
 *   snapshots/<id>.json      the manifest: written last, so a snapshot is there when, and only when, it is
 *
 * Both are complete and on disk before their names appear. snapshot_write and snapshot_unpack block: for a
 * worker. The others look at one small file or rename. */

#include <json-c/json.h>
#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"

#define SNAPSHOT_VERSION 1
#define SNAPSHOT_ID_SIZE 32 /* a sandbox's id */

struct snapshot_info {
	char id[SNAPSHOT_ID_SIZE];
	char template_name[72];
	char template_digest[80]; /* "" when it had none */
	char tar_digest[TEXT_SHA256_SIZE];
	uint64_t tar_bytes, size_bytes, file_bytes, entries;
	int64_t paused_ms; /* the pause it belongs to: its row says the same */
};

struct snapshot_spec {
	const char *id, *slot; /* the sandbox's */
	const char *template_name, *template_digest;
	int64_t paused_ms;
	uid_t sandbox_uid;
	bool single_id;
	/* For the manifest; borrowed. */
	struct json_object *processes, *ports;
	const volatile bool *cancelled; /* as in snapshot_tar_spec */
};

/* Of disk/s/<slot>/u, in place of an earlier one of that id. ERR_FULL, ERR_UNSUPPORTED "snapshot_unsupported",
 * ERR_IO; then none is there. */
int snapshot_write(int state_fd, const struct snapshot_spec *s, struct snapshot_info *ret, struct err *e);

/* ERR_NOT_FOUND when there is none; ERR_UNAVAILABLE "snapshot_damaged" when it is not whole. The tar's content
 * is checked by snapshot_unpack. */
int snapshot_load(int state_fd, const char *id, struct snapshot_info *ret, struct err *e);

/* The manifest as it is, for a person: the processes that are gone and the like. The caller's to put. */
int snapshot_manifest(int state_fd, const char *id, struct json_object **ret, struct err *e);

/* Into disk/s/<slot>/u, which must be empty. Damaged or not the content the manifest names: ERR_UNAVAILABLE
 * "snapshot_damaged". */
int snapshot_unpack(int state_fd, const struct snapshot_info *i, const char *slot, uid_t sandbox_uid, bool single_id,
		    const volatile bool *cancelled, struct err *e);

/* Moves it to the trash (tree_empty_trash gives the space back). 0 also when there is none. */
int snapshot_discard(int state_fd, const char *id, struct err *e);

/* Moves everything in the folder to the trash but snapshots for which wanted() is true. */
int snapshot_sweep(int state_fd, bool (*wanted)(void *arg, const char *id), void *arg, struct err *e);
