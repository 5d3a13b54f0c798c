#pragma once
/* The grammar of JSON (RFC 8259), byte for byte.
 *
 * json-c's own strictness can't be had: in strict mode 0.17 and 0.18 (Ubuntu 24.04, Debian 13) refuse every character
 * beyond ASCII, and all versions take names in single quotes, "-01" and "1.". So what a text is gets decided here, the
 * same way everywhere, and json-c only builds what is known to be right. */

#include <stddef.h>

/* What a text may cost: nested arrays and objects, and values in all. */
struct json_limits {
	int depth;
	size_t values;
};

/* Whether the n bytes are exactly one value, white space around it, in UTF-8 and within the limits. *ret_at: where the
 * first byte is that no such text has there; n when it ends too early, or is right. 0, -EINVAL, or -E2BIG (values). */
int json_check(const char *p, size_t n, struct json_limits l, size_t *ret_at);
