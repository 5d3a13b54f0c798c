#pragma once
/* What goes wrong with a request on purpose: a fault rule that fired for it (emulator/fault.h), or the rule in its own
 * X-Orkestr-Fault header; and the latency of a profile. Called by http.c and reply.c at the points where something
 * can go wrong. A request of a server without rules, header and profile costs a look at two pointers and for the
 * header. Nothing under /_emulator/ ever goes wrong. */

#include "api/req.h"

/* After the checks, before the body. False: the connection was reset, answer nothing. May have answered. */
bool inject_begin(struct req *r);
/* True while it has to wait; the request is resumed when it is over. */
bool inject_waits(struct req *r);

/* The rule gives the answer, no handler does. */
bool inject_answers(const struct req *r);
void inject_answer(struct req *r);
void inject_header(struct req *r); /* what every answer to such a request says */

bool inject_breaks_answer(struct req *r); /* nothing is sent, the connection was reset */
bool inject_breaks_body(const struct req *r);
bool inject_breaks_stream(struct req *r); /* it has sent enough: reset by now */
struct MHD_Response *inject_half(const struct req *r, const void *p, size_t n);

/* connect(2), "AF_UNSPEC": the peer of a TCP connection gets a reset at once. */
void inject_reset(int sock);

void inject_free(struct req *r);
