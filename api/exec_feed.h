#pragma once
/* A streamed exec's answer (wire.md, "Exec"): output becomes chunks in a bounded queue, the queue becomes
 * the body of a response. One object for one exec; it frees itself when both the command and the
 * response are over. */

#include "api/http.h"
#include "emulator/exec.h"

struct exec_feed;

/* detach: the command goes on when the reader leaves. NULL out of memory. */
struct exec_feed *exec_feed_new(struct req *r, bool ndjson, bool detach);

/* For exec_start. */
void exec_feed_events(struct exec_feed *f, struct exec_events *ret);

/* After exec_start: answers 200 and begins to send. */
void exec_feed_begin(struct exec_feed *f, struct exec *x);

/* When exec_start failed. */
void exec_feed_discard(struct exec_feed *f);

/* "SIGKILL"; "SIG34" for one without a name. For the wire's `signal`. */
#define EXEC_SIGNAL_NAME_SIZE 16
void exec_signal_name(int sig, char ret[static EXEC_SIGNAL_NAME_SIZE]);
