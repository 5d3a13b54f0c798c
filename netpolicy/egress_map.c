#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"
#include "netpolicy/egress-internal.h"

/* The hermetic internet. A mapped name is answered with an address of 198.18.0.0/15 (RFC 2544: for test
 * networks, so nothing real is hidden): the connection to it comes to the relay like any other, which knows
 * the name by the address and connects to the fixture server instead. A name keeps its address as long as the
 * process lives, whatever is mapped and unmapped, so that what a client still caches stays true. */

#define SYNTHETIC_NET 0xc6120000u /* 198.18.0.0 */
#define SYNTHETIC_BITS 15

static int parse_target(const char *s, struct in6_addr *ret, uint16_t *ret_port, bool want_port)
{
	struct policy_rule r;

	if (policy_rule_parse(s, &r, NULL) < 0 || r.name[0] || (r.port != 0) != want_port)
		return -EINVAL;
	*ret = r.address;
	*ret_port = r.port;
	return 0;
}

/* "LEFT=RIGHT", LEFT a rule with a plain name. */
static int split(const char *text, struct policy_rule *ret_left, const char **ret_right)
{
	char left[POLICY_RULE_MAX];
	const char *eq = strchr(text, '=');

	if (!eq || (size_t)(eq - text) >= sizeof(left))
		return -EINVAL;
	memcpy(left, text, (size_t)(eq - text));
	left[eq - text] = '\0';
	*ret_right = eq + 1;
	if (policy_rule_parse(left, ret_left, NULL) < 0 || !ret_left->name[0] || ret_left->below)
		return -EINVAL;
	return 0;
}

static int give_address(struct map *m, const char *name)
{
	struct synthetic *s, **v;

	HASH_FIND_STR(m->synthetic, name, s);
	if (s)
		return 0;
	if (m->n_synthetic >= MAP_MAX)
		return -E2BIG;
	v = reallocarray(m->by_number, m->n_synthetic + 1, sizeof(void *));
	if (!v)
		return -ENOMEM;
	m->by_number = v;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	memcpy(s->name, name, strlen(name) + 1);
	s->number = (uint32_t)m->n_synthetic;
	HASH_ADD_STR(m->synthetic, name, s);
	if (!s->hh.tbl) {
		free(s);
		return -ENOMEM;
	}
	m->by_number[m->n_synthetic++] = s;
	return 0;
}

static int parse_map(const char *text, struct policy_rule *ret_left, struct target *ret_to)
{
	const char *right;
	int r = split(text, ret_left, &right);

	return r < 0 ? r : parse_target(right, &ret_to->address, &ret_to->port, true);
}

int egress_map_check(const char *text)
{
	struct policy_rule left;
	struct target to;

	return strlen(text) < sizeof(((struct egress_msg *)NULL)->text) ? parse_map(text, &left, &to) : -EINVAL;
}

int map_add(struct map *m, const char *text)
{
	struct mapping entry = { 0 }, *v;
	struct policy_rule left;
	size_t i;
	int r = parse_map(text, &left, &entry.to);

	if (r == 0)
		r = give_address(m, left.name);
	if (r < 0)
		return r;
	memcpy(entry.name, left.name, sizeof(entry.name));
	entry.port = left.port;
	for (i = 0; i < m->n_maps; i++)
		if (m->maps[i].port == entry.port && strcmp(m->maps[i].name, entry.name) == 0)
			break;
	if (i == m->n_maps) {
		if (m->n_maps >= MAP_MAX)
			return -E2BIG;
		v = reallocarray(m->maps, m->n_maps + 1, sizeof(*v));
		if (!v)
			return -ENOMEM;
		m->maps = v;
		m->n_maps++;
	}
	m->maps[i] = entry;
	return 0;
}

void map_clear(struct map *m)
{
	free(m->maps);
	m->maps = NULL;
	m->n_maps = 0;
}

static bool map_has(const struct map *m, const char *name)
{
	for (size_t i = 0; i < m->n_maps; i++)
		if (strcmp(m->maps[i].name, name) == 0)
			return true;
	return false;
}

bool map_synthetic(struct map *m, const char *name, struct in6_addr *ret)
{
	struct sockaddr_storage ss;
	struct sockaddr_in *v4 = (void *)&ss;
	struct synthetic *s;
	uint16_t port;

	HASH_FIND_STR(m->synthetic, name, s);
	if (!s || !map_has(m, name))
		return false;
	memset(&ss, 0, sizeof(ss));
	v4->sin_family = AF_INET;
	v4->sin_addr.s_addr = htonl(SYNTHETIC_NET + 1 + s->number);
	egress_from_sockaddr(&ss, ret, &port);
	return true;
}

const char *map_name_of(const struct map *m, const struct in6_addr *a)
{
	uint32_t v4;

	if (!IN6_IS_ADDR_V4MAPPED(a))
		return NULL;
	memcpy(&v4, &a->s6_addr[12], 4);
	v4 = ntohl(v4) - SYNTHETIC_NET - 1;
	if (v4 >> (32 - SYNTHETIC_BITS) != 0 || v4 >= m->n_synthetic)
		return NULL;
	return m->by_number[v4]->name;
}

bool map_target(const struct map *m, const char *name, uint16_t port, struct target *ret)
{
	bool found = false;

	for (size_t i = 0; i < m->n_maps; i++) {
		const struct mapping *e = &m->maps[i];

		/* The one that names the port wins. */
		if (strcmp(e->name, name) == 0 && (e->port == port || (e->port == 0 && !found))) {
			*ret = e->to;
			found = true;
			if (e->port == port)
				break;
		}
	}
	return found;
}

int zone_add(struct map *m, const char *text)
{
	struct zone_entry entry = { 0 }, *v;
	struct policy_rule left;
	const char *right;
	uint16_t port;
	int r = split(text, &left, &right);

	if (r == 0)
		r = left.port ? -EINVAL : parse_target(right, &entry.address, &port, false);
	if (r < 0)
		return r;
	if (m->n_zone >= MAP_MAX)
		return -E2BIG;
	memcpy(entry.name, left.name, sizeof(entry.name));
	v = reallocarray(m->zone, m->n_zone + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	m->zone = v;
	m->zone[m->n_zone++] = entry;
	return 0;
}

void zone_clear(struct map *m)
{
	free(m->zone);
	m->zone = NULL;
	m->n_zone = 0;
}

bool zone_find(const struct map *m, const char *name, uint16_t type, struct dns_answer *ret)
{
	bool found = false;

	*ret = (struct dns_answer){ .ttl = 5 };
	for (size_t i = 0; i < m->n_zone; i++) {
		const struct zone_entry *z = &m->zone[i];
		bool v4 = IN6_IS_ADDR_V4MAPPED(&z->address);

		if (strcmp(z->name, name) != 0)
			continue;
		found = true;
		if (type == (v4 ? DNS_A : DNS_AAAA) && ret->n_addr < DNS_ADDR_MAX)
			ret->addr[ret->n_addr++] = z->address;
	}
	return found;
}
