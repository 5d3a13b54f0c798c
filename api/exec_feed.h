#pragma once
/* A streamed exec's answer (wire.md, "Exec"): a reader's events become chunks, the chunks become the body
 * of a response. One object for one response; it frees itself when that is over. */

#include "api/http.h"
#include "emulator/exec.h"

struct exec_feed_options {
	bool ndjson;   /* else Server-Sent Events */
	bool primary;  /* see exec_reader_config */
	bool announce; /* a first chunk without data, so that the id is known before there is output */
	uint64_t after;
};

/* Answers: 200 and the stream, 204 if it was read to its end already, or an error. False: an error, and
 * the exec has no reader. */
bool exec_feed_start(struct req *r, struct exec *x, const struct exec_feed_options *o);
