#pragma once
/* From a request target to a route: percent-decoding and matching. Pure functions; no allocation.
 *
 * Decoding is ours, not libmicrohttpd's: a bad escape or a NUL is refused instead of being passed on.
 * An empty segment ("//", a trailing slash) matches nothing. */

#include "api/http.h"

#define ROUTER_MAX_SEGMENTS 12
#define ROUTER_MAX_PARAMS 4
#define ROUTER_MAX_QUERY 32
#define ROUTER_ALLOW_SIZE 80

struct router_table {
	const struct route *routes;
	size_t n;
};

struct router_param {
	const char *name; /* points into the pattern: name_len bytes */
	size_t name_len;
	const char *value;
};

struct router_match {
	const struct route *route;
	struct router_param params[ROUTER_MAX_PARAMS];
	size_t n_params;
};

struct router_query {
	struct {
		const char *name, *value;
	} items[ROUTER_MAX_QUERY];
	size_t n;
};

/* Decodes %XX in place (and "+" as a space if plus). -EINVAL: a bad escape or a NUL. */
int router_decode(char *s, bool plus);

/* Splits "a=1&b=2" in place and decodes. -EINVAL, or -E2BIG beyond ROUTER_MAX_QUERY items. */
int router_parse_query(char *s, struct router_query *ret);
const char *router_query_get(const struct router_query *q, const char *name); /* the last one, or NULL */

/* Finds the route for a path, which is decoded in place, segment by segment. HEAD finds GET's. Of several
 * patterns that match, the one with a literal at the first difference wins. 0; -EINVAL for a bad escape;
 * -ENOENT: no such path; -EPERM: the path exists, not with this method, and allow names those it has. */
int router_find(const struct router_table *tables, size_t n_tables, const char *method, char *path,
		struct router_match *ret, char allow[static ROUTER_ALLOW_SIZE]);
