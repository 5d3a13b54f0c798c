#pragma once
/* The ids and creation times of sandboxes. As they come; or, once seeded, a sequence that the seed determines, for
 * tests that compare what they see with what they saw before: the n-th sandbox then has the n-th id, and was made
 * n seconds after IDS_EPOCH_MS, whatever the time is. All other times (started, expires) are always the clock's. */

#include "emulator/base/text.h"

#define IDS_EPOCH_MS INT64_C(1767225600000) /* 2026-01-01T00:00:00Z */

/* From now on, from its beginning. */
void ids_seed(uint64_t seed);

void ids_sandbox(int64_t *ret_created_ms, char ret[static TEXT_ULID_SIZE]);
