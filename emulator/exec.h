#pragma once
/* One command in a sandbox, seen from the daemon: its pipes, its output, its end.
 *
 * Output is either collected (head and tail of at most EXEC_OUTPUT_MAX bytes a stream) or handed on as
 * it comes (on_output), with back-pressure. An exec ends when the command's own process has ended and
 * its pipes are drained of what it wrote; if a background child still holds a pipe, the daemon goes on
 * emptying it so the child lives on. */

#include "emulator/account.h"
#include "emulator/base/buf.h"
#include "emulator/base/err.h"

struct sandboxes;
struct exec;

#define EXEC_OUTPUT_MAX (16u << 20)
#define EXEC_ID_SIZE 32 /* "exe_" + ULID + NUL */
#define EXEC_DEFAULT_TIMEOUT_S 60
#define EXEC_MAX_TIMEOUT_S 3600

enum exec_stream { EXEC_STDOUT, EXEC_STDERR };

enum exec_reason { EXEC_EXITED, EXEC_SIGNAL, EXEC_OOM, EXEC_TIMEOUT, EXEC_TERMINATED };
const char *exec_reason_name(enum exec_reason r); /* wire.md: "exited", ... */

struct exec_spec {
	const char *command;	 /* for /bin/sh -c, or NULL */
	const char *const *argv; /* NULL-terminated, used when command is NULL */
	const char *env;	 /* JSON object text merged over the sandbox's env, or NULL */
	const char *cwd;	 /* NULL: /workspace */
	const char *stdin_data;	 /* NULL: /dev/null */
	size_t stdin_len;
	uint32_t timeout_s; /* 0: the default */
};

struct exec_result {
	enum exec_reason reason;
	int exit_code; /* 128 + N for signal N */
	int signal;    /* 0: none */
	uint64_t duration_ms;
	/* Collected output (raw bytes, as written); empty when streamed. */
	const struct buf *out[2];
	bool truncated[2];
};

struct exec_events {
	/* Streaming only (NULL: collect). Bytes are borrowed. Return false to stop reading until exec_more. */
	bool (*output)(void *arg, enum exec_stream s, const char *p, size_t n);
	/* Exactly once, last. The exec is freed after it returns. */
	void (*done)(void *arg, const struct exec_result *r);
	void *arg;
};

/* Starts it. ERR_NOT_FOUND, ERR_NOT_READY, ERR_INVALID (cwd), ERR_CAPACITY. */
int exec_start(struct sandboxes *m, const struct account *a, const char *sandbox_id, const struct exec_spec *s,
	       const struct exec_events *ev, struct exec **ret, struct err *e);

const char *exec_id(const struct exec *x);

/* Streaming: read on after output() said false. */
void exec_more(struct exec *x);

/* The reader is gone: SIGTERM to the tree, SIGKILL after the grace time. done() is not called any more. */
void exec_abandon(struct exec *x);
