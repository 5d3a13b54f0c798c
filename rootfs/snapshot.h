#pragma once
/* Snapshots: what is left of a paused sandbox when its processes are gone. Two files in a folder, which is the
 * state dir's "snapshots" or one that several emulators share (rootfs/snapshot_dir.h):
 *
 *   <id>.tar.zst   its upper folder as an OCI layer (rootfs/snapshot_tar.h)
 *   <id>.json      the manifest: written last, so a snapshot is there when, and only when, it is
 *
 * Both are complete and on disk before their names appear. Whoever wants to use a snapshot up takes its manifest
 * first (snapshot_claim), of which there is one. snapshot_write and snapshot_unpack block: for a worker. The
 * others look at one small file or rename. */

#include <json-c/json.h>
#include <sys/types.h>

#include "emulator/base/err.h"
#include "emulator/base/text.h"
#include "rootfs/snapshot_dir.h"

#define SNAPSHOT_VERSION 1
#define SNAPSHOT_MANIFEST_MAX (4u << 20)

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
	struct json_object *row;	/* what an emulator that has no row of it needs to know; or NULL */
	const volatile bool *cancelled; /* as in snapshot_tar_spec */
};

/* Of disk/s/<slot>/u, in place of an earlier one of that id. ERR_FULL, ERR_UNSUPPORTED "snapshot_unsupported",
 * ERR_IO; then none is there. */
int snapshot_write(const struct snapshot_dir *d, const struct snapshot_spec *s, struct snapshot_info *ret,
		   struct err *e);

/* ERR_NOT_FOUND when there is none; ERR_UNAVAILABLE "snapshot_damaged" when it is not whole. The tar's content
 * is checked by snapshot_unpack. */
int snapshot_load(const struct snapshot_dir *d, const char *id, struct snapshot_info *ret, struct err *e);

/* The manifest as it is, for a person: the processes that are gone and the like; also of a claimed one. The
 * caller's to put. "row" has secrets. */
int snapshot_manifest(const struct snapshot_dir *d, const char *id, struct json_object **ret, struct err *e);

/* What a manifest says, checked. False: it makes no sense. */
bool snapshot_read_info(struct json_object *manifest, struct snapshot_info *ret);

/* Whether both tell of the same snapshot, and not of an earlier and a later one of a sandbox. */
bool snapshot_same_pause(const struct snapshot_info *a, const struct snapshot_info *b);

/* Into disk/s/<slot>/u, which must be empty; what was lost is then said in disk/s/<slot>/lost.json
 * (snapshot_lost). Damaged or not the content the manifest names: ERR_UNAVAILABLE
 * "snapshot_damaged". */
int snapshot_unpack(const struct snapshot_dir *d, const struct snapshot_info *i, const char *slot, uid_t sandbox_uid,
		    bool single_id, const volatile bool *cancelled, struct err *e);

/* What snapshot_unpack left there: the manifest without "row". ERR_NOT_FOUND. The caller's to put. */
int snapshot_lost(int state_fd, const char *slot, struct json_object **ret, struct err *e);
