#pragma once
/* Time, in three kinds:
 *
 * - the emulator's own clock (clock_now_): the host's, moved forward by an offset that a test asked for
 *   (emulator/vclock.h). Whatever a client is told or has to wait for goes by it: created_at, deadlines, the
 *   month of the usage, rate limits, the expiry of keys, how long a thing is remembered.
 * - the host's wall clock (clock_real_ms): the log, names of temporary things.
 * - the host's monotonic clock (clock_mono_us): how long something took, and what may time out because a
 *   program or the kernel is slow. A command's time-out is of this kind: the command really runs. */

#include "emulator/base/util.h"

#define CLOCK_ISO_SIZE 32

int64_t clock_real_ms(void);   /* since 1970-01-01T00:00:00Z */
int64_t clock_mono_us(void);   /* since some fixed point; never goes back */
int64_t clock_thread_us(void); /* CPU time of this thread: what work costs, however busy the host is */

int64_t clock_now_ms(void); /* since 1970-01-01T00:00:00Z, with the offset */
int64_t clock_now_us(void); /* clock_mono_us with the offset: for deadlines within one run */

/* The offset, 0 unless it was set. Only vclock.c and tests set it; other processes than the daemon keep the one
 * they were forked with. 0 to CLOCK_OFFSET_MAX_MS. */
#define CLOCK_OFFSET_MAX_MS (INT64_C(100) * 366 * 86400 * 1000)
int64_t clock_offset_ms(void);
void clock_set_offset_ms(int64_t ms);

/* "2026-05-01T12:34:56.789Z" (wire.md: ISO 8601 UTC, milliseconds). */
void clock_iso(int64_t ms, char ret[static CLOCK_ISO_SIZE]);

/* Parses what clock_iso prints, also without or with 1-9 fraction digits and with "+00:00" for Z.
 * -EINVAL otherwise. */
int clock_parse_iso(const char *s, int64_t *ret_ms);

/* The first moment of the calendar month (UTC) after the one that ms lies in. */
int64_t clock_next_month_ms(int64_t ms);
/* 202605 for a moment in May 2026. */
int clock_month_number(int64_t ms);
