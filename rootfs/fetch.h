#pragma once
/* Downloads by the curl program: proxies, CA bundles and HTTP versions are its business, and the daemon
 * does not link a TLS library for something only `template build` does. Builder (CLI) only. */

#include "emulator/base/err.h"

struct buf;

/* The body of url into out (bounded by its maximum). ERR_UNAVAILABLE when curl is missing, ERR_TOO_LARGE,
 * ERR_TIMEOUT, ERR_IO with curl's own words. accept: an Accept header, or NULL. */
int fetch(const char *url, const char *accept, uint32_t timeout_s, struct buf *out, struct err *e);

/* True if a GET of url answers 2xx within the seconds. */
bool fetch_answers(const char *url, uint32_t timeout_s);
