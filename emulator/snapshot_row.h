#pragma once
/* A sandbox's row in its snapshot's manifest: what another emulator, or a state dir it was imported into, needs to
 * resume it. Its "env" is secret, as in the store. */

#include <json-c/json.h>

#include "emulator/base/err.h"
#include "emulator/store.h"

/* The caller's to put; NULL when out of memory or the row's texts are no JSON. */
struct json_object *snapshot_row_to_json(const struct sandbox_row *row);

/* A whole row, paused and without a slot, from a manifest; the caller clears it. The manifest is hostile: every member
 * is checked. ERR_INVALID "snapshot_damaged" says which one is wrong. */
int snapshot_row_from_json(struct json_object *manifest, struct sandbox_row *ret, struct err *e);
