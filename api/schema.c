#include "api/schema.h"

#include <string.h>

static void add_text(struct json_object *o, const char *name, const char *s)
{
	json_object_object_add(o, name, json_object_new_string(s));
}

static void add_number(struct json_object *o, const char *name, double d)
{
	char s[40];

	if ((double)(int64_t)d == d) {
		json_object_object_add(o, name, json_object_new_int64((int64_t)d));
		return;
	}
	(void)snprintf(s, sizeof(s), "%.10g", d);
	json_object_object_add(o, name, json_object_new_double_s(d, s));
}

static void describe_string(struct json_object *o, const struct validate_field *f)
{
	struct json_object *choices;

	add_text(o, "type", "string");
	if (f->choices) {
		choices = json_object_new_array();
		for (size_t i = 0; f->choices[i]; i++)
			json_object_array_add(choices, json_object_new_string(f->choices[i]));
		json_object_object_add(o, "enum", choices);
		return;
	}
	if (f->min > 0)
		add_number(o, "minLength", f->min);
	/* Its maximum counts bytes, and maxLength characters: what is too long for one is for the other. */
	if (f->max > 0)
		add_number(o, "maxLength", f->max);
}

static void describe_strings(struct json_object *o, const struct validate_field *f)
{
	struct json_object *values = json_object_new_object(), *names;

	add_text(o, "type", "object");
	add_text(values, "type", "string");
	json_object_object_add(o, "additionalProperties", values);
	if (f->type != VALIDATE_ENV)
		return;
	names = json_object_new_object();
	add_text(names, "pattern", "^[A-Za-z_][A-Za-z0-9_]*$");
	json_object_object_add(o, "propertyNames", names);
}

struct json_object *schema_of_field(const struct validate_field *f)
{
	struct json_object *o = json_object_new_object();

	switch (f->type) {
	case VALIDATE_STRING:
		describe_string(o, f);
		break;
	case VALIDATE_INT:
	case VALIDATE_NUMBER:
		add_text(o, "type", f->type == VALIDATE_INT ? "integer" : "number");
		if (f->min != 0 || f->max != 0) {
			add_number(o, "minimum", f->min);
			add_number(o, "maximum", f->max);
		}
		break;
	case VALIDATE_BOOL:
		add_text(o, "type", "boolean");
		break;
	case VALIDATE_STRINGS:
	case VALIDATE_ENV:
		describe_strings(o, f);
		break;
	case VALIDATE_ANY:
		break;
	}
	return o;
}

const struct validate_field *schema_find(const struct schema_fields *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		if (strcmp(t->fields[i].name, name) == 0)
			return &t->fields[i];
	return NULL;
}

struct json_object *schema_of(const struct schema_fields *t)
{
	struct json_object *o = json_object_new_object(), *members = json_object_new_object(), *required;

	required = json_object_new_array();
	for (size_t i = 0; i < t->n; i++) {
		json_object_object_add(members, t->fields[i].name, schema_of_field(&t->fields[i]));
		if (t->fields[i].required)
			json_object_array_add(required, json_object_new_string(t->fields[i].name));
	}
	add_text(o, "type", "object");
	json_object_object_add(o, "properties", members);
	if (json_object_array_length(required) > 0)
		json_object_object_add(o, "required", required);
	else
		json_object_put(required);
	return o;
}
