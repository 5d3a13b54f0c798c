#include "api/json_text.h"

#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"

#define PIECE 16384

/* Valid UTF-8 with the characters escaped that RFC 8259, section 7, does not allow bare. */
static int add_escaped(struct buf *b, const char *p, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	size_t from = 0;
	int r = 0;

	for (size_t i = 0; i < n && r >= 0; i++) {
		unsigned char c = (unsigned char)p[i];
		char esc[6] = { '\\', 'u', '0', '0', hex[c >> 4], hex[c & 15] };
		size_t len = 6;
		const char *at;

		if (c >= 0x20 && c != '"' && c != '\\' && c != 0x7f)
			continue;
		at = c ? strchr("\"\"\\\\\nn\rr\tt\bb\ff", c) : NULL;
		if (at) {
			esc[1] = at[1];
			len = 2;
		}
		r = buf_add(b, p + from, i - from);
		if (r >= 0)
			r = buf_add(b, esc, len);
		from = i + 1;
	}
	return r < 0 ? r : buf_add(b, p + from, n - from);
}

int json_text_string(struct buf *b, const char *p, size_t n, bool final, size_t *ret_used)
{
	_cleanup_buf_ struct buf clean = BUF_INIT(PIECE * 3);
	size_t old = b->len, i = 0;
	int r = buf_puts(b, "\"");

	while (r >= 0 && i < n) {
		size_t piece = MIN(n - i, (size_t)PIECE), used = 0;

		buf_reset(&clean);
		r = text_utf8_sanitize(p + i, piece, final && i + piece == n, &clean, &used);
		if (r < 0 || used == 0)
			break;
		r = add_escaped(b, clean.p, clean.len);
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
