#pragma once
/* What the exec*.c files share beyond sandbox-internal.h. Nobody else includes this. */

#include "emulator/sandbox-internal.h"

/* ---- exec_log.c: the output of one command, of both streams, in the order it was read ----
 *
 * Two lanes: the head keeps the beginning and is then closed, the tail is a ring. Both hold records: a
 * header (stream and length), then the bytes. A record is contiguous in memory and begins and ends at a
 * character. Places in a lane are virtual addresses that only grow; the physical one is v % max. A place in
 * the output (`pos`) is the number of bytes before it, so it stays valid whatever was dropped. */

#define LOG_RECORD_MAX (16u << 10)

struct log_lane {
	char *p;
	size_t cap, max;	     /* cap grows up to max before anything wraps */
	uint64_t v_first, v_end;     /* records there are */
	uint64_t v_last;	     /* the newest one; UINT64_MAX: none */
	uint64_t off_first, off_end; /* their places in the output */
};

struct exec_log {
	struct log_lane lane[2]; /* head, tail */
	bool tail_open;
	uint64_t bytes[2]; /* of each stream, all that ever came */
	char part[2][4];   /* the beginning of a character */
	size_t part_len[2];
};

struct log_cursor {
	unsigned int lane;
	uint64_t v, off; /* a record, and its place */
	uint64_t pos;	 /* the next byte */
};

enum log_found { LOG_NOTHING, LOG_BYTES, LOG_GAP };

struct log_piece {
	enum exec_stream stream;
	const char *p;
	size_t n;
	uint64_t missed;
};

void log_init(struct exec_log *l);
void log_free(struct exec_log *l);
void log_add(struct exec_log *l, enum exec_stream s, const char *p, size_t n);
void log_finish(struct exec_log *l); /* nothing comes any more: incomplete characters too, and spare memory goes */
uint64_t log_end(const struct exec_log *l);
size_t log_memory(const struct exec_log *l);
/* Reads a piece and moves on. */
enum log_found log_read(const struct exec_log *l, struct log_cursor *c, struct log_piece *ret);
/* Memory between the cursor and the end. */
uint64_t log_unread(const struct exec_log *l, const struct log_cursor *c);
int log_text(const struct exec_log *l, enum exec_stream s, struct buf *ret, bool *ret_truncated) _warn_unused_;

/* ---- struct exec ---- */

enum phase { PHASE_RUN, PHASE_TERM, PHASE_KILL };

struct stream {
	struct exec *x;
	uv_poll_t poll;
	int fd; /* -1: EOF was seen, or it was handed on. The first one of a terminal is its master */
	bool has_poll, polling;
	size_t left; /* once the process has ended: what is still the command's */
	struct output out;
};

struct stdin_piece {
	struct stdin_piece *next;
	size_t at, len;
	char data[];
};

struct feed { /* the command's stdin */
	uv_poll_t poll;
	bool has_poll, polling;
	int fd;
	struct stdin_piece *pieces; /* what didn't fit into the pipe */
	size_t waiting;
	bool open; /* more may come */
};

struct exec {
	struct exec *prev, *next;	      /* in its sandbox's list: running, or ended */
	struct exec *prev_ended, *next_ended; /* in the manager's, the oldest first */
	struct sandboxes *m;
	struct sandbox *sb; /* NULL once that has ended, or forgotten by the registry */
	unsigned int refs;  /* one for being in a list, one each reader and closing handle */
	uint64_t id;
	char name[EXEC_ID_SIZE];
	char program[64]; /* for "not found" */
	char *args;
	size_t n_args;
	struct exec_spec spec; /* without what is borrowed */
	bool shell, args_cut;
	struct exec_events ev;
	bool collect;
	struct stream s[2];
	struct feed in;
	uv_timer_t timer;
	enum phase phase;
	pid_t pid;
	int64_t start_us, ended_us, started_ms, ended_ms;
	uint64_t oom_before, denied_before;
	struct exec_result res;
	struct exec_blocked *blocked; /* res.blocked */
	uint64_t net_before;	      /* the ledger's newest entry when it began */
	uint64_t net_token;	      /* not 0: its process has ended, and its last network events are waited for */
	struct init_exit exit;	      /* and this is how */
	bool exited, finished;
	enum fault_exec faulted; /* what went wrong with it on purpose */
	bool held;		 /* the sandbox is paused: the timer goes on with held_ms afterwards */
	uint64_t held_ms;
	bool paused; /* the primary reader is behind */
	struct exec_log log;
	struct exec_reader *readers, *primary;
};

/* exec.c */
void exec_put(struct exec *x);
void exec_begin_end(struct exec *x, enum exec_ender by);
void exec_signal_tree(struct exec *x, int sig);
int exec_check_running(const struct exec *x, struct err *e); /* and its sandbox */

/* exec_io.c: pipes, terminal, stdin */
struct init_exec;
int exec_io_open(struct exec *x, const struct exec_spec *s, int theirs[static 3], struct err *e);
void exec_io_close(struct exec *x);
void exec_io_update(struct exec *x); /* starts and stops watching as x is now */
void exec_io_drain(struct exec *x);  /* the process has ended: what is there is still its output */
void exec_io_let_go(struct exec *x); /* hands pipes that have other writers to exec_linger.c */
void exec_deliver(struct exec *x, enum exec_stream s, const char *p, size_t n);

/* exec_journal.c */
#define EXEC_JOURNAL_TEXT 256
/* The program of a command, for the journal: "python \u2026" (an ellipsis for the rest), or an ellipsis alone. shell: it
 * is a line for the shell; else the first word, and `more` says whether others follow. */
void exec_journal_text(const char *command, bool shell, bool more, char ret[static EXEC_JOURNAL_TEXT]);
void exec_tell_started(const struct exec *x);
void exec_tell_ended(const struct exec *x); /* while it still has its sandbox */

/* exec_reader.c */
void readers_wake(struct exec *x, bool output);
void readers_check_pause(struct exec *x);

/* exec_pty.c: a new terminal of the sandbox's own devpts; the slave belongs to its root (uid). */
int pty_open(int root_fd, uid_t uid, struct exec_size size, int *ret_master, int *ret_slave, struct err *e);
int pty_resize(int master, struct exec_size size);

/* exec_registry.c: the ended ones */
#define REGISTRY_MAX 64		     /* a sandbox */
#define REGISTRY_MS (10 * 60 * 1000) /* then it is forgotten, give or take a minute */
#define REGISTRY_BYTES (64u << 20)   /* of output, in all sandboxes */
void registry_add(struct exec *x);   /* takes the reference of the running list */
void registry_forget_all(struct sandbox *sb);
void registry_expire(struct sandboxes *m); /* forgets what has been remembered long enough */
