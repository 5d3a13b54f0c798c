#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "api/seed.h"
#include "api/validate.h"
#include "emulator/base/clock.h"
#include "emulator/base/text.h"
#include "rootfs/json.h"

#define PATH_TEXT 256
#define COUNT_MAX 1000 /* accounts, sandboxes; files or commands of one */

/* Where in the text the reader is, and what is wrong there. */
struct reader {
	char path[PATH_TEXT];
	struct err *e;
	bool failed;
};

static void fail(struct reader *r, const char *name, const char *fmt, ...) _printf_(3, 4);
static void fail(struct reader *r, const char *name, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	if (r->failed)
		return; /* the first one is told */
	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	r->failed = true;
	(void)err_set(r->e, ERR_INVALID, EINVAL, "invalid_seed", "%s%s%s%s%s", r->path, *r->path && *name ? "." : "",
		      name, *r->path || *name ? ": " : "", what);
}

/* ---- members ---- */

static struct json_object *member(struct json_object *o, const char *name)
{
	struct json_object *v = NULL;

	return json_object_object_get_ex(o, name, &v) ? v : NULL;
}

/* A member that is absent or null leaves *ret as it was. */
static void get_string(struct reader *r, struct json_object *o, const char *name, bool required, const char **ret)
{
	struct json_object *v = member(o, name);

	if (!v && required)
		fail(r, name, "is missing");
	if (!v)
		return;
	if (!json_object_is_type(v, json_type_string))
		fail(r, name, "must be a string");
	else if (strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v))
		fail(r, name, "must not have a NUL character");
	else
		*ret = json_object_get_string(v);
}

static void get_choice(struct reader *r, struct json_object *o, const char *name, const char *const *choices,
		       const char **ret)
{
	const char *s = NULL;
	char all[120] = "";
	size_t n = 0;

	get_string(r, o, name, false, &s);
	for (size_t i = 0; s && choices[i]; i++) {
		if (strcmp(choices[i], s) == 0) {
			*ret = choices[i];
			return;
		}
		n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "", choices[i]);
	}
	if (s)
		fail(r, name, "must be one of %s", all);
}

static void get_int(struct reader *r, struct json_object *o, const char *name, int64_t min, int64_t max, int64_t *ret)
{
	struct json_object *v = member(o, name);

	if (!v)
		return;
	if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < min || json_object_get_int64(v) > max)
		fail(r, name, "must be a whole number from %lld to %lld", (long long)min, (long long)max);
	else
		*ret = json_object_get_int64(v);
}

static void get_bool(struct reader *r, struct json_object *o, const char *name, bool *ret)
{
	struct json_object *v = member(o, name);

	if (v && !json_object_is_type(v, json_type_boolean))
		fail(r, name, "must be true or false");
	else if (v)
		*ret = json_object_get_boolean(v);
}

/* An object of strings, as its JSON text. */
static void get_strings(struct reader *r, struct json_object *o, const char *name, bool env, const char **ret)
{
	struct json_object *v = member(o, name);

	if (!v)
		return;
	if (!json_object_is_type(v, json_type_object)) {
		fail(r, name, "must be an object of strings");
		return;
	}
	json_object_object_foreach(v, key, value)
	{
		if (!json_object_is_type(value, json_type_string))
			fail(r, name, "\"%.40s\" must be a string", key);
		else if (env && !validate_env_name(key))
			fail(r, name, "\"%.40s\" is no name of an environment variable", key);
	}
	*ret = json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static void only(struct reader *r, struct json_object *o, const char *const *names)
{
	if (!json_object_is_type(o, json_type_object)) {
		fail(r, "", "must be an object");
		return;
	}
	json_object_object_foreach(o, key, value)
	{
		size_t i;

		(void)value;
		for (i = 0; names[i] && strcmp(names[i], key) != 0; i++)
			;
		if (!names[i])
			fail(r, "", "\"%.40s\" is not known here", key);
	}
}

/* Each element of an array member: one(r, element, &(*ret)[i], arg). The array is owned by the seed. */
typedef void (*element_fn)(struct reader *r, struct json_object *o, void *to, void *arg);

static void get_array(struct reader *r, struct json_object *o, const char *name, size_t size, void **ret, size_t *ret_n,
		      element_fn one, void *arg)
{
	struct json_object *v = member(o, name);
	size_t n, len = strlen(r->path);

	if (!v)
		return;
	if (!json_object_is_type(v, json_type_array) || json_object_array_length(v) > COUNT_MAX) {
		fail(r, name, "must be an array of at most %d", COUNT_MAX);
		return;
	}
	n = json_object_array_length(v);
	*ret = calloc(MAX(n, (size_t)1), size);
	if (!*ret) {
		fail(r, name, "out of memory");
		return;
	}
	*ret_n = n;
	for (size_t i = 0; i < n; i++) {
		(void)snprintf(r->path + len, sizeof(r->path) - len, "%s%s[%zu]", len ? "." : "", name, i);
		one(r, json_object_array_get_idx(v, i), (char *)*ret + i * size, arg);
		r->path[len] = '\0';
	}
}

/* ---- accounts ---- */

static void read_scopes(struct reader *r, struct json_object *o, unsigned int *ret)
{
	struct json_object *v = member(o, "scopes");

	if (!v)
		return;
	if (!json_object_is_type(v, json_type_array)) {
		fail(r, "scopes", "must be an array of read and write");
		return;
	}
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *item = json_object_array_get_idx(v, i);
		unsigned int one = 0;

		if (!json_object_is_type(item, json_type_string) ||
		    account_scopes_parse(json_object_get_string(item), &one) < 0)
			fail(r, "scopes", "must be an array of read and write");
		*ret |= one;
	}
}

static void get_number(struct reader *r, struct json_object *o, const char *name, double min, double max, double *ret)
{
	struct json_object *v = member(o, name);
	double d = v ? json_object_get_double(v) : 0;

	if (!v)
		return;
	if ((!json_object_is_type(v, json_type_double) && !json_object_is_type(v, json_type_int)) || !(d >= min) ||
	    d > max)
		fail(r, name, "must be a number from %g to %g", min, max);
	else
		*ret = d;
}

static void read_account(struct reader *r, struct json_object *o, void *to, void *arg)
{
	static const char *const names[] = { "account",	   "key",  "plan",    "scopes",	       "label",
					     "expires_at", "rate", "revoked", "gb_hours_used", "cpu_hours_used",
					     NULL };
	static const char *const plans[] = { "free", "pro", "team", NULL };
	const char *plan = "team", *expires = NULL, *rate = NULL;
	struct seed_account *a = to;
	(void)arg;

	only(r, o, names);
	if (r->failed)
		return;
	get_string(r, o, "key", true, &a->spec.key);
	get_string(r, o, "account", false, &a->spec.account);
	get_string(r, o, "label", false, &a->spec.label);
	get_choice(r, o, "plan", plans, &plan);
	get_string(r, o, "expires_at", false, &expires);
	get_string(r, o, "rate", false, &rate);
	get_bool(r, o, "revoked", &a->revoked);
	read_scopes(r, o, &a->spec.scopes);
	a->has_usage = member(o, "gb_hours_used") || member(o, "cpu_hours_used");
	get_number(r, o, "gb_hours_used", 0, 1e6, &a->gb_hours);
	get_number(r, o, "cpu_hours_used", 0, 1e6, &a->cpu_hours);
	(void)plan_parse(plan, &a->spec.plan);
	if (expires && clock_parse_iso(expires, &a->spec.expires_ms) < 0)
		fail(r, "expires_at", "must be a time as 2026-05-01T12:00:00Z");
	if (rate && rate_limit_parse(rate, &a->spec.rate) < 0)
		fail(r, "rate", "must be REQUESTS/SECONDS, as in 60/60");
}

/* ---- sandboxes ---- */

static void read_mode(struct reader *r, struct json_object *o, uint32_t *ret)
{
	const char *s = NULL;
	char *end;
	unsigned long v;

	*ret = UINT32_MAX;
	get_string(r, o, "mode", false, &s);
	if (!s)
		return;
	v = strtoul(s, &end, 8);
	if (!*s || strspn(s, "01234567") != strlen(s) || *end || v > 07777)
		fail(r, "mode", "must be octal digits, as in \"0644\"");
	else
		*ret = (uint32_t)v;
}

static void read_file(struct reader *r, struct json_object *o, void *to, void *arg)
{
	static const char *const names[] = { "path", "content", "encoding", "mode", NULL };
	static const char *const encodings[] = { "utf-8", "base64", NULL };
	const char *encoding = "utf-8", *content = NULL;
	struct seed_file *f = to;
	ssize_t n;
	(void)arg;

	only(r, o, names);
	if (r->failed)
		return;
	get_string(r, o, "path", true, &f->path);
	if (f->path && f->path[0] != '/')
		fail(r, "path", "must be absolute");
	get_string(r, o, "content", true, &content);
	get_choice(r, o, "encoding", encodings, &encoding);
	read_mode(r, o, &f->mode);
	if (r->failed || !content)
		return;
	f->n = strlen(content);
	f->content = malloc(f->n / 4 * 3 + 3 + f->n);
	if (!f->content) {
		fail(r, "content", "out of memory");
		return;
	}
	memcpy(f->content, content, f->n);
	if (strcmp(encoding, "base64") != 0)
		return;
	n = text_base64_decode(content, f->n, f->content);
	if (n < 0)
		fail(r, "content", "is not base64");
	f->n = n < 0 ? 0 : (size_t)n;
}

static void read_argv(struct reader *r, struct json_object *v, struct seed_command *c)
{
	size_t n = json_object_array_length(v);

	c->argv = n > 0 && n <= COUNT_MAX ? calloc(n + 1, sizeof(*c->argv)) : NULL;
	if (!c->argv)
		fail(r, "command", "must have 1 to %d words", COUNT_MAX);
	for (size_t i = 0; c->argv && i < n; i++) {
		struct json_object *w = json_object_array_get_idx(v, i);

		if (!json_object_is_type(w, json_type_string))
			fail(r, "command", "must be an array of strings");
		c->argv[i] = json_object_get_string(w);
	}
}

/* "command line", or {"command": it or an array, "timeout_seconds"}. */
static void read_command(struct reader *r, struct json_object *o, void *to, void *arg)
{
	static const char *const names[] = { "command", "timeout_seconds", NULL };
	struct seed_command *c = to;
	struct json_object *v = o;
	int64_t timeout = 0;
	(void)arg;

	if (!json_object_is_type(o, json_type_string)) {
		only(r, o, names);
		if (r->failed)
			return;
		v = member(o, "command");
		get_int(r, o, "timeout_seconds", 1, EXEC_MAX_TIMEOUT_S, &timeout);
		c->timeout_s = (uint32_t)timeout;
	}
	if (json_object_is_type(v, json_type_array))
		read_argv(r, v, c);
	else if (json_object_is_type(v, json_type_string) && *json_object_get_string(v))
		c->command = json_object_get_string(v);
	else
		fail(r, v == o ? "" : "command", "must be a command line or an array of words");
}

static void read_owner(struct reader *r, struct json_object *o, const struct seed *s, struct seed_sandbox *sb)
{
	const char *account = NULL;

	sb->account = SIZE_MAX;
	get_string(r, o, "key", false, &sb->key);
	get_string(r, o, "account", false, &account);
	if (!account && !sb->key)
		fail(r, "key", "is missing: whose sandbox is it? Give key, or account with a name from accounts");
	for (size_t i = 0; account && i < s->n_accounts; i++)
		if (s->accounts[i].spec.account && strcmp(s->accounts[i].spec.account, account) == 0)
			sb->account = i;
	if (account && sb->account == SIZE_MAX)
		fail(r, "account", "\"%.40s\" is not the account of any in accounts", account);
	if (account && sb->key)
		fail(r, "account", "give either key or account");
}

static void read_spec(struct reader *r, struct json_object *o, struct sandbox_spec *spec)
{
	static const char *const sizes[] = { "small", "medium", "large", NULL };
	static const char *const networks[] = { "off", "restricted", "open", NULL };
	static const char *const regions[] = { "fsn1", "hel1", NULL };
	int64_t memory = 0, timeout = 0;
	double cpu = 0;

	*spec = (struct sandbox_spec){ .network = "off", .env = "{}", .metadata = "{}" };
	get_string(r, o, "template", true, &spec->template_name);
	get_choice(r, o, "size", sizes, &spec->size);
	get_choice(r, o, "network", networks, &spec->network);
	get_choice(r, o, "region", regions, &spec->region);
	get_number(r, o, "cpu", 0.01, 1024, &cpu);
	get_int(r, o, "memory_mb", 16, 1 << 24, &memory);
	get_int(r, o, "timeout_seconds", 10, 3600, &timeout);
	get_strings(r, o, "env", true, &spec->env);
	get_strings(r, o, "metadata", false, &spec->metadata);
	spec->cpu_millis = (uint32_t)(cpu * 1000 + 0.5);
	spec->memory_mb = (uint32_t)memory;
	spec->timeout_s = (uint32_t)timeout;
	if (spec->size && (spec->cpu_millis || spec->memory_mb))
		fail(r, "size", "give either size or cpu and memory_mb");
}

static void read_sandbox(struct reader *r, struct json_object *o, void *to, void *arg)
{
	static const char *const names[] = {
		"key", "account",  "template", "size", "cpu",	 "memory_mb", "network", "region", "timeout_seconds",
		"env", "metadata", "files",    "run",  "paused", NULL
	};
	struct seed_sandbox *sb = to;

	only(r, o, names);
	if (r->failed)
		return;
	read_owner(r, o, arg, sb);
	read_spec(r, o, &sb->spec);
	get_array(r, o, "files", sizeof(*sb->files), (void **)&sb->files, &sb->n_files, read_file, NULL);
	get_array(r, o, "run", sizeof(*sb->commands), (void **)&sb->commands, &sb->n_commands, read_command, NULL);
	get_bool(r, o, "paused", &sb->paused);
}

/* ---- the whole ---- */

void seed_free(struct seed *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_sandboxes; i++) {
		struct seed_sandbox *sb = &s->sandboxes[i];

		for (size_t k = 0; k < sb->n_files; k++)
			free(sb->files[k].content);
		for (size_t k = 0; k < sb->n_commands; k++)
			free(sb->commands[k].argv);
		free(sb->files);
		free(sb->commands);
	}
	free(s->sandboxes);
	free(s->accounts);
	json_object_put(s->text);
	free(s);
}

int seed_parse(struct json_object *o, struct seed **ret, struct err *e)
{
	static const char *const names[] = { "seed", "accounts", "sandboxes", NULL };
	struct seed *s = calloc(1, sizeof(*s));
	struct reader r = { .e = e };
	int64_t seed = -1;

	if (!s)
		return err_errno(e, ENOMEM, "the seed");
	s->text = json_object_get(o);
	only(&r, o, names);
	if (!r.failed) {
		get_int(&r, o, "seed", 0, INT64_MAX, &seed);
		get_array(&r, o, "accounts", sizeof(*s->accounts), (void **)&s->accounts, &s->n_accounts, read_account,
			  NULL);
		get_array(&r, o, "sandboxes", sizeof(*s->sandboxes), (void **)&s->sandboxes, &s->n_sandboxes,
			  read_sandbox, s);
	}
	if (r.failed) {
		seed_free(s);
		return -EINVAL;
	}
	s->has_seed = seed >= 0;
	s->seed = (uint64_t)seed;
	*ret = s;
	return 0;
}

int seed_parse_text(const char *text, size_t n, struct seed **ret, struct err *e)
{
	_cleanup_json_ struct json_object *o = NULL;
	size_t at, line = 1, start = 0;
	int r = json_parse_at(text, n, (struct json_limits){ 31, SIZE_MAX }, &o, &at);

	if (r == -ENOMEM)
		return err_errno(e, ENOMEM, "the seed");
	for (size_t i = 0; i < at; i++) {
		line += text[i] == '\n';
		start = text[i] == '\n' ? i + 1 : start;
	}
	if (r < 0)
		return err_set(e, ERR_INVALID, EINVAL, "invalid_seed", "line %zu, column %zu: not JSON", line,
			       at - start + 1);
	return seed_parse(o, ret, e);
}
