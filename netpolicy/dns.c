#include "netpolicy/dns.h"

#include <errno.h>
#include <string.h>

/* Theory of operation. A reader walks the message once, bounds checked at every step. A compression pointer
 * must point before the place it is met at, so a chain of them falls and ends; and a name's length is bounded
 * as it grows, so neither loops nor trees of pointers cost more than 255 bytes of work a name. */

enum { QR = 0x8000, TC = 0x0200, RD = 0x0100, RA = 0x0080 };

struct record {
	char name[POLICY_NAME_MAX];
	uint16_t type, class;
	uint32_t ttl;
	size_t rdata, rdlen;
};

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, unsigned int v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static int label_add(const uint8_t *p, size_t n, char *ret, size_t *len)
{
	if (*len + (*len > 0) + n >= POLICY_NAME_MAX)
		return -EBADMSG;
	if (*len > 0)
		ret[(*len)++] = '.';
	for (size_t i = 0; i < n; i++) {
		uint8_t c = p[i];

		if (c <= ' ' || c >= 0x7f || c == '.' || c == '\\')
			return -EBADMSG;
		ret[(*len)++] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
	}
	return 0;
}

static int read_name(const uint8_t *p, size_t n, size_t *pos, char ret[static POLICY_NAME_MAX])
{
	size_t at = *pos, len = 0, end = 0;
	size_t low = at; /* the next pointer must go below this */

	for (;;) {
		if (at >= n)
			return -EBADMSG;
		if ((p[at] & 0xc0) == 0xc0) {
			size_t to;

			if (at + 2 > n)
				return -EBADMSG;
			to = get16(p + at) & 0x3fffu;
			if (!end)
				end = at + 2;
			if (to >= low || to < DNS_HEADER)
				return -EBADMSG;
			low = at = to;
			continue;
		}
		if (p[at] & 0xc0)
			return -EBADMSG;
		if (p[at] == 0)
			break;
		if (at + 1 + p[at] > n || label_add(p + at + 1, p[at], ret, &len) < 0)
			return -EBADMSG;
		at += 1u + p[at];
	}
	ret[len] = '\0';
	*pos = end ? end : at + 1;
	return 0;
}

static int read_record(const uint8_t *p, size_t n, size_t *pos, struct record *ret)
{
	if (read_name(p, n, pos, ret->name) < 0 || *pos + 10 > n)
		return -EBADMSG;
	ret->type = get16(p + *pos);
	ret->class = get16(p + *pos + 2);
	ret->ttl = get32(p + *pos + 4);
	ret->rdlen = get16(p + *pos + 8);
	ret->rdata = *pos + 10;
	if (ret->rdata + ret->rdlen > n)
		return -EBADMSG;
	*pos = ret->rdata + ret->rdlen;
	/* RFC 2181, 8: a TTL with its top bit set counts as 0. */
	if (ret->ttl & 0x80000000u)
		ret->ttl = 0;
	return 0;
}

static int read_opt(const uint8_t *p, size_t n, size_t *pos, struct dns_query *ret)
{
	struct record r;

	if (read_record(p, n, pos, &r) < 0 || r.type != DNS_OPT || r.name[0])
		return -EBADMSG;
	ret->edns = true;
	ret->udp_size = (uint16_t)MAX(512, MIN(r.class, DNS_UDP_MAX));
	return 0;
}

int dns_parse_query(const uint8_t *p, size_t n, struct dns_query *ret)
{
	size_t pos = DNS_HEADER;
	unsigned int flags, extra;

	*ret = (struct dns_query){ .udp_size = 512 };
	if (n < DNS_HEADER || n > DNS_MAX)
		return -EPROTO;
	flags = get16(p + 2);
	if (flags & QR)
		return -EPROTO;
	ret->id = get16(p);
	ret->opcode = (uint8_t)(flags >> 11 & 15);
	ret->rd = flags & RD;
	extra = get16(p + 10);
	if (ret->opcode != 0)
		return 0; /* the rest may be anything: it is refused by its opcode */
	if ((flags & TC) || get16(p + 4) != 1 || get16(p + 6) || get16(p + 8) || extra > 1)
		return -EBADMSG;
	if (read_name(p, n, &pos, ret->name) < 0 || pos + 4 > n)
		return -EBADMSG;
	ret->type = get16(p + pos);
	ret->class = get16(p + pos + 2);
	pos += 4;
	/* A name that nothing comes before can't point anywhere, so this is at most 255 + 4 bytes. */
	if (pos - DNS_HEADER > sizeof(ret->question))
		return -EBADMSG;
	ret->question_len = pos - DNS_HEADER;
	memcpy(ret->question, p + DNS_HEADER, ret->question_len);
	if (extra && read_opt(p, n, &pos, ret) < 0)
		return -EBADMSG;
	return pos == n ? 0 : -EBADMSG;
}

/* Header and question of an answer to (id, name, type); *pos is then at the answer section. */
static int check_head(const uint8_t *p, size_t n, uint16_t id, const char *name, uint16_t type, size_t *pos)
{
	char asked[POLICY_NAME_MAX];
	unsigned int flags;

	*pos = DNS_HEADER;
	if (n < DNS_HEADER || n > DNS_MAX || get16(p) != id)
		return -EBADMSG;
	flags = get16(p + 2);
	if (!(flags & QR) || (flags >> 11 & 15) != 0 || get16(p + 4) != 1)
		return -EBADMSG;
	if (read_name(p, n, pos, asked) < 0 || *pos + 4 > n || strcmp(asked, name) != 0)
		return -EBADMSG;
	if (get16(p + *pos) != type || get16(p + *pos + 2) != DNS_CLASS_IN)
		return -EBADMSG;
	*pos += 4;
	return flags & TC ? -EMSGSIZE : 0;
}

/* Walks all sections: the counts must be true and the end must be the end. *ret_soa_ttl: for how long a "no"
 * holds (RFC 2308, 5), 0 if there is no SOA. */
static int walk(const uint8_t *p, size_t n, size_t pos, size_t *ret_answers_end, uint32_t *ret_soa_ttl)
{
	unsigned int answers = get16(p + 6), authority = get16(p + 8);
	unsigned int all = answers + authority + get16(p + 10);
	struct record r;

	*ret_answers_end = pos;
	*ret_soa_ttl = 0;
	for (unsigned int i = 0; i < all; i++) {
		if (read_record(p, n, &pos, &r) < 0)
			return -EBADMSG;
		if (i + 1 == answers)
			*ret_answers_end = pos;
		if (i >= answers && i < answers + authority && r.type == DNS_SOA && r.rdlen >= 22)
			*ret_soa_ttl = MIN(r.ttl, get32(p + pos - 4));
	}
	return pos == n ? 0 : -EBADMSG;
}

/* An IPv4 address said by AAAA (::ffff:0:0/96) is nobody's: it is our own form of an A record's. */
static bool take_address(const uint8_t *p, const struct record *r, struct dns_answer *ret)
{
	struct in6_addr a = { 0 };

	if (r->type == DNS_A && r->rdlen == 4) {
		a.s6_addr[10] = a.s6_addr[11] = 0xff;
		memcpy(&a.s6_addr[12], p + r->rdata, 4);
	} else if (r->type == DNS_AAAA && r->rdlen == 16) {
		memcpy(&a, p + r->rdata, 16);
		if (IN6_IS_ADDR_V4MAPPED(&a))
			return false;
	} else {
		return false;
	}
	if (ret->n_addr < DNS_ADDR_MAX)
		ret->addr[ret->n_addr++] = a;
	return true;
}

/* One pass over the answers for what belongs to `name`: its addresses, or the CNAME that leads on (at most
 * one, RFC 2181, 10.1). 1: follow *next. */
static int pass(const uint8_t *p, size_t n, size_t pos, const char *name, uint16_t type,
		char next[static POLICY_NAME_MAX], struct dns_answer *ret)
{
	unsigned int answers = get16(p + 6);
	bool cname = false, seen = false;
	struct record r;

	for (unsigned int i = 0; i < answers; i++) {
		size_t at;

		if (read_record(p, n, &pos, &r) < 0)
			return -EBADMSG;
		if (r.class != DNS_CLASS_IN || strcmp(r.name, name) != 0)
			continue;
		at = r.rdata;
		if (r.type == DNS_CNAME) {
			if (cname || read_name(p, n, &at, next) < 0 || at != pos)
				return -EBADMSG;
			cname = true;
		} else if (r.type == type && take_address(p, &r, ret)) {
			seen = true;
		} else {
			continue;
		}
		ret->ttl = MIN(ret->ttl, r.ttl);
	}
	if (cname && seen)
		return -EBADMSG;
	return cname;
}

int dns_parse_answer(const uint8_t *p, size_t n, uint16_t id, const char *name, uint16_t type, struct dns_answer *ret)
{
	size_t pos, end;
	uint32_t soa;
	int r = check_head(p, n, id, name, type, &pos);

	*ret = (struct dns_answer){ .ttl = UINT32_MAX };
	if (r < 0)
		return r;
	r = walk(p, n, pos, &end, &soa);
	if (r < 0)
		return r;
	ret->rcode = get16(p + 2) & 15;
	for (const char *at = name;;) {
		char next[POLICY_NAME_MAX];

		r = pass(p, n, pos, at, type, next, ret);
		if (r < 0)
			return r;
		if (r == 0)
			break;
		/* A chain that is this long, or goes in a circle, leads nowhere. */
		if (ret->n_chain == DNS_CHAIN_MAX)
			return -EBADMSG;
		memcpy(ret->chain[ret->n_chain], next, strlen(next) + 1);
		at = ret->chain[ret->n_chain++];
		if (type == DNS_CNAME)
			break;
	}
	if (ret->n_addr == 0 && (type != DNS_CNAME || ret->n_chain == 0))
		ret->ttl = MIN(ret->ttl, soa);
	return 0;
}

int dns_check_answer(const uint8_t *p, size_t n, uint16_t id, const char *name, uint16_t type, size_t *ret_len,
		     enum dns_rcode *ret_rcode)
{
	size_t pos;
	uint32_t soa;
	int r = check_head(p, n, id, name, type, &pos);

	if (r == 0)
		r = walk(p, n, pos, ret_len, &soa);
	if (r == 0)
		*ret_rcode = get16(p + 2) & 15;
	return r;
}

/* --- building --- */

struct out {
	uint8_t *p;
	size_t n, cap;
	bool full;
};

static void put(struct out *o, const void *p, size_t n)
{
	if (o->full || n > o->cap - o->n) {
		o->full = true;
		return;
	}
	memcpy(o->p + o->n, p, n);
	o->n += n;
}

static void put_u16(struct out *o, unsigned int v)
{
	uint8_t b[2];

	put16(b, v);
	put(o, b, 2);
}

static int put_name(struct out *o, const char *name)
{
	while (*name) {
		size_t n = strcspn(name, ".");
		uint8_t len = (uint8_t)n;

		if (n == 0 || n > 63)
			return -EINVAL;
		put(o, &len, 1);
		put(o, name, n);
		name += n;
		if (*name == '.')
			name++;
	}
	put(o, "", 1);
	return 0;
}

static void put_opt(struct out *o)
{
	put(o, "", 1);
	put_u16(o, DNS_OPT);
	put_u16(o, DNS_UDP_MAX);
	put(o, "\0\0\0\0\0", 6); /* extended rcode, version, flags, no options */
}

ssize_t dns_build_query(uint8_t *buf, size_t cap, uint16_t id, const char *name, uint16_t type)
{
	struct out o = { .p = buf, .cap = cap };

	put_u16(&o, id);
	put_u16(&o, RD);
	put(&o, "\0\1\0\0\0\0\0\1", 8);
	if (put_name(&o, name) < 0)
		return -EINVAL;
	put_u16(&o, type);
	put_u16(&o, DNS_CLASS_IN);
	put_opt(&o);
	return o.full ? -EMSGSIZE : (ssize_t)o.n;
}

static void put_head(struct out *o, const struct dns_query *q, enum dns_rcode rcode)
{
	put_u16(o, q->id);
	put_u16(o, QR | (unsigned int)q->opcode << 11 | (q->rd ? RD : 0) | RA | rcode);
	put_u16(o, q->question_len > 0);
	put_u16(o, 0);
	put_u16(o, 0);
	put_u16(o, q->edns);
	put(o, q->question, q->question_len);
}

/* Takes back what does not fit: header, question and TC are left. */
static ssize_t finish(struct out *o, const struct dns_query *q, unsigned int answers)
{
	size_t room = o->cap;

	if (!o->full) {
		put16(o->p + 6, answers);
		if (q->edns)
			put_opt(o);
	}
	if (o->full) {
		*o = (struct out){ .p = o->p, .cap = room };
		put_head(o, q, DNS_NOERROR);
		if (q->edns)
			put_opt(o);
		if (o->full)
			return -EMSGSIZE;
		o->p[2] |= TC >> 8;
	}
	return (ssize_t)o->n;
}

static void put_rr_head(struct out *o, size_t owner, uint16_t type, uint32_t ttl)
{
	put_u16(o, 0xc000u | (unsigned int)owner);
	put_u16(o, type);
	put_u16(o, DNS_CLASS_IN);
	put_u16(o, ttl >> 16);
	put_u16(o, ttl & 0xffff);
}

ssize_t dns_build_answer(uint8_t *buf, size_t cap, const struct dns_query *q, const struct dns_answer *a)
{
	struct out o = { .p = buf, .cap = cap };
	size_t owner = DNS_HEADER;
	unsigned int answers = 0;

	put_head(&o, q, a->rcode);
	for (size_t i = 0; i < a->n_chain && !o.full; i++, answers++) {
		size_t at;

		put_rr_head(&o, owner, DNS_CNAME, a->ttl);
		at = o.n;
		put_u16(&o, 0);
		owner = o.n;
		if (put_name(&o, a->chain[i]) < 0)
			return -EINVAL;
		if (!o.full)
			put16(o.p + at, (unsigned int)(o.n - owner));
	}
	for (size_t i = 0; i < a->n_addr && !o.full; i++, answers++) {
		bool v4 = IN6_IS_ADDR_V4MAPPED(&a->addr[i]);

		put_rr_head(&o, owner, v4 ? DNS_A : DNS_AAAA, a->ttl);
		put_u16(&o, v4 ? 4 : 16);
		put(&o, &a->addr[i].s6_addr[v4 ? 12 : 0], v4 ? 4 : 16);
	}
	return finish(&o, q, answers);
}

ssize_t dns_build_passed(uint8_t *buf, size_t cap, const struct dns_query *q, const uint8_t *p, size_t n)
{
	struct out o = { .p = buf, .cap = cap };
	size_t head = DNS_HEADER + q->question_len;

	put_head(&o, q, get16(p + 2) & 15);
	/* The question is as long as ours (the same name, uncompressed), so pointers into it still hold. */
	if (n < head)
		return -EBADMSG;
	put(&o, p + head, n - head);
	return finish(&o, q, get16(p + 6));
}
