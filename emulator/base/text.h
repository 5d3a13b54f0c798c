#pragma once
/* Numbers, names and digests as text. Pure functions; negative errno on failure. */

#include "emulator/base/util.h"

/* Decimal digits only (no sign, no space), within [min, max]. -EINVAL, -ERANGE. */
int text_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret);

/* What a hex digit is worth, or -1. */
int text_hex_value(char c);

/* The place of word among n names, or -EINVAL. */
int text_index(const char *word, const char *const *names, size_t n);

/* snprintf that fails instead of cutting: the length, or -ENAMETOOLONG. */
int text_format(char *ret, size_t cap, const char *fmt, ...) _printf_(3, 4);

/* A ULID (26 characters of Crockford base 32, time then 80 random bits), NUL-terminated.
 * Two made in the same millisecond by one process still sort in the order they were made. */
#define TEXT_ULID_SIZE 27
void text_ulid(int64_t ms, char ret[static TEXT_ULID_SIZE]);
/* One of given bits. */
#define TEXT_ULID_RANDOM 10
void text_ulid_of(int64_t ms, const unsigned char rnd[static TEXT_ULID_RANDOM], char ret[static TEXT_ULID_SIZE]);

/* Lower-case hex SHA-256 of n bytes. */
#define TEXT_SHA256_SIZE 65
void text_sha256(const void *p, size_t n, char ret[static TEXT_SHA256_SIZE]);

/* n random bytes from the kernel; aborts if there are none (getrandom(2) can't fail here). */
void text_random(void *p, size_t n);

/* Base 64 (RFC 4648, section 4). Encoding needs 4 * ceil(n / 3) + 1 bytes at ret.
 * Decoding accepts the standard and the URL alphabet, padding optional, ASCII white space skipped;
 * ret needs n / 4 * 3 + 3 bytes; returns the length or -EINVAL. */
size_t text_base64_encode(const void *p, size_t n, char *ret);
ssize_t text_base64_decode(const char *p, size_t n, void *ret);

/* Bytes as UTF-8 text into a growing buffer: what is not valid UTF-8 becomes U+FFFD (one for each
 * maximal invalid part, as the WHATWG decoder does). With `final` false, an incomplete character at
 * the end is left unread; *ret_used says how many bytes were taken. 0 or a negative errno of buf_add. */
struct buf;
int text_utf8_sanitize(const char *p, size_t n, bool final, struct buf *out, size_t *ret_used);

/* True if the n bytes are valid UTF-8 (no surrogates, no overlong forms). */
bool text_utf8_valid(const char *p, size_t n);

/* How many of the n bytes, from the first, are valid UTF-8: n if all are. */
size_t text_utf8_span(const char *p, size_t n);
