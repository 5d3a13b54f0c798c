/* ClientHello and HTTP sniffing on any bytes. A name that comes out is normal, and more bytes after a verdict don't
 * change it. */

#include "netpolicy/sniff.h"
#include "tests/fuzz/fuzz.h"

static void one(enum sniff (*fn)(const void *p, size_t n, char *ret), const uint8_t *p, size_t n)
{
	char name[POLICY_NAME_MAX], again[POLICY_NAME_MAX];
	enum sniff whole = fn(p, n, name), half = fn(p, n / 2, again);

	if (half == SNIFF_NAME)
		fuzz_check(whole == SNIFF_NAME && strcmp(name, again) == 0);
	else if (half != SNIFF_MORE)
		fuzz_check(whole == half);
	if (whole == SNIFF_NAME) {
		fuzz_check(policy_normalise(name, strlen(name), again) == 0 && strcmp(name, again) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n > SNIFF_MAX)
		return 0;
	one(sniff_tls, p, n);
	one(sniff_http, p, n);
	return 0;
}
