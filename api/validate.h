#pragma once
/* Typed members of a JSON object, by table, with FastAPI's 422 for what is wrong: every fault of a body in
 * one answer. Strings, objects and arrays that come out are borrowed from the JSON object.
 *
 * A member that is absent or null leaves its variable as it was, unless it is required. true is not 1, "1"
 * is not 1, 1.0 is 1. No string that comes out has a NUL inside. */

#include <json-c/json.h>

#include "api/http.h"

enum validate_type {
	VALIDATE_STRING,  /* const char *; with choices: one of those; max: bytes */
	VALIDATE_INT,	  /* int64_t, within min..max */
	VALIDATE_NUMBER,  /* double, within min..max */
	VALIDATE_BOOL,	  /* bool */
	VALIDATE_STRINGS, /* struct json_object *: an object of strings */
	VALIDATE_ENV,	  /* the same, names [A-Za-z_][A-Za-z0-9_]* */
	VALIDATE_ANY,	  /* struct json_object *, unchecked: the name is known and that is all */
};

struct validate_field {
	const char *name;
	enum validate_type type;
	bool required;
	double min, max;	    /* both 0: no bounds */
	const char *const *choices; /* NULL-terminated, or NULL */
	size_t offset;		    /* of the variable in the struct handed to validate_object */
};

/* Collected faults: NULL while there are none. */
struct validate_errors {
	struct json_object *list;
	bool lost; /* memory ran out for one: the request is refused all the same */
};

void validate_object(struct json_object *o, const struct validate_field *f, size_t n, void *into,
		     struct validate_errors *errs);
/* Adds a fault. index < 0: the field itself, else the element of an array. */
void validate_add(struct validate_errors *errs, const char *where, const char *field, int index, const char *type,
		  const char *fmt, ...) _printf_(6, 7);

/* True when there were faults: the request is answered with all of them. Takes the list. */
bool validate_reply(struct req *r, struct validate_errors *errs);

/* Names members the table does not have in X-Orkestr-Divergence (a few), and in the log once each. */
void validate_unknown(struct req *r, struct json_object *o, const struct validate_field *f, size_t n);

bool validate_env_name(const char *s);
/* Bytes of the names and values of an object of strings (NULL: 0). */
size_t validate_strings_size(struct json_object *o);
