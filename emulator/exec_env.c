/* The environment a command gets: what every sandbox has, then the sandbox's own, then the command's. */

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "emulator/sandbox-internal.h"

/* TERM: there is no terminal, and "dumb" keeps programs from sending escapes into captured output. */
#define TERM_DEFAULT "TERM=dumb"
#define TERM_TERMINAL "TERM=xterm-256color"
static const char *const defaults[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"USER=root",
	"LOGNAME=root",
	"SHELL=/bin/sh",
	"LANG=C.UTF-8",
	TERM_DEFAULT,
	NULL,
};

#define ENV_TEXT_MAX (1u << 20)

void exec_env_free(char **env)
{
	for (char **p = env; p && *p; p++)
		free(*p);
	free(env);
}

static void env_freep(char ***env)
{
	exec_env_free(*env);
}

static void object_putp(struct json_object **o)
{
	json_object_put(*o);
}

static void tokener_freep(struct json_tokener **t)
{
	if (*t)
		json_tokener_free(*t);
}

static int parse(const char *json, struct json_object **ret, struct err *e)
{
	_cleanup_(tokener_freep) struct json_tokener *t = NULL;
	_cleanup_(object_putp) struct json_object *o = NULL;
	size_t n = strlen(json);

	if (n > ENV_TEXT_MAX)
		return err_set(e, ERR_TOO_LARGE, E2BIG, NULL, "env is too large");
	t = json_tokener_new_ex(4);
	if (!t)
		return err_errno(e, ENOMEM, "can't read env");
	o = json_tokener_parse_ex(t, json, (int)n + 1);
	if (json_tokener_get_error(t) != json_tokener_success || !json_object_is_type(o, json_type_object) ||
	    strspn(json + json_tokener_get_parse_end(t), " \t\r\n") != n - json_tokener_get_parse_end(t))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "env must be an object of strings");
	*ret = TAKE_PTR(o);
	return 0;
}

static bool name_ok(const char *s)
{
	if (!*s || (*s >= '0' && *s <= '9'))
		return false;
	for (; *s; s++)
		if (!(*s == '_' || (*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z')))
			return false;
	return true;
}

static int add_member(char **to, const char *name, struct json_object *v, struct err *e)
{
	const char *s;

	/* wire.md, Create. The message doesn't quote: env is secret. */
	if (!name_ok(name))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "env names must match [A-Za-z_][A-Za-z0-9_]*");
	if (!json_object_is_type(v, json_type_string))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "env.%.64s must be a string", name);
	s = json_object_get_string(v);
	if (strlen(s) != (size_t)json_object_get_string_len(v))
		return err_set(e, ERR_INVALID, EINVAL, NULL, "env.%.64s has a NUL in it", name);
	if (asprintf(to, "%s=%s", name, s) < 0) {
		*to = NULL;
		return err_errno(e, ENOMEM, "can't make the environment");
	}
	return 0;
}

/* Whether o has a member of the same name as "NAME=value". */
static bool overrides(struct json_object *o, const char *kv)
{
	size_t n = strcspn(kv, "=");
	_cleanup_free_ char *name = NULL;

	if (!o)
		return false;
	name = strndup(kv, n);
	return name && json_object_object_get_ex(o, name, NULL);
}

int exec_env_build(const char *const *base, const char *json, bool terminal, char ***ret, struct err *e)
{
	_cleanup_(object_putp) struct json_object *o = NULL;
	_cleanup_(env_freep) char **v = NULL;
	size_t n = 0, n_base = 0;
	int r;

	if (!base)
		base = defaults;
	if (json) {
		r = parse(json, &o, e);
		if (r < 0)
			return r;
	}
	while (base[n_base])
		n_base++;
	v = calloc(n_base + (o ? (size_t)json_object_object_length(o) : 0) + 1, sizeof(*v));
	if (!v)
		return err_errno(e, ENOMEM, "can't make the environment");
	for (size_t i = 0; i < n_base; i++) {
		if (overrides(o, base[i]))
			continue;
		v[n] = strdup(terminal && strcmp(base[i], TERM_DEFAULT) == 0 ? TERM_TERMINAL : base[i]);
		if (!v[n++])
			return err_errno(e, ENOMEM, "can't make the environment");
	}
	if (o) {
		json_object_object_foreach(o, key, val)
		{
			r = add_member(&v[n], key, val, e);
			if (r < 0)
				return r;
			n++;
		}
	}
	*ret = TAKE_PTR(v);
	return 0;
}
