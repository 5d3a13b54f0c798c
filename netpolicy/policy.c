#include "netpolicy/policy.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"

/* Theory of operation. A policy holds two arrays of name rules, "this name" and "names below", each sorted by
 * name and then port, and one of address rules. A name is looked up once in the first and once for each of its
 * parents in the second, so the cost is (labels + 1) binary searches. The built-in list is parsed once in a
 * process and shared by every policy that wants it. */

#define POLICY_RULES_MAX 4096

struct rules {
	struct policy_rule *v;
	size_t n, cap;
};

struct policy_set {
	struct rules exact, below, address;
};

struct policy {
	enum net_mode mode;
	bool builtin, allow_private;
	struct policy_set own;
};

static const char *const MODES[] = { [NET_OFF] = "off", [NET_RESTRICTED] = "restricted", [NET_OPEN] = "open" };

const char *net_mode_name(enum net_mode m)
{
	return (size_t)m < ARRAY_SIZE(MODES) ? MODES[m] : "?";
}

int net_mode_parse(const char *s, enum net_mode *ret)
{
	int i = text_index(s, MODES, ARRAY_SIZE(MODES));

	if (i >= 0)
		*ret = (enum net_mode)i;
	return MIN(i, 0);
}

int policy_normalise(const char *name, size_t n, char ret[static POLICY_NAME_MAX])
{
	size_t label = 0;
	char out[POLICY_NAME_MAX];

	if (n > 0 && name[n - 1] == '.')
		n--;
	if (n == 0 || n >= POLICY_NAME_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		char c = name[i];

		if (c >= 'A' && c <= 'Z')
			c = (char)(c - 'A' + 'a');
		if (c == '.') {
			if (label == 0 || name[i - 1] == '-')
				return -EINVAL;
			label = 0;
		} else if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || (c == '-' && label > 0)) {
			if (++label > 63)
				return -EINVAL;
		} else {
			return -EINVAL;
		}
		out[i] = c;
	}
	if (label == 0 || name[n - 1] == '-')
		return -EINVAL;
	memcpy(ret, out, n);
	ret[n] = '\0';
	return 0;
}

/* U-labels to A-labels (UTS 46, non-transitional, as browsers do). Opened only when a rule needs it: the
 * tables are big, and most rules are plain ASCII. */
static int to_ascii(const char *name, char ret[static POLICY_NAME_MAX], struct err *e)
{
	enum { NFC_INPUT = 1, NONTRANSITIONAL = 8 }; /* idn2.h */
	void *lib = dlopen("libidn2.so.0", RTLD_NOW | RTLD_LOCAL);
	int (*convert)(const char *, char **, int);
	void (*release)(void *);
	char *ascii = NULL;
	int r;

	if (!lib)
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL,
			       "\"%s\" needs libidn2 (apt-get install libidn2-0); or write the name with xn-- labels",
			       name);
	*(void **)&convert = dlsym(lib, "idn2_to_ascii_8z");
	*(void **)&release = dlsym(lib, "idn2_free");
	if (!convert || !release) {
		(void)dlclose(lib);
		return err_set(e, ERR_UNAVAILABLE, ENOENT, NULL, "this libidn2 has no idn2_to_ascii_8z");
	}
	r = convert(name, &ascii, NFC_INPUT | NONTRANSITIONAL);
	if (r == 0 && policy_normalise(ascii, strlen(ascii), ret) < 0)
		r = -1;
	if (ascii)
		release(ascii);
	(void)dlclose(lib);
	return r == 0 ? 0 : err_set(e, ERR_INVALID, EINVAL, NULL, "\"%s\" is not a valid internationalised name", name);
}

static void map_v4(const struct in_addr *a, struct in6_addr *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->s6_addr[10] = ret->s6_addr[11] = 0xff;
	memcpy(&ret->s6_addr[12], a, sizeof(*a));
}

static bool parse_address(const char *s, struct in6_addr *ret)
{
	struct in_addr v4;

	if (inet_pton(AF_INET6, s, ret) == 1)
		return true;
	if (inet_pton(AF_INET, s, &v4) != 1)
		return false;
	map_v4(&v4, ret);
	return true;
}

/* Cuts ":PORT" off; host keeps the rest, without the brackets of an IPv6 address. */
static int split_port(char *host, uint16_t *ret_port, bool *ret_brackets)
{
	char *colon = strrchr(host, ':'), *end = strchr(host, ']');
	uint64_t port;

	*ret_port = 0;
	*ret_brackets = host[0] == '[';
	if (*ret_brackets) {
		if (!end || (end[1] != '\0' && end[1] != ':'))
			return -EINVAL;
		colon = end[1] == ':' ? end + 1 : NULL;
	} else if (colon && strchr(host, ':') != colon) {
		return 0; /* a bare IPv6 address */
	}
	if (colon) {
		if (text_parse_u64(colon + 1, 1, 65535, &port) < 0)
			return -EINVAL;
		*ret_port = (uint16_t)port;
		*colon = '\0';
	}
	if (*ret_brackets) {
		*end = '\0';
		memmove(host, host + 1, strlen(host));
	}
	return 0;
}

static bool last_label_numeric(const char *name)
{
	const char *dot = strrchr(name, '.');
	const char *last = dot ? dot + 1 : name;

	return last[strspn(last, "0123456789")] == '\0';
}

int policy_rule_parse(const char *text, struct policy_rule *ret, struct err *e)
{
	struct policy_rule r = { 0 };
	char host[POLICY_RULE_MAX];
	char *name = host;
	bool brackets, wide = false;
	size_t n = strlen(text);

	if (n == 0 || n >= sizeof(host))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "a rule is HOST[:PORT], not %s",
			       n == 0 ? "nothing" : "so long a text");
	memcpy(host, text, n + 1);
	if (split_port(host, &r.port, &brackets) < 0)
		return err_set(e, ERR_INVALID, EINVAL, NULL, "\"%s\": the port must be 1 to 65535", text);
	if (parse_address(host, &r.address)) {
		*ret = r;
		return 0;
	}
	r.address = (struct in6_addr){ 0 };
	if (name[0] == '*' && name[1] == '.') {
		r.below = true;
		name += 2;
	}
	for (const char *p = name; *p; p++)
		wide |= (unsigned char)*p >= 0x80;
	if (brackets || (!wide && policy_normalise(name, strlen(name), r.name) < 0))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "\"%s\" is neither a host name nor an address", text);
	if (wide) {
		int k = to_ascii(name, r.name, e);

		if (k < 0)
			return k;
	}
	/* No top-level domain is a number: "10.0.0" or "1.2.3.4.5" is a slip, not a name. */
	if (last_label_numeric(r.name))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "\"%s\" looks like an address, but is none", text);
	*ret = r;
	return 0;
}

int policy_rule_format(const struct policy_rule *r, char ret[static POLICY_RULE_MAX])
{
	char a[INET6_ADDRSTRLEN], port[8] = "";

	if (r->port)
		(void)snprintf(port, sizeof(port), ":%u", r->port);
	if (r->name[0])
		return text_format(ret, POLICY_RULE_MAX, "%s%s%s", r->below ? "*." : "", r->name, port);
	if (IN6_IS_ADDR_V4MAPPED(&r->address))
		return text_format(ret, POLICY_RULE_MAX, "%s%s",
				   inet_ntop(AF_INET, &r->address.s6_addr[12], a, sizeof(a)), port);
	return text_format(ret, POLICY_RULE_MAX, r->port ? "[%s]%s" : "%s%s",
			   inet_ntop(AF_INET6, &r->address, a, sizeof(a)), port);
}

static int rule_cmp(const struct policy_rule *a, const struct policy_rule *b)
{
	int c = memcmp(&a->address, &b->address, sizeof(a->address));

	if (c == 0)
		c = strcmp(a->name, b->name);
	return c ? c : (int)a->port - (int)b->port;
}

/* The first rule that is not before key. */
static size_t lower_bound(const struct rules *s, const struct policy_rule *key)
{
	size_t lo = 0, hi = s->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (rule_cmp(&s->v[mid], key) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int rules_add(struct rules *s, const struct policy_rule *r)
{
	size_t at = lower_bound(s, r);

	if (at < s->n && rule_cmp(&s->v[at], r) == 0)
		return 0;
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 8;
		struct policy_rule *v = reallocarray(s->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->cap = cap;
	}
	memmove(&s->v[at + 1], &s->v[at], (s->n - at) * sizeof(*s->v));
	s->v[at] = *r;
	s->n++;
	return 0;
}

static int set_add(struct policy_set *set, const struct policy_rule *r)
{
	if (set->exact.n + set->below.n + set->address.n >= POLICY_RULES_MAX)
		return -E2BIG;
	if (!r->name[0])
		return rules_add(&set->address, r);
	return rules_add(r->below ? &set->below : &set->exact, r);
}

static void set_free(struct policy_set *set)
{
	free(set->exact.v);
	free(set->below.v);
	free(set->address.v);
}

/* The rule with this name (or address) that covers the port: port-less ones sort first. */
static const struct policy_rule *rules_find(const struct rules *s, struct policy_rule *key, uint16_t port)
{
	key->port = 0;
	for (size_t i = lower_bound(s, key); i < s->n; i++) {
		const struct policy_rule *r = &s->v[i];

		if (memcmp(&r->address, &key->address, sizeof(r->address)) != 0 || strcmp(r->name, key->name) != 0)
			return NULL;
		if (port == 0 || r->port == 0 || r->port == port)
			return r;
	}
	return NULL;
}

static const struct policy_rule *set_find_name(const struct policy_set *set, const char *name, uint16_t port)
{
	struct policy_rule key = { 0 };
	const struct policy_rule *r;

	if (strlen(name) >= sizeof(key.name))
		return NULL;
	memcpy(key.name, name, strlen(name) + 1);
	r = rules_find(&set->exact, &key, port);
	for (const char *dot = strchr(name, '.'); !r && dot; dot = strchr(dot + 1, '.')) {
		memcpy(key.name, dot + 1, strlen(dot + 1) + 1);
		r = rules_find(&set->below, &key, port);
	}
	return r;
}

static const struct policy_set *builtin(void)
{
	static struct policy_set set;
	static bool made;

	for (size_t i = 0; !made && policy_builtin[i]; i++) {
		struct policy_rule r;

		if (policy_builtin[i][0] == '#' || policy_rule_parse(policy_builtin[i], &r, NULL) < 0)
			continue;
		if (set_add(&set, &r) < 0)
			return NULL;
	}
	made = true;
	return &set;
}

int policy_new(enum net_mode mode, bool builtin_list, bool allow_private, struct policy **ret)
{
	struct policy *p = calloc(1, sizeof(*p));

	if (!p || (builtin_list && !builtin())) {
		free(p);
		return -ENOMEM;
	}
	*p = (struct policy){ .mode = mode, .builtin = builtin_list, .allow_private = allow_private };
	*ret = p;
	return 0;
}

void policy_free(struct policy *p)
{
	if (!p)
		return;
	set_free(&p->own);
	free(p);
}

enum net_mode policy_mode(const struct policy *p)
{
	return p->mode;
}

int policy_allow(struct policy *p, const struct policy_rule *r)
{
	return set_add(&p->own, r);
}

static bool say(char ret_rule[static POLICY_RULE_MAX], const char *why, bool verdict)
{
	(void)snprintf(ret_rule, POLICY_RULE_MAX, "%s", why);
	return verdict;
}

bool policy_name(const struct policy *p, const char *name, uint16_t port, char ret_rule[static POLICY_RULE_MAX])
{
	const struct policy_rule *r;

	if (p->mode == NET_OPEN)
		return say(ret_rule, "open", true);
	if (p->mode != NET_RESTRICTED)
		return say(ret_rule, "network-off", false);
	r = set_find_name(&p->own, name, port);
	if (!r && p->builtin)
		r = set_find_name(builtin(), name, port);
	if (!r)
		return say(ret_rule, "not-in-allowlist", false);
	return policy_rule_format(r, ret_rule) >= 0;
}

bool policy_address(const struct policy *p, const struct in6_addr *a, uint16_t port,
		    char ret_rule[static POLICY_RULE_MAX])
{
	struct policy_rule key = { .address = *a };
	const struct policy_rule *r;
	const char *why;

	if (p->mode != NET_RESTRICTED && p->mode != NET_OPEN)
		return say(ret_rule, "network-off", false);
	r = rules_find(&p->own.address, &key, port);
	if (r)
		return policy_rule_format(r, ret_rule) >= 0;
	if (p->mode == NET_RESTRICTED)
		return say(ret_rule, "not-in-allowlist", false);
	if (!p->allow_private && policy_private(a, &why))
		return say(ret_rule, why, false);
	return say(ret_rule, "open", true);
}
