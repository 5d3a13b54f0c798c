/* json_text.h against the plain way of doing the same: sanitize, then escape byte by byte. */

#include <criterion/criterion.h>
#include <string.h>

#include "api/json_text.h"
#include "emulator/base/text.h"

static void plainly(const char *p, size_t n, bool final, struct buf *out, size_t *used)
{
	_cleanup_buf_ struct buf clean = BUF_INIT(1 << 20);

	cr_assert(text_utf8_sanitize(p, n, final, &clean, used) == 0);
	cr_assert(buf_puts(out, "\"") == 0);
	for (size_t i = 0; i < clean.len; i++) {
		unsigned char c = (unsigned char)clean.p[i];
		static const char pairs[] = "\"\"\\\\\nn\rr\tt\bb\ff";
		const char *at = c && (c < 0x20 || c == '"' || c == '\\') ? strchr(pairs, c) : NULL;

		if (at)
			cr_assert(buf_printf(out, "\\%c", at[1]) == 0);
		else if (c < 0x20 || c == 0x7f)
			cr_assert(buf_printf(out, "\\u%04x", c) == 0);
		else
			cr_assert(buf_add(out, &c, 1) == 0);
	}
	cr_assert(buf_puts(out, "\"") == 0);
}

static void same(const char *p, size_t n, bool final)
{
	_cleanup_buf_ struct buf a = BUF_INIT(1 << 20), b = BUF_INIT(1 << 20);
	size_t used_a = 0, used_b = 0;

	cr_assert(json_text_string(&a, p, n, final, &used_a) == 0);
	plainly(p, n, final, &b, &used_b);
	cr_expect(used_a == used_b, "%zu, not %zu, of %zu", used_a, used_b, n);
	cr_expect(a.len == b.len && memcmp(a.p, b.p, a.len) == 0, "%s is not %s", a.p, b.p);
}

/* Every byte at every place of a word, between plain ones. */
Test(json_text, each_byte_everywhere)
{
	char s[24];

	for (int c = 0; c < 256; c++)
		for (size_t at = 0; at < sizeof(s); at++)
			for (int c2 = 0; c2 < 256; c2 += 17) {
				memset(s, 'x', sizeof(s));
				s[at] = (char)c;
				if (at + 1 < sizeof(s))
					s[at + 1] = (char)c2;
				same(s, sizeof(s), true);
				same(s, at + 1, false);
			}
}

Test(json_text, random_bytes, .timeout = 60)
{
	/* Mostly what makes or breaks characters. */
	static const char alphabet[] = "abcdefgh\"\\\n\x01\x7f\x80\x90\xa0\xbf\xc0\xc3\xa4\xe0\xe2\x82\xac\xed\x9f\xf0"
				       "\x9f\x98\x80\xf4\x8f\xff";
	static char s[40000];
	uint64_t seed = 12345;

	for (int turn = 0; turn < 400; turn++) {
		size_t n = turn < 380 ? (size_t)turn : 16000 + (size_t)turn * 37;

		for (size_t i = 0; i < n; i++) {
			seed = seed * 6364136223846793005u + 1442695040888963407u;
			s[i] = alphabet[(seed >> 33) % (sizeof(alphabet) - 1)];
		}
		same(s, n, true);
		same(s, n, false);
	}
}
