#include "api/validate.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

/* Both take v, which may be NULL where memory ran out. */
static bool append(struct json_object *array, struct json_object *v)
{
	if (v && json_object_array_add(array, v) == 0)
		return true;
	json_object_put(v);
	return false;
}

static bool put(struct json_object *o, const char *key, struct json_object *v)
{
	if (v && json_object_object_add(o, key, v) == 0)
		return true;
	json_object_put(v);
	return false;
}

void validate_add(struct validate_errors *errs, const char *where, const char *field, int index, const char *type,
		  const char *fmt, ...)
{
	struct json_object *item = json_object_new_object(), *loc = json_object_new_array();
	bool ok = item && loc;
	char msg[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	ok = ok && append(loc, json_object_new_string(where)) && append(loc, json_object_new_string(field));
	if (ok && index >= 0)
		ok = append(loc, json_object_new_int(index));
	ok = ok && put(item, "loc", json_object_get(loc)) && put(item, "msg", json_object_new_string(msg)) &&
	     put(item, "type", json_object_new_string(type));
	if (ok && !errs->list)
		errs->list = json_object_new_array();
	ok = ok && errs->list && append(errs->list, json_object_get(item));
	errs->lost |= !ok;
	json_object_put(loc);
	json_object_put(item);
}

bool validate_env_name(const char *s)
{
	if (!isalpha((unsigned char)*s) && *s != '_')
		return false;
	while (*++s)
		if (!isalnum((unsigned char)*s) && *s != '_')
			return false;
	return true;
}

size_t validate_strings_size(struct json_object *o)
{
	size_t n = 0;

	if (!o)
		return 0;
	json_object_object_foreach(o, key, value) n += strlen(key) + (size_t)json_object_get_string_len(value);
	return n;
}

static bool has_nul(struct json_object *v)
{
	return strlen(json_object_get_string(v)) != (size_t)json_object_get_string_len(v);
}

static void check_choice(const struct validate_field *f, const char *s, struct validate_errors *errs)
{
	char list[200] = "";
	size_t len = 0;

	for (size_t i = 0; f->choices[i]; i++) {
		const char *sep = i == 0 ? "" : f->choices[i + 1] ? ", " : " or ";

		if (strcmp(f->choices[i], s) == 0)
			return;
		if (len < sizeof(list))
			len += (size_t)snprintf(list + len, sizeof(list) - len, "%s'%s'", sep, f->choices[i]);
	}
	validate_add(errs, "body", f->name, -1, "literal_error", "Input should be %s", list);
}

static void check_string(const struct validate_field *f, struct json_object *v, const char **ret,
			 struct validate_errors *errs)
{
	if (!json_object_is_type(v, json_type_string)) {
		validate_add(errs, "body", f->name, -1, "string_type", "Input should be a valid string");
		return;
	}
	if (has_nul(v)) {
		validate_add(errs, "body", f->name, -1, "value_error", "Value error, a NUL character is not allowed");
		return;
	}
	*ret = json_object_get_string(v);
	if (f->choices)
		check_choice(f, *ret, errs);
	else if (f->min > 0 && (double)strlen(*ret) < f->min)
		validate_add(errs, "body", f->name, -1, "string_too_short", "String should have at least %g character",
			     f->min);
	else if (f->max > 0 && (double)strlen(*ret) > f->max)
		validate_add(errs, "body", f->name, -1, "string_too_long", "String should have at most %g bytes",
			     f->max);
}

/* Also false for NaN, which no comparison holds for. */
static bool in_bounds(const struct validate_field *f, double d, struct validate_errors *errs)
{
	bool bounded = f->min != 0 || f->max != 0;

	if (isnan(d) || isinf(d))
		validate_add(errs, "body", f->name, -1, "finite_number", "Input should be a finite number");
	else if (bounded && d < f->min)
		validate_add(errs, "body", f->name, -1, "greater_than_equal",
			     "Input should be greater than or equal to %.10g", f->min);
	else if (bounded && d > f->max)
		validate_add(errs, "body", f->name, -1, "less_than_equal",
			     "Input should be less than or equal to %.10g", f->max);
	else
		return true;
	return false;
}

static void check_int(const struct validate_field *f, struct json_object *v, int64_t *ret, struct validate_errors *errs)
{
	bool is_double = json_object_is_type(v, json_type_double);
	double d;

	if (!is_double && !json_object_is_type(v, json_type_int)) {
		validate_add(errs, "body", f->name, -1, "int_type", "Input should be a valid integer");
		return;
	}
	d = json_object_get_double(v);
	if (!in_bounds(f, d, errs))
		return;
	if (is_double && (d > 9e15 || d < -9e15 || (double)(int64_t)d != d))
		validate_add(errs, "body", f->name, -1, "int_from_float",
			     "Input should be a valid integer, got a number with a fractional part");
	else
		*ret = is_double ? (int64_t)d : json_object_get_int64(v);
}

static void check_number(const struct validate_field *f, struct json_object *v, double *ret,
			 struct validate_errors *errs)
{
	double d;

	if (!json_object_is_type(v, json_type_double) && !json_object_is_type(v, json_type_int)) {
		validate_add(errs, "body", f->name, -1, "float_type", "Input should be a valid number");
		return;
	}
	d = json_object_get_double(v);
	if (in_bounds(f, d, errs))
		*ret = d;
}

static void check_strings(const struct validate_field *f, struct json_object *v, struct json_object **ret,
			  struct validate_errors *errs)
{
	if (!json_object_is_type(v, json_type_object)) {
		validate_add(errs, "body", f->name, -1, "dict_type", "Input should be a valid dictionary");
		return;
	}
	/* The first fault of each member's kind is enough: names and values may be many, and secret. */
	json_object_object_foreach(v, key, value)
	{
		if (!json_object_is_type(value, json_type_string)) {
			validate_add(errs, "body", f->name, -1, "string_type", "Every value should be a valid string");
			return;
		}
		if (has_nul(value)) {
			validate_add(errs, "body", f->name, -1, "value_error",
				     "Value error, a NUL character is not allowed");
			return;
		}
		if (f->type == VALIDATE_ENV && !validate_env_name(key)) {
			validate_add(errs, "body", f->name, -1, "value_error",
				     "Value error, names must match [A-Za-z_][A-Za-z0-9_]*");
			return;
		}
	}
	*ret = v;
}

static void check_field(const struct validate_field *f, struct json_object *v, void *to, struct validate_errors *errs)
{
	switch (f->type) {
	case VALIDATE_STRING:
		check_string(f, v, to, errs);
		break;
	case VALIDATE_INT:
		check_int(f, v, to, errs);
		break;
	case VALIDATE_NUMBER:
		check_number(f, v, to, errs);
		break;
	case VALIDATE_BOOL:
		if (json_object_is_type(v, json_type_boolean))
			*(bool *)to = json_object_get_boolean(v);
		else
			validate_add(errs, "body", f->name, -1, "bool_type", "Input should be a valid boolean");
		break;
	case VALIDATE_STRINGS:
	case VALIDATE_ENV:
		check_strings(f, v, to, errs);
		break;
	case VALIDATE_ANY:
		*(struct json_object **)to = v;
		break;
	}
}

void validate_object(struct json_object *o, const struct validate_field *f, size_t n, void *into,
		     struct validate_errors *errs)
{
	for (size_t i = 0; i < n; i++) {
		struct json_object *v = NULL;

		if (json_object_object_get_ex(o, f[i].name, &v) && v)
			check_field(&f[i], v, (char *)into + f[i].offset, errs);
		else if (f[i].required)
			validate_add(errs, "body", f[i].name, -1, "missing", "Field required");
	}
}
