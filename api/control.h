#pragma once
/* What the controls under /_emulator/ share. They ask for a token, of whatever account: it tells who may use this
 * emulator at all, and what they may do reaches every account. */

#include "api/api.h"

/* Which account is meant: `account` as it is, or the one of `key`; either may be NULL, then *ret is "". False after a
 * 422 that names the field in `where`. */
bool control_account(struct req *r, const char *where, const char *account, const char *key,
		     char ret[static ACCOUNT_ID_SIZE]);
