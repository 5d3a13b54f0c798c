#pragma once
/* One command in a sandbox, seen from the daemon: its pipes or terminal, its output, its end.
 *
 * All output goes into a log of bounded size (its beginning and its last EXEC_LOG_TAIL bytes), from which
 * any number of readers read, each at its own pace, from any place; one that is too slow is told how much
 * it missed. The reader a command was started for (the primary one) is different: the command waits for it.
 * Besides, output can be collected whole (head and tail of at most EXEC_OUTPUT_MAX bytes a stream).
 *
 * An exec ends when the command's own process has ended and its pipes are drained of what it wrote; if a
 * background child still holds a pipe, the daemon goes on emptying it so the child lives on. An ended exec
 * is remembered for a while (exec_registry.c), with its log.
 *
 * A struct exec that came out of exec_start or exec_find is borrowed: it may be gone once the loop has
 * turned, but for the one whose done() is still due and the one a reader is attached to. */

#include "emulator/account.h"
#include "emulator/base/buf.h"
#include "emulator/base/err.h"
#include "emulator/fault.h"

struct sandboxes;
struct exec;

#define EXEC_OUTPUT_MAX (16u << 20)
#define EXEC_LOG_HEAD (256u << 10)
#define EXEC_LOG_TAIL (1u << 20)
#define EXEC_STDIN_MAX (1u << 20) /* bytes that wait for a command to read them */
#define EXEC_ID_SIZE 32		  /* "exe_" + ULID + NUL */
#define EXEC_DEFAULT_TIMEOUT_S 60
#define EXEC_MAX_TIMEOUT_S 3600
#define EXEC_NO_TIMEOUT UINT32_MAX

enum exec_stream { EXEC_STDOUT, EXEC_STDERR };

enum exec_reason { EXEC_EXITED, EXEC_SIGNAL, EXEC_OOM, EXEC_TIMEOUT, EXEC_TERMINATED };
const char *exec_reason_name(enum exec_reason r); /* wire.md: "exited", ... */

/* Who ended it, when it did not end by itself. */
enum exec_ender { EXEC_BY_NONE, EXEC_BY_TIMEOUT, EXEC_BY_REQUEST, EXEC_BY_DISCONNECT, EXEC_BY_SANDBOX };
const char *exec_ender_name(enum exec_ender b); /* "timeout", "request", ...; NULL for none */

struct exec_size {
	uint16_t rows, cols; /* both at least 1; rows 0: no terminal */
};

struct exec_spec {
	const char *command;	 /* for /bin/sh -c, or NULL */
	const char *const *argv; /* NULL-terminated, used when command is NULL */
	const char *env;	 /* JSON object text merged over the sandbox's env, or NULL */
	const char *cwd;	 /* NULL: /workspace */
	const char *stdin_data;	 /* NULL: /dev/null, unless stdin_open */
	size_t stdin_len;
	bool stdin_open;       /* after stdin_data there may be more, by exec_stdin */
	struct exec_size pty;  /* a terminal instead of pipes; its stdin is always open */
	bool streamed;	       /* the first reader is primary */
	bool background;       /* nobody ever waits for it; only for exec_info */
	bool detach;	       /* goes on when the one who started it leaves */
	uint32_t timeout_s;    /* 0: the default; EXEC_NO_TIMEOUT */
	enum fault_exec fault; /* what goes wrong with it on purpose, fault_after_ms after its start */
	uint32_t fault_after_ms;
};

/* A connection or a look-up of the command's that the network policy refused. Where it can't be told whose of several
 * commands it was, each of them gets it, without an owner. */
#define EXEC_BLOCKED_MAX 32
struct exec_blocked {
	char host[254];	   /* "" if no name is known */
	char ip[46];	   /* "" if none */
	uint16_t port;	   /* 0: none */
	const char *proto; /* static: "tcp", "udp", "dns", "icmp", "other" */
	char rule[64];
	char owner[EXEC_ID_SIZE]; /* the command's id; "": it can't be told whether it was this one */
};

struct exec_result {
	enum exec_reason reason;
	enum exec_ender by;
	int exit_code; /* 128 + N for signal N */
	int signal;    /* 0: none */
	uint64_t duration_ms;
	/* What the sandbox's cgroup counted while the command ran. */
	uint64_t oom_kills, pids_denied;
	int background;			    /* processes it left behind; -1: unknown */
	uint32_t timeout_s;		    /* as asked for; EXEC_NO_TIMEOUT */
	const struct exec_blocked *blocked; /* n_blocked of them */
	size_t n_blocked;
	/* Collected output (raw bytes, as written), for done() only. */
	const struct buf *out[2];
	bool truncated[2];
};

struct exec_events {
	/* Exactly once. The result is borrowed. */
	void (*done)(void *arg, const struct exec_result *r);
	void *arg;
};

/* Starts it. ERR_NOT_FOUND, ERR_NOT_READY, ERR_INVALID (cwd), ERR_CAPACITY. With ev (may be NULL) the
 * output is collected as well. */
int exec_start(struct sandboxes *m, const struct account *a, const char *sandbox_id, const struct exec_spec *s,
	       const struct exec_events *ev, struct exec **ret, struct err *e);

const char *exec_id(const struct exec *x);

/* The one who waits for done() is gone: it is not called any more, and the command is ended unless it is
 * detached. */
void exec_abandon(struct exec *x);

/* ---- what there is ---- */

struct exec_info {
	const char *id;
	const char *args; /* n_args strings, each with its NUL */
	size_t n_args;
	bool shell;    /* the one string is a command for the shell */
	bool args_cut; /* it was longer */
	bool running;
	pid_t pid;		      /* inside the sandbox; 0: not known */
	int64_t started_ms, ended_ms; /* 0: not yet */
	struct exec_size pty;
	bool streamed, background, detach, stdin_open;
	uint32_t timeout_s;
	uint64_t bytes[2];		  /* written, as far as it was read */
	uint64_t last_id;		  /* of the newest event a reader could get */
	const struct exec_result *result; /* NULL while it runs; without out */
};

/* ERR_NOT_FOUND "exec_not_found". A sandbox need not be running, only in memory. */
int exec_find(struct sandboxes *m, const struct account *a, const char *sandbox_id, const char *id, struct exec **ret,
	      struct err *e);
/* The newest first. */
int exec_each(struct sandboxes *m, const struct account *a, const char *sandbox_id,
	      int (*fn)(void *arg, const struct exec_info *i), void *arg, struct err *e);
void exec_get_info(const struct exec *x, struct exec_info *ret);
/* What the log has of one stream, with a line in place of what it has not. */
int exec_text(const struct exec *x, enum exec_stream s, struct buf *ret, bool *ret_truncated) _warn_unused_;

/* ---- doing something to it: ERR_NOT_READY "exec_ended" when it is too late ---- */

/* All or nothing. ERR_NOT_READY "stdin_closed", ERR_TOO_LARGE, ERR_BUSY "stdin_full" when more than
 * EXEC_STDIN_MAX bytes would wait. eof: this was the last (a terminal gets its end-of-file character). */
int exec_stdin(struct exec *x, const char *p, size_t n, bool eof, size_t *ret_waiting, struct err *e);
int exec_signal(struct exec *x, int sig, bool tree, struct err *e);
int exec_resize(struct exec *x, struct exec_size size, struct err *e); /* ERR_NOT_READY "not_a_terminal" */
/* SIGTERM to the tree, SIGKILL after the grace time; also to what an ended one left behind, so never too late. */
int exec_end(struct exec *x, struct err *e);

/* ---- reading ---- */

enum exec_event_kind {
	EXEC_EVENT_OUTPUT,
	EXEC_EVENT_GAP, /* `missed` bytes are not in the log any more */
	EXEC_EVENT_END,
};

struct exec_event {
	enum exec_event_kind kind;
	uint64_t id;		 /* a position: what to give as `after` to go on behind this one */
	enum exec_stream stream; /* the rest: OUTPUT */
	const char *p;		 /* borrowed until the loop turns; whole UTF-8 characters, or bytes that are none */
	size_t n;
	uint64_t missed;
	const struct exec_result *result; /* END */
};

struct exec_reader;

struct exec_reader_config {
	uint64_t after;		 /* an event's id; 0: from the beginning; EXEC_AFTER_OUTPUT */
	bool primary;		 /* if it is streamed and has no primary reader now */
	void (*wake)(void *arg); /* there is something new. May free this reader, and no other one */
	void *arg;
};

#define EXEC_AFTER_OUTPUT UINT64_MAX /* the end alone; wake() is then called at its start and its end only */

/* ERR_INVALID for an `after` that was never given out. An `after` that is the end's own id, of an exec
 * that has ended, gets no event at all: see exec_reader_over. */
int exec_reader_new(struct exec *x, const struct exec_reader_config *c, struct exec_reader **ret, struct err *e);
struct exec *exec_reader_exec(const struct exec_reader *r);
/* False: nothing now. */
bool exec_reader_next(struct exec_reader *r, struct exec_event *ret);
/* Every event there will ever be was read. */
bool exec_reader_over(const struct exec_reader *r);
/* NULL is fine. Of a primary one: the command is ended unless it is detached. */
void exec_reader_free(struct exec_reader *r);
