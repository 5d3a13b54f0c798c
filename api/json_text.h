#pragma once
/* JSON written by hand, for what is too large or too frequent to become json-c objects. */

#include "emulator/base/buf.h"

/* Appends n bytes as a JSON string with its quotes. What is not UTF-8 becomes U+FFFD (as text_utf8_sanitize
 * does). With final false an incomplete character at the end is left; *ret_used (may be NULL) says how
 * many bytes were taken. 0, or buf_add's error with the buffer as it was. */
int json_text_string(struct buf *b, const char *p, size_t n, bool final, size_t *ret_used);
