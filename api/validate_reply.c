/* What validation has to say to the client; apart from validate.c, which knows no request. */

#include "api/validate.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "emulator/base/log.h"
#include "emulator/base/text.h"

#define UNKNOWN_NAMED 5	  /* at most this many a request */
#define UNKNOWN_LOGGED 64 /* and this many different ones in the log of a run */
#define UNKNOWN_NAME_MAX 40

bool validate_reply(struct req *r, struct validate_errors *errs)
{
	struct json_object *o;
	struct err e;

	if (errs->lost) {
		json_object_put(TAKE_PTR(errs->list));
		(void)err_set(&e, ERR_CAPACITY, ENOMEM, "capacity", "out of memory while the request was checked");
		req_reply_err(r, &e);
		return true;
	}
	if (!errs->list)
		return false;
	o = json_object_new_object();
	json_object_object_add(o, "detail", TAKE_PTR(errs->list));
	json_object_object_add(o, "code", json_object_new_string("validation_error"));
	req_set_code(r, "validation_error");
	req_reply_json(r, 422, o);
	return true;
}

static void log_once(const char *name)
{
	static char seen[UNKNOWN_LOGGED][UNKNOWN_NAME_MAX + 1];
	static size_t n;

	for (size_t i = 0; i < n; i++)
		if (strcmp(seen[i], name) == 0)
			return;
	if (n == UNKNOWN_LOGGED)
		return;
	(void)snprintf(seen[n++], sizeof(seen[0]), "%s", name);
	log_info("a request's field \"%s\" is not known here and ignored", name);
}

void validate_unknown(struct req *r, struct json_object *o, const struct validate_field *f, size_t n)
{
	int named = 0;

	json_object_object_foreach(o, key, value)
	{
		char name[UNKNOWN_NAME_MAX + 1], slug[UNKNOWN_NAME_MAX + 20];
		size_t i;

		(void)value;
		for (i = 0; i < n && strcmp(f[i].name, key) != 0; i++)
			;
		if (i < n || named == UNKNOWN_NAMED)
			continue;
		named++;
		(void)snprintf(name, sizeof(name), "%.*s", UNKNOWN_NAME_MAX, key);
		/* A header's token: what else a client wrote stays out of it. */
		for (i = 0; name[i]; i++)
			if (!isalnum((unsigned char)name[i]) && !strchr("_.-", name[i]))
				name[i] = '?';
		(void)text_format(slug, sizeof(slug), "ignored-field:%s", name);
		req_divergence(r, slug);
		log_once(name);
	}
}
