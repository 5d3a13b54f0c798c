#include "api/router.h"

#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"

int router_decode(char *s, bool plus)
{
	char *o = s;

	for (; *s; s++) {
		int hi, lo;

		if (*s == '+' && plus) {
			*o++ = ' ';
			continue;
		}
		if (*s != '%') {
			*o++ = *s;
			continue;
		}
		hi = text_hex_value(s[1]);
		lo = hi < 0 ? -1 : text_hex_value(s[2]);
		if (lo < 0 || (hi == 0 && lo == 0))
			return -EINVAL;
		*o++ = (char)(hi << 4 | lo);
		s += 2;
	}
	*o = '\0';
	return 0;
}

int router_parse_query(char *s, struct router_query *ret)
{
	ret->n = 0;
	while (s && *s) {
		char *next = strchr(s, '&'), *value;

		if (next)
			*next++ = '\0';
		if (*s) {
			if (ret->n == ROUTER_MAX_QUERY)
				return -E2BIG;
			value = strchr(s, '=');
			if (value)
				*value++ = '\0';
			if (router_decode(s, true) < 0 || (value && router_decode(value, true) < 0))
				return -EINVAL;
			ret->items[ret->n].name = s;
			ret->items[ret->n++].value = value ? value : "";
		}
		s = next;
	}
	return 0;
}

const char *router_query_get(const struct router_query *q, const char *name)
{
	for (size_t i = q->n; i > 0; i--)
		if (strcmp(q->items[i - 1].name, name) == 0)
			return q->items[i - 1].value;
	return NULL;
}

/* Splits "/a/b" into its decoded segments; the count, -EINVAL, or -ENOENT for what can match nothing. */
static int split_path(char *path, const char *ret[static ROUTER_MAX_SEGMENTS])
{
	int n = 0;

	if (*path != '/')
		return -ENOENT;
	do {
		char *s = ++path;

		path = strchr(s, '/');
		if (path)
			*path = '\0';
		if (n == ROUTER_MAX_SEGMENTS)
			return -ENOENT;
		if (router_decode(s, false) < 0)
			return -EINVAL;
		ret[n++] = s;
	} while (path);
	return n;
}

/* True if the pattern matches; *ret_score is larger the earlier its literals stand. */
static bool match_pattern(const char *pattern, const char *const *seg, int n, struct router_match *ret,
			  unsigned int *ret_score)
{
	unsigned int score = 0;

	ret->n_params = 0;
	for (int i = 0; i < n; i++) {
		const char *p = pattern + 1;
		size_t len;

		if (*pattern != '/' || !*seg[i])
			return false;
		len = strcspn(p, "/");
		pattern = p + len;
		score <<= 1;
		if (*p == '{') {
			struct router_param *q;

			if (ret->n_params == ROUTER_MAX_PARAMS)
				return false;
			q = &ret->params[ret->n_params++];
			*q = (struct router_param){ .name = p + 1, .name_len = len - 2, .value = seg[i] };
			continue;
		}
		if (strlen(seg[i]) != len || memcmp(seg[i], p, len) != 0)
			return false;
		score |= 1;
	}
	*ret_score = score;
	return *pattern == '\0';
}

static void add_method(char allow[static ROUTER_ALLOW_SIZE], const char *method)
{
	size_t len = strlen(allow), n = strlen(method);

	for (const char *p = allow; (p = strstr(p, method)); p += n)
		if ((p == allow || p[-1] == ' ') && (p[n] == '\0' || p[n] == ','))
			return;
	(void)snprintf(allow + len, ROUTER_ALLOW_SIZE - len, "%s%s", len > 0 ? ", " : "", method);
}

int router_find(const struct router_table *tables, size_t n_tables, const char *method, char *path,
		struct router_match *ret, char allow[static ROUTER_ALLOW_SIZE])
{
	const char *want = strcmp(method, "HEAD") == 0 ? "GET" : method;
	const char *seg[ROUTER_MAX_SEGMENTS];
	unsigned int best = 0;
	int n = split_path(path, seg);

	allow[0] = '\0';
	ret->route = NULL;
	ret->n_params = 0;
	if (n < 0)
		return n;
	for (size_t t = 0; t < n_tables; t++)
		for (size_t i = 0; i < tables[t].n; i++) {
			const struct route *r = &tables[t].routes[i];
			struct router_match m;
			unsigned int score;

			if (!match_pattern(r->pattern, seg, n, &m, &score))
				continue;
			add_method(allow, r->method);
			if (strcmp(r->method, "GET") == 0)
				add_method(allow, "HEAD");
			if (strcmp(r->method, want) != 0 || (ret->route && score <= best))
				continue;
			best = score;
			*ret = m;
			ret->route = r;
		}
	if (ret->route)
		return 0;
	return allow[0] ? -EPERM : -ENOENT;
}
