#pragma once
/* Shared by api/routes_exec*.c only. */

#include "api/api.h"
#include "api/validate.h"
#include "emulator/exec.h"

/* A terminal's size as a body has it. */
struct exec_size_body {
	int64_t rows, cols;
};
#define EXEC_SIZE_FIELDS 2
extern const struct validate_field exec_size_fields[EXEC_SIZE_FIELDS];

/* routes_exec_session.c: answers 202 with the state of a command, once its process is there. */
void exec_session_reply_started(struct req *r, struct exec *x);
void exec_session_add_routes(struct http *h);
