#include "emulator/fault.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "emulator/base/text.h"

struct faults {
	struct fault_rule *list;
	size_t n, cap;
	uint64_t next_id;
};

/* ---- matching ---- */

/* "*" and "{name}" match one segment that is not empty, "**" whatever comes. */
static bool path_match(const char *pattern, const char *path)
{
	while (*pattern == '/' && *path == '/') {
		size_t p = strcspn(++pattern, "/"), s = strcspn(++path, "/?");

		if (p == 2 && pattern[0] == '*' && pattern[1] == '*' && !pattern[2])
			return true;
		if (!(s > 0 && p >= 1 && (pattern[0] == '{' || (p == 1 && pattern[0] == '*'))) &&
		    !(p == s && memcmp(pattern, path, p) == 0))
			return false;
		pattern += p;
		path += s;
	}
	return !*pattern && (!*path || *path == '?');
}

static void split_route(const char *route, const char **ret_method, size_t *ret_n, const char **ret_path)
{
	const char *space = strchr(route, ' ');

	*ret_method = route;
	*ret_n = space ? (size_t)(space - route) : 0;
	*ret_path = space ? space + strspn(space, " ") : route;
}

bool fault_route_match(const char *pattern, const char *method, const char *path)
{
	const char *m, *p;
	size_t n;

	split_route(pattern, &m, &n, &p);
	if (n > 0 && !(n == 1 && *m == '*') && (strlen(method) != n || strncasecmp(method, m, n) != 0))
		return false;
	return path_match(p, path);
}

static bool rule_match(const struct fault_rule *r, const struct fault_call *c)
{
	const char *v;

	if (r->effect.dns_servfail || (r->method[0] && strcasecmp(r->method, c->method) != 0))
		return false;
	if (r->path[0] && !path_match(r->path, c->path))
		return false;
	if (r->account[0] && (!c->account || strcmp(r->account, c->account) != 0))
		return false;
	if (r->sandbox[0] && (!c->sandbox || strcmp(r->sandbox, c->sandbox) != 0))
		return false;
	if (!r->header[0])
		return true;
	v = c->header(c->arg, r->header);
	return v && (!r->header_value[0] || strcmp(v, r->header_value) == 0);
}

/* ---- how often ---- */

bool fault_rule_fires(struct fault_rule *r)
{
	r->seen++;
	if (r->nth > 0 && r->seen < r->nth)
		return false;
	if (r->times > 0 && r->hits >= r->times)
		return false;
	if (r->probability < 1 && fault_dice(&r->dice) >= r->probability)
		return false;
	r->hits++;
	return true;
}

const struct fault_rule *faults_fire(struct faults *f, const struct fault_call *c)
{
	for (size_t i = 0; i < f->n; i++)
		if (rule_match(&f->list[i], c) && fault_rule_fires(&f->list[i]))
			return &f->list[i];
	return NULL;
}

/* ---- the table ---- */

int faults_new(struct faults **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void faults_free(struct faults *f)
{
	if (!f)
		return;
	free(f->list);
	free(f);
}

int faults_add(struct faults *f, const struct fault_rule *r, const struct fault_rule **ret, struct err *e)
{
	struct fault_rule *own;

	if (f->n >= FAULTS_MAX)
		return err_set(e, ERR_CAPACITY, ENOSPC, "too_many_faults",
			       "there are %d fault rules already; remove some: DELETE /_emulator/faults", FAULTS_MAX);
	if (f->n == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 8;
		struct fault_rule *p = reallocarray(f->list, cap, sizeof(*p));

		if (!p)
			return err_errno(e, ENOMEM, "fault rules");
		f->list = p;
		f->cap = cap;
	}
	own = &f->list[f->n++];
	*own = *r;
	own->seen = own->hits = 0;
	own->dice = r->seed;
	(void)snprintf(own->id, sizeof(own->id), "flt_%llu", (unsigned long long)++f->next_id);
	*ret = own;
	return 0;
}

static struct fault_rule *find(const struct faults *f, const char *id)
{
	for (size_t i = 0; i < f->n; i++)
		if (strcmp(f->list[i].id, id) == 0)
			return &f->list[i];
	return NULL;
}

int faults_get(const struct faults *f, const char *id, const struct fault_rule **ret, struct err *e)
{
	*ret = find(f, id);
	if (*ret)
		return 0;
	return err_set(e, ERR_NOT_FOUND, ENOENT, "fault_not_found", "there is no fault rule \"%.40s\"", id);
}

static void remove_at(struct faults *f, size_t i)
{
	memmove(&f->list[i], &f->list[i + 1], (f->n - i - 1) * sizeof(f->list[0]));
	f->n--;
}

int faults_remove(struct faults *f, const char *id, struct err *e)
{
	const struct fault_rule *r;
	int k = faults_get(f, id, &r, e);

	if (k >= 0)
		remove_at(f, (size_t)(r - f->list));
	return k;
}

size_t faults_clear(struct faults *f, const char *account)
{
	size_t before = f->n;

	for (size_t i = f->n; i > 0; i--)
		if (!account || strcmp(f->list[i - 1].account, account) == 0)
			remove_at(f, i - 1);
	return before - f->n;
}

size_t faults_count(const struct faults *f)
{
	return f ? f->n : 0;
}

const struct fault_rule *faults_at(const struct faults *f, size_t i)
{
	return i < f->n ? &f->list[i] : NULL;
}

const struct fault_rule *faults_hit(struct faults *f, const char *id)
{
	struct fault_rule *r = find(f, id);

	if (r) {
		r->seen++;
		r->hits++;
	}
	return r;
}
