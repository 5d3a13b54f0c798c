/* Base 64 in pieces and whole, UTF-8, times, numbers: text from a client that becomes bytes. */

#include "api/base64.h"
#include "api/json_text.h"
#include "emulator/base/buf.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "tests/fuzz/fuzz.h"

static void base64(const char *s, size_t n, size_t step)
{
	unsigned char *whole = malloc(n / 4 * 3 + 3), *pieces = malloc(n / 4 * 3 + 3 + n * 3);
	ssize_t want = text_base64_decode(s, n, whole);
	struct base64_in b = { 0 };
	size_t out = 0, i = 0;
	int end = 0;

	fuzz_check(whole && pieces && want <= (ssize_t)(n / 4 * 3 + 3));
	while (i < n) {
		size_t used = 0, k = MIN(step, n - i);
		char *piece = fuzz_string((const uint8_t *)s + i, k);

		out += base64_in(&b, piece, k, pieces + out, &used);
		free(piece);
		i += used;
		if (used < k)
			break;
	}
	end = i < n ? -EINVAL : base64_in_end(&b, pieces + out);
	fuzz_check(b.taken == i);
	if (end >= 0 && want >= 0) {
		fuzz_check((size_t)want == out + (size_t)end && memcmp(whole, pieces, (size_t)want) == 0);
	}
	if (want >= 0) {
		char *again = malloc((size_t)want / 3 * 4 + 8);
		unsigned char *back = malloc((size_t)want + 8);
		size_t len = text_base64_encode(whole, (size_t)want, again);

		fuzz_check(text_base64_decode(again, len, back) == want && memcmp(back, whole, (size_t)want) == 0);
		free(again);
		free(back);
	}
	free(whole);
	free(pieces);
}

static void utf8(const char *s, size_t n, size_t cut)
{
	_cleanup_buf_ struct buf whole = BUF_INIT(1 << 20), two = BUF_INIT(1 << 20), quoted = BUF_INIT(1 << 20);
	size_t used = 0, rest = 0;

	cut = n ? cut % (n + 1) : 0;
	fuzz_check(text_utf8_sanitize(s, n, true, &whole, &used) == 0 && used == n);
	fuzz_check(text_utf8_sanitize(s, cut, false, &two, &used) == 0 && used <= cut && cut - used < 4);
	fuzz_check(text_utf8_sanitize(s + used, n - used, true, &two, &rest) == 0 && rest == n - used);
	fuzz_check(whole.len == two.len && (whole.len == 0 || memcmp(whole.p, two.p, whole.len) == 0));
	fuzz_check(text_utf8_valid(whole.p ? whole.p : "", whole.len));
	if (text_utf8_valid(s, n))
		fuzz_check(whole.len == n && (n == 0 || memcmp(whole.p, s, n) == 0));
	fuzz_check(json_text_string(&quoted, s, n, true, NULL) == 0 && quoted.len >= 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	char iso[CLOCK_ISO_SIZE], *s;
	int64_t ms, again;
	uint64_t u;

	if (n < 1 || n > 65536)
		return 0;
	s = fuzz_string(p + 1, n - 1);
	base64(s, n - 1, p[0] % 13u + 1);
	utf8(s, n - 1, p[0]);
	if (clock_parse_iso(s, &ms) == 0 && ms >= 0 && ms < INT64_C(253402300800000)) {
		clock_iso(ms, iso);
		fuzz_check(clock_parse_iso(iso, &again) == 0 && again == ms);
	}
	if (text_parse_u64(s, 3, 1000, &u) == 0)
		fuzz_check(u >= 3 && u <= 1000);
	free(s);
	return 0;
}
