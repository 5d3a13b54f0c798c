#pragma once
/* ORKESTR_TEST_SLOW=10: this machine is that many times slower than the tests' time-outs were written for: an emulated
 * CPU, memcheck, a sanitizer. What waits for something to happen waits that many times longer, and Criterion's own
 * time-outs are multiplied (slow.c). A pause in which something must *not* happen stays as it is.
 */

#include <stdint.h>

/* So many milliseconds, on this machine. */
uint64_t slow_ms(uint64_t ms);
