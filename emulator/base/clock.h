#pragma once
/* Time. Wall-clock milliseconds since the epoch (for rows and the wire) and a monotonic clock
 * (for durations and deadlines within one run). */

#include "emulator/base/util.h"

#define CLOCK_ISO_SIZE 32

int64_t clock_real_ms(void); /* since 1970-01-01T00:00:00Z */
int64_t clock_mono_us(void); /* since some fixed point; never goes back */

/* "2026-05-01T12:34:56.789Z" (wire.md: ISO 8601 UTC, milliseconds). */
void clock_iso(int64_t ms, char ret[static CLOCK_ISO_SIZE]);

/* Parses what clock_iso prints, also without or with 1-9 fraction digits and with "+00:00" for Z.
 * -EINVAL otherwise. */
int clock_parse_iso(const char *s, int64_t *ret_ms);
