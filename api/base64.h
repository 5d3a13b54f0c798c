#pragma once
/* Decodes base 64 (RFC 4648) in pieces: the standard and the URL alphabet, ASCII white space skipped,
 * padding optional. A `plain` one takes the standard alphabet without white space only, so that what it
 * has read can be made again from what it has decoded. Zero-initialise, but for plain. */

#include "emulator/base/util.h"

struct base64_in {
	bool plain;
	uint32_t acc;  /* the last `chars` characters, 6 bits each */
	uint8_t chars; /* 0..3 */
	uint8_t pads;
	uint64_t taken; /* characters in all, those skipped and '=' too */
};

/* ret needs n / 4 * 3 + 3 bytes. The number of bytes decoded, all from the first *ret_used characters;
 * fewer than n where the next one does not belong there. */
size_t base64_in(struct base64_in *b, const char *p, size_t n, void *ret, size_t *ret_used);
/* The last 0..2 bytes, or -EINVAL for what can't be an end. */
int base64_in_end(struct base64_in *b, unsigned char ret[static 2]);
