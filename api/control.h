#pragma once
/* What the routes under /_emulator/ that change something share. They ask for no token: whoever reaches the port of a
 * test's emulator may drive it. But a web page may not, which a browser would let reach a port of this machine. */

#include "api/api.h"

/* False after a 403: the request comes from a page that was not served here. */
bool control_allowed(struct req *r);

/* Which account is meant: `account` as it is, or the one of `key`; either may be NULL, then *ret is "". False after a
 * 422 that names the field in `where`. */
bool control_account(struct req *r, const char *where, const char *account, const char *key,
		     char ret[static ACCOUNT_ID_SIZE]);

void control_add_text(struct json_object *o, const char *name, const char *s); /* NULL: null */
void control_add_time(struct json_object *o, const char *name, int64_t ms);
