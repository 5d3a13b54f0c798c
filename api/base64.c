#include "api/base64.h"

#include <errno.h>

#define B64_BAD 0x80000000u
#define B64_URL 0x40000000u /* fine, but not in the standard alphabet */

/* Per position in a group of four, the character's bits where they belong in the 24. */
static uint32_t b64[4][256];

static void b64_prepare(void)
{
	static const char a[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	if (b64[0]['B'] != 0)
		return;
	for (int k = 0; k < 4; k++) {
		for (int i = 0; i < 256; i++)
			b64[k][i] = B64_BAD;
		for (uint32_t i = 0; i < 64; i++)
			b64[k][(unsigned char)a[i]] = i << (18 - 6 * k);
		b64[k]['-'] = 62u << (18 - 6 * k) | B64_URL;
		b64[k]['_'] = 63u << (18 - 6 * k) | B64_URL;
	}
}

/* One character on its own. False: it does not belong here. */
static bool b64_char(struct base64_in *b, char ch, unsigned char **o)
{
	uint32_t v = b64[3][(unsigned char)ch];

	if (!b->plain && (ch == ' ' || ch == '\t' || ch == '\n' || ch == '\r'))
		return true;
	if (ch == '=') {
		if (b->chars + b->pads < 2 || b->chars + b->pads > 3)
			return false;
		b->pads++;
		return true;
	}
	if (b->pads > 0 || (v & (b->plain ? B64_BAD | B64_URL : B64_BAD)) != 0)
		return false;
	b->acc = b->acc << 6 | (v & 63);
	if (++b->chars == 4) {
		*(*o)++ = (unsigned char)(b->acc >> 16);
		*(*o)++ = (unsigned char)(b->acc >> 8);
		*(*o)++ = (unsigned char)b->acc;
		b->acc = 0;
		b->chars = 0;
	}
	return true;
}

size_t base64_in(struct base64_in *b, const char *p, size_t n, void *ret, size_t *ret_used)
{
	const uint32_t stop = b->plain ? B64_BAD | B64_URL : B64_BAD;
	unsigned char *o = ret;
	size_t i = 0;

	b64_prepare();
	while (i < n) {
		const unsigned char *c = (const unsigned char *)p + i;

		if (b->chars == 0 && b->pads == 0 && n - i >= 4) {
			uint32_t v = b64[0][c[0]] | b64[1][c[1]] | b64[2][c[2]] | b64[3][c[3]];

			if ((v & stop) == 0) {
				o[0] = (unsigned char)(v >> 16);
				o[1] = (unsigned char)(v >> 8);
				o[2] = (unsigned char)v;
				o += 3;
				i += 4;
				continue;
			}
		}
		if (!b64_char(b, p[i], &o))
			break;
		i++;
	}
	b->taken += i;
	*ret_used = i;
	return (size_t)(o - (unsigned char *)ret);
}

int base64_in_end(struct base64_in *b, unsigned char ret[static 2])
{
	/* What the last characters have beyond whole bytes must be zero (RFC 4648, section 3.5). */
	if (b->chars == 1 || (b->pads > 0 && b->chars + b->pads != 4))
		return -EINVAL;
	if (b->chars == 2) {
		ret[0] = (unsigned char)(b->acc >> 4);
		return (b->acc & 0xf) != 0 ? -EINVAL : 1;
	}
	if (b->chars == 3) {
		ret[0] = (unsigned char)(b->acc >> 10);
		ret[1] = (unsigned char)(b->acc >> 2);
		return (b->acc & 3) != 0 ? -EINVAL : 2;
	}
	return 0;
}
