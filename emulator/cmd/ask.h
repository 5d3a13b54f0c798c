#pragma once
/* A question to a running emulator, for subcommands that show what it knows: one GET, one JSON answer. */

#include <json-c/json.h>

#include "emulator/base/err.h"

struct ask_target {
	const char *url; /* http://HOST[:PORT]; NULL: $ORKESTR_BASE_URL, else where `serve` listens by default */
	const char *key; /* NULL: $ORKESTR_API_KEY */
};

/* *ret is the caller's (json_object_put). An answer that is not 200 is ERR_IO with what the emulator said. */
int ask_json(const struct ask_target *t, const char *path, struct json_object **ret, struct err *e);
