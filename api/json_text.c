/* One pass: plain characters are copied and looked at a block at a time, everything else by itself. Streams of
 * output go through here, so the room for the worst case of a piece is made beforehand and nothing is checked
 * twice. */

#include "api/json_text.h"

#include <endian.h>
#include <string.h>

#define PIECE 16384
#define WORST 6 /* bytes for one: \u001f */

static bool plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

typedef uint8_t block __attribute__((vector_size(16))); /* gcc, "Using Vector Instructions"; clang has it too */

/* Copies what can stay as it is, and returns how much that was. Writes up to a block more than that at `to`. */
static size_t copy_plain(char *to, const unsigned char *p, size_t n)
{
	size_t i = 0;

	for (; i + sizeof(block) <= n; i += sizeof(block)) {
		uint64_t half[2];
		block v, odd;

		memcpy(&v, p + i, sizeof(v));
		memcpy(to + i, &v, sizeof(v));
		odd = (block)((v < 0x20) | (v >= 0x7f) | (v == '"') | (v == '\\'));
		memcpy(half, &odd, sizeof(half));
		if (half[0])
			return i + (size_t)__builtin_ctzll(le64toh(half[0])) / 8;
		if (half[1])
			return i + 8 + (size_t)__builtin_ctzll(le64toh(half[1])) / 8;
	}
	for (; i < n && plain(p[i]); i++)
		to[i] = (char)p[i];
	return i;
}

/* An ASCII character that RFC 8259, section 7, or good sense does not allow bare. */
static char *add_escape(char *to, unsigned char c)
{
	static const char hex[] = "0123456789abcdef";
	static const char pair[128] = {
		['"'] = '"', ['\\'] = '\\', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't', ['\b'] = 'b', ['\f'] = 'f',
	};

	*to++ = '\\';
	if (pair[c]) {
		*to++ = pair[c];
		return to;
	}
	*to++ = 'u';
	*to++ = '0';
	*to++ = '0';
	*to++ = hex[c >> 4];
	*to++ = hex[c & 15];
	return to;
}

/* Bytes at p that are a character above ASCII, or the beginning of one, as far as they may be (RFC 3629,
 * section 4; at least 1). *ret_len: how many it should have, 0 for what can't begin one. */
static size_t char_run(const unsigned char *p, size_t n, size_t *ret_len)
{
	unsigned char c = p[0], low = 0x80, high = 0xbf;
	size_t len = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0, k = 1;

	if (c == 0xe0)
		low = 0xa0;
	else if (c == 0xed)
		high = 0x9f;
	else if (c == 0xf0)
		low = 0x90;
	else if (c == 0xf4)
		high = 0x8f;
	for (; k < len && k < n && p[k] >= low && p[k] <= high; k++) {
		low = 0x80;
		high = 0xbf;
	}
	*ret_len = len;
	return k;
}

/* At most PIECE bytes, with room for the worst at `to`. Returns the end; *used: how many were taken. */
static char *add_piece(char *to, const unsigned char *p, size_t n, bool final, size_t *used)
{
	static const unsigned char replacement[] = { 0xef, 0xbf, 0xbd }; /* U+FFFD */
	size_t i = 0;

	while (i < n) {
		size_t run = copy_plain(to, p + i, n - i), len;

		to += run;
		i += run;
		if (i == n)
			break;
		if (p[i] < 0x80) {
			to = add_escape(to, p[i++]);
			continue;
		}
		run = char_run(p + i, n - i, &len);
		if (run < len && i + run == n && !final)
			break;
		memcpy(to, run == len ? p + i : replacement, run == len ? run : sizeof(replacement));
		to += run == len ? run : sizeof(replacement);
		i += run;
	}
	*used = i;
	return to;
}

int json_text_string(struct buf *b, const char *p, size_t n, bool final, size_t *ret_used)
{
	size_t old = b->len, i = 0, used = 1;
	int r = buf_puts(b, "\"");

	while (r >= 0 && i < n && used > 0) {
		size_t piece = MIN(n - i, (size_t)PIECE);
		char *to;

		r = buf_reserve(b, piece * WORST, &to);
		if (r < 0)
			break;
		buf_commit(b,
			   (size_t)(add_piece(to, (const unsigned char *)p + i, piece, final && i + piece == n, &used) -
				    to));
		i += used;
	}
	if (r >= 0)
		r = buf_puts(b, "\"");
	if (r < 0) {
		b->len = old;
		if (b->p)
			b->p[old] = '\0';
		return r;
	}
	if (ret_used)
		*ret_used = i;
	return 0;
}
