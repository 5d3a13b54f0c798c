#pragma once
/* The one place that knows which status and code an error has on the wire (wire.md, "Errors"). */

#include "emulator/base/err.h"

struct errors_answer {
	unsigned int status;
	const char *code;
	const char *detail; /* NULL: the error's own message. Else say this: that one is for the log, for it
			     * may be a strerror with a path of the host */
};

/* By reason; a reason that is not in the table goes by its kind and is its own code. */
/* For an answer that is made up (api/inject.c). check: a code whose status is not given must be a known one;
 * ERR_INVALID "invalid_fault". complete: whichever of the two is not given (0, "") follows from the other. detail:
 * a sentence for a known code. */
int errors_check_code(unsigned int status, const char *code, struct err *e);
void errors_complete(unsigned int *status, const char **code);
const char *errors_detail(const char *code);

void errors_map(const struct err *e, struct errors_answer *ret);
