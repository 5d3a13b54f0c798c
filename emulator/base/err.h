#pragma once
/* The error object every layer fills and only api/ turns into a status and a code.
 *
 * A function returns 0 or a negative errno; one whose failure needs context also fills the caller's
 * `struct err`, its last argument (NULL is allowed: the context is then lost). No allocation, so it
 * works right after clone3 and out of memory. */

#include <errno.h>

#include "emulator/base/util.h"

enum err_kind {
	ERR_NONE,
	ERR_INVALID,	 /* the caller's argument is wrong */
	ERR_NOT_FOUND,	 /* no such thing, or not the caller's */
	ERR_EXISTS,	 /* already there, and that matters */
	ERR_NOT_READY,	 /* right thing, wrong state */
	ERR_PLAN,	 /* the account's plan forbids it */
	ERR_POLICY,	 /* the network policy forbids it */
	ERR_DENIED,	 /* no such right (scope, ownership) */
	ERR_TIMEOUT,	 /* a limit of time was reached */
	ERR_BUSY,	 /* try again later */
	ERR_CAPACITY,	 /* the host or the emulator is at a limit */
	ERR_FULL,	 /* no space left on a disk */
	ERR_TOO_LARGE,	 /* beyond a documented size limit */
	ERR_UNAVAILABLE, /* needs something that is missing on this host; the message says what to do */
	ERR_UNSUPPORTED, /* not possible here */
	ERR_IO,		 /* the kernel or a disk said no */
	ERR_INTERNAL,	 /* ours to fix */
};

struct err {
	enum err_kind kind;
	int errnum;	    /* positive errno, 0 where none applies */
	const char *reason; /* static slug finer than the kind ("concurrent_limit"), or NULL */
	char msg[384];	    /* one sentence for a person, always terminated */
};

#define ERR_INIT ((struct err){ .kind = ERR_NONE })

/* Fills e (which may be NULL) and returns -errnum (-EIO when errnum is 0).
 * reason: a string literal or NULL. The message is cut, never overrun. */
int err_set(struct err *e, enum err_kind kind, int errnum, const char *reason, const char *fmt, ...) _printf_(5, 6);

/* As err_set, with ": strerror(errnum)" appended and the kind derived from errnum
 * (ENOSPC/EDQUOT -> FULL, ENOENT -> NOT_FOUND, EMFILE/ENFILE/ENOMEM/EAGAIN -> CAPACITY, else IO). */
int err_errno(struct err *e, int errnum, const char *fmt, ...) _printf_(3, 4);

#ifdef __clang_analyzer__
/* It sees one file at a time: what is a negative errno for sure it would take for possibly 0, and so for success. */
#define err_set(...) ((void)err_set(__VA_ARGS__), -EIO)
#define err_errno(...) ((void)err_errno(__VA_ARGS__), -EIO)
#endif

/* Puts "prefix: " before the message already there. No-op on NULL. */
void err_prefix(struct err *e, const char *fmt, ...) _printf_(2, 3);

const char *err_kind_name(enum err_kind kind);
