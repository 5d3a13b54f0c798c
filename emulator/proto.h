#pragma once
/* The messages between daemon, keeper and init: fixed-size structs over SOCK_SEQPACKET, one type a
 * direction. Both ends are the same binary but for a keeper that an earlier run left: the launcher asks it for
 * its proto_version before anything else, and ends one of another. So struct keeper_msg's size and the numbers
 * of KEEPER_STOP and of KEEPER_HELLO's answer stay as they are for good. A receiver checks length, magic, type,
 * and that strings end; anything else is the end of the connection. */

#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "emulator/base/util.h"
#include "emulator/keeper.h"
#include "netpolicy/egress.h"
#include "rootfs/template.h"

#define KEEPER_MAGIC 0x6f6b7031u /* "okp1" */
#define KEEPER_SOCKET_NAME "keeper.sock"

enum keeper_msg_type {
	/* to the keeper */
	KEEPER_SPAWN = 1, /* slot */
	KEEPER_KILL,	  /* slot */
	KEEPER_STOP,
	KEEPER_ATTACH, /* slot, value: its number in the gateway, mode */
	KEEPER_MODE,   /* slot, value, mode: another one for an attached sandbox */
	/* from the keeper */
	KEEPER_SPAWNED, /* slot, value: pid; fds: the control socket, maybe the one for refused packets */
	KEEPER_FAILED,	/* slot, value: errno, text */
	KEEPER_DIED,	/* slot, value: wait status */
	KEEPER_DONE,	/* slot: ATTACH or MODE worked (else FAILED) */
	/* of a start on a keeper that is there */
	KEEPER_HELLO,	/* to it; text: the asker's version */
	KEEPER_WELCOME, /* from it; value: its cgroup backend; text: its version; fds: egress, if mode is 1 */
	KEEPER_NETWORK, /* from it, after WELCOME: text: why there is no network, or "" */
	KEEPER_LIST,	/* to it: a KEPT for each sandbox, then LISTED */
	KEEPER_KEPT,	/* from it: slot, value: pid, kept; fds: control socket, then what kept.has names */
	KEEPER_LISTED,
	KEEPER_HOLD, /* to it: slot, kept.label; fds: its root, its reports. They come back with KEPT */
	/* From it, at any time: there is another egress process, its socket the fd; or none any more, text: why. */
	KEEPER_EGRESS,
	/* Commands: struct keeper_exec_msg. To it; from it after their sandbox's KEPT. */
	KEEPER_EXEC,
	KEEPER_EXEC_LINGERS,  /* to it: id: has ended, its pipes have not */
	KEEPER_EXEC_NO_STDIN, /* to it: id: closes that */
	KEEPER_EXEC_OVER,     /* to it: id */
};

#define KEPT_HAS_REFUSED 1u
#define KEPT_HAS_ROOT 2u /* and its reports */

struct keeper_msg_kept {
	int32_t index; /* in the gateway, or -1 */
	uint32_t has;
	char label[KEEPER_LABEL_SIZE];
};

struct keeper_msg {
	uint32_t magic;
	uint32_t type;
	char slot[KEEPER_SLOT_SIZE];
	int32_t value;
	uint32_t mode; /* enum net_mode */
	union {
		char text[208];
		struct keeper_msg_kept kept;
	};
};

#define EXEC_HAS_STDIN 1u
#define EXEC_HAS_OUT 2u
#define EXEC_HAS_ERR 4u
#define EXEC_HAS_ALL (EXEC_HAS_STDIN | EXEC_HAS_OUT | EXEC_HAS_ERR)

/* Only EXEC has a note, note_len bytes long: no more of it is sent. fds: as `has` says, in this order. */
struct keeper_exec_msg {
	uint32_t magic;
	uint32_t type;
	char slot[KEEPER_SLOT_SIZE];
	uint64_t id;
	uint32_t has;
	uint32_t lingers;
	uint32_t note_len;
	char note[KEEPER_NOTE_MAX];
};
#define KEEPER_EXEC_MSG_MIN offsetof(struct keeper_exec_msg, note)

union keeper_any_msg {
	struct keeper_msg m;
	struct keeper_exec_msg exec;
};

/* Whether n received bytes with n_fds descriptors are what such a message should be. */
static inline bool proto_exec_ok(const struct keeper_exec_msg *m, size_t n, size_t n_fds)
{
	return n >= KEEPER_EXEC_MSG_MIN && m->magic == KEEPER_MAGIC && m->type >= KEEPER_EXEC &&
	       m->type <= KEEPER_EXEC_OVER && m->note_len <= KEEPER_NOTE_MAX &&
	       n == KEEPER_EXEC_MSG_MIN + m->note_len && m->has <= EXEC_HAS_ALL &&
	       n_fds == (size_t)__builtin_popcount(m->has) && memchr(m->slot, '\0', sizeof(m->slot));
}

/* The listening socket's address, short enough wherever the state dir is (unix(7): 108 bytes). */
static inline void proto_keeper_address(int dirfd, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	(void)snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/" KEEPER_SOCKET_NAME, dirfd);
}

/* Between daemon and init. The socket is init's to read: until READY or FAILED it answers there, and from then on the
 * daemon has shut that direction. For by now commands run, and whoever takes over their PID 1 could send descriptors,
 * which the kernel closes in the one who receives them, or who closes the socket; and closing can take as long as their
 * maker likes (a TCP connection with SO_LINGER). So what init has to say goes through a pipe, which holds bytes alone. */
#define INIT_MAGIC 0x6f6b6932u /* "oki2" */
#define INIT_MAX_SPEC (4u << 20)

enum init_msg_type {
	/* to init */
	INIT_GO = 1,	/* from the keeper: id map and cgroup are in place */
	INIT_CONFIGURE, /* struct init_configure_msg follows the header */
	INIT_EXEC,	/* struct init_exec_msg; fds: 0, 1, 2 and, before them, a memfd if the spec doesn't follow */
	INIT_SIGNAL,	/* struct init_signal_msg */
	/* from init */
	INIT_READY,   /* fds: O_PATH of its root, the reading end of its reports. No more comes from the socket */
	INIT_FAILED,  /* struct init_failed_msg */
	INIT_STARTED, /* a report: struct init_started_msg */
	INIT_EXITED,  /* a report: struct init_exited_msg */
	/* to init: struct init_recall_msg; answered with STARTED, or EXITED once more, or EXITED "not started" for one
	 * that it never heard of */
	INIT_RECALL,
};

struct init_header {
	uint32_t magic;
	uint32_t type;
};

struct init_configure_msg {
	struct init_header h;
	char slot[KEEPER_SLOT_SIZE];
	char hostname[64];
	uint32_t n_layers;
	char layers[TEMPLATE_MAX_LAYERS][40];
	uint32_t cpus;
	uint32_t pids_max;
	uint64_t memory_bytes;
	uint32_t no_cgroup_view;
};

#define INIT_SPEC_INLINE 4096 /* a spec up to this long follows its message */

/* The spec is n_argv strings, n_env strings, then cwd, each NUL-terminated, spec_len bytes in all. */
struct init_exec_msg {
	struct init_header h;
	uint64_t id;
	uint32_t n_argv, n_env;
	uint32_t spec_len;
	uint32_t pty;
	uint32_t tell_start;
	uint32_t unused;
};

struct init_exec_inline {
	struct init_exec_msg m;
	char spec[INIT_SPEC_INLINE];
};

struct init_signal_msg {
	struct init_header h;
	uint64_t id;
	int32_t sig;
	uint32_t tree;
};

struct init_recall_msg {
	struct init_header h;
	uint64_t id;
};

struct init_failed_msg {
	struct init_header h;
	int32_t errnum;
	char text[120];
};

struct init_started_msg {
	struct init_header h;
	uint64_t id;
	int32_t pid;
	uint32_t unused;
};

struct init_exited_msg {
	struct init_header h;
	uint64_t id;
	int32_t kind; /* enum init_exit_kind */
	int32_t value;
	uint64_t duration_us;
	int32_t background;
	uint32_t unused;
};

/* Through the pipe: all of one size, and a write is in it as a whole or not at all (pipe(7), PIPE_BUF). */
union init_report {
	struct init_header h;
	struct init_started_msg started;
	struct init_exited_msg exited;
};
#define INIT_REPORTS_SIZE (16 << 10) /* the pipe's: what every command has to say at its end */

union init_msg {
	struct init_header h;
	struct init_configure_msg configure;
	struct init_exec_msg exec;
	struct init_exec_inline exec_inline;
	struct init_signal_msg signal;
	struct init_recall_msg recall;
	struct init_failed_msg failed;
};

/* True if the array holds a terminated string. */
static inline bool proto_string_ok(const char *p, size_t cap)
{
	return memchr(p, '\0', cap) != NULL;
}

/* "s-" and 26 of [0-9a-z]: the only names a slot may have, since it becomes part of paths. */
static inline bool proto_slot_ok(const char *slot)
{
	size_t n = strnlen(slot, KEEPER_SLOT_SIZE);

	if (n != 28 || slot[0] != 's' || slot[1] != '-')
		return false;
	for (size_t i = 2; i < n; i++)
		if (!((slot[i] >= '0' && slot[i] <= '9') || (slot[i] >= 'a' && slot[i] <= 'z')))
			return false;
	return true;
}

#define PROTO_REVISION 4 /* one more when a message means something else and no size says so */
#define PROTO_VERSION_SIZE 64

/* What both ends must agree on. */
static inline void proto_version(char ret[static PROTO_VERSION_SIZE])
{
	(void)snprintf(ret, PROTO_VERSION_SIZE, "r%d-%zu.%zu.%zu.%zu.%zu.%zu", PROTO_REVISION,
		       sizeof(struct keeper_msg), sizeof(struct init_configure_msg), sizeof(struct init_exec_msg),
		       sizeof(struct init_exited_msg), sizeof(struct egress_msg), sizeof(struct egress_event));
}
