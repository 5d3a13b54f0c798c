#include <string.h>

#include "netpolicy/policy.h"

/* IANA's special-purpose address registries (RFC 6890 and successors), the ranges no one on the internet
 * answers at, and what is only an IPv4 address in another form: that form is judged by what it contains.
 * In IPv6 everything outside 2000::/3 is refused: nothing else is assigned to be global. */

struct range {
	uint8_t a[16];
	uint8_t bits;
	const char *why;
};

static const struct range V4[] = {
	{ { 0 }, 8, "unspecified" },
	{ { 10 }, 8, "private" },
	{ { 100, 64 }, 10, "cgnat" },
	{ { 127 }, 8, "loopback" },
	{ { 168, 63, 129, 16 }, 32, "metadata" }, /* Azure's: a public address, but answered by the host */
	{ { 169, 254, 169, 254 }, 32, "metadata" },
	{ { 169, 254, 170, 2 }, 32, "metadata" }, /* Amazon's ECS task credentials */
	{ { 169, 254 }, 16, "link-local" },
	{ { 172, 16 }, 12, "private" },
	{ { 192, 0, 0 }, 24, "reserved" },
	{ { 192, 0, 2 }, 24, "documentation" },
	{ { 192, 88, 99 }, 24, "reserved" },
	{ { 192, 168 }, 16, "private" },
	{ { 198, 18 }, 15, "benchmarking" },
	{ { 198, 51, 100 }, 24, "documentation" },
	{ { 203, 0, 113 }, 24, "documentation" },
	{ { 224 }, 4, "multicast" },
	{ { 255, 255, 255, 255 }, 32, "broadcast" },
	{ { 240 }, 4, "reserved" },
};

static const struct range V6[] = {
	{ { 0 }, 128, "unspecified" },
	{ { [15] = 1 }, 128, "loopback" },
	{ { 0x20, 0x01, 0x0d, 0xb8 }, 32, "documentation" },
	{ { 0x20, 0x01 }, 23, "reserved" }, /* IETF protocol assignments, Teredo among them */
	{ { 0x3f, 0xff }, 20, "documentation" },
	{ { 0xfd, 0x00, 0x0e, 0xc2 }, 32, "metadata" }, /* Amazon's fd00:ec2::254 */
	{ { 0xfc }, 7, "private" },
	{ { 0xfe, 0x80 }, 10, "link-local" },
	{ { 0xfe, 0xc0 }, 10, "private" },
	{ { 0xff }, 8, "multicast" },
};

static bool within(const uint8_t *a, const uint8_t *net, unsigned int bits)
{
	unsigned int whole = bits / 8, rest = bits % 8;

	if (memcmp(a, net, whole) != 0)
		return false;
	return rest == 0 || ((a[whole] ^ net[whole]) >> (8 - rest)) == 0;
}

static bool find(const struct range *v, size_t n, const uint8_t *a, const char **ret_why)
{
	for (size_t i = 0; i < n; i++)
		if (within(a, v[i].a, v[i].bits)) {
			*ret_why = v[i].why;
			return true;
		}
	return false;
}

/* Where an IPv4 address sits in this IPv6 one, or NULL. */
static const uint8_t *embedded(const uint8_t *a)
{
	static const uint8_t MAPPED[16] = { [10] = 0xff, [11] = 0xff };
	static const uint8_t NAT64[16] = { 0x00, 0x64, 0xff, 0x9b }; /* RFC 6052, 2.1 */
	static const uint8_t SIX_TO_FOUR[16] = { 0x20, 0x02 };

	if (within(a, MAPPED, 96) || within(a, NAT64, 96))
		return a + 12;
	return within(a, SIX_TO_FOUR, 16) ? a + 2 : NULL;
}

bool policy_private(const struct in6_addr *a, const char **ret_why)
{
	const uint8_t *p = a->s6_addr, *v4 = embedded(p);
	const char *why = "reserved";
	bool refused;

	if (v4)
		refused = find(V4, ARRAY_SIZE(V4), v4, &why);
	else
		refused = find(V6, ARRAY_SIZE(V6), p, &why) || (p[0] & 0xe0) != 0x20;
	if (ret_why)
		*ret_why = refused ? why : "";
	return refused;
}
