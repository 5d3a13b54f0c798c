/* A request's target: path and query, from the bytes of the request line to a route and its parameters. */

#include "api/router.h"
#include "tests/fuzz/fuzz.h"

static void nothing(struct req *r _unused_)
{
}

static const struct route routes[] = {
	{ "POST", "/v1/sandboxes", 2, 100, nothing, NULL, NULL },
	{ "GET", "/v1/sandboxes", 1, 0, nothing, NULL, NULL },
	{ "GET", "/v1/sandboxes/limits", 1, 0, nothing, NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}", 1, 0, nothing, NULL, NULL },
	{ "DELETE", "/v1/sandboxes/{id}", 2, 0, nothing, NULL, NULL },
	{ "POST", "/v1/sandboxes/{id}/exec", 2, 100, nothing, NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}/exec/{exec_id}/stream", 1, 0, nothing, NULL, NULL },
	{ "GET", "/v1/sandboxes/{id}/files", 1, 0, nothing, NULL, NULL },
};

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const struct router_table table = { routes, ARRAY_SIZE(routes) };
	static const char *const methods[] = { "GET", "POST", "DELETE", "HEAD", "PUT" };
	struct router_match m = { 0 };
	struct router_query q = { 0 };
	char allow[ROUTER_ALLOW_SIZE], *s, *query;
	int r;

	if (n < 1)
		return 0;
	s = fuzz_string(p + 1, n - 1);
	query = strchr(s, '?');
	if (query)
		*query++ = '\0';
	r = router_find(&table, 1, methods[p[0] % ARRAY_SIZE(methods)], s, &m, allow);
	fuzz_check(r == 0 || r == -EINVAL || r == -ENOENT || r == -EPERM);
	if (r == -EPERM)
		fuzz_check(strlen(allow) > 0);
	for (size_t i = 0; r == 0 && i < m.n_params; i++)
		fuzz_check(m.params[i].value && *m.params[i].value && m.params[i].name_len > 0);
	if (router_parse_query(query, &q) == 0) {
		fuzz_check(q.n <= ROUTER_MAX_QUERY);
		for (size_t i = 0; i < q.n; i++)
			fuzz_check(router_query_get(&q, q.items[i].name) && strlen(q.items[i].value) < n);
	}
	free(s);
	return 0;
}
