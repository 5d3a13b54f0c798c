#include "emulator/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#undef err_set /* the analyzer's */
#undef err_errno

/* Formats beside e->msg first: the arguments may point into it. */
static void _printf_(3, 0) fill(struct err *e, const char *tail, const char *fmt, va_list ap)
{
	char msg[sizeof(e->msg)];
	size_t n;

	(void)vsnprintf(msg, sizeof(msg), fmt, ap);
	n = strlen(msg);
	if (tail)
		(void)snprintf(msg + n, sizeof(msg) - n, ": %s", tail);
	memcpy(e->msg, msg, strlen(msg) + 1);
}

int err_set(struct err *e, enum err_kind kind, int errnum, const char *reason, const char *fmt, ...)
{
	int ret = errnum > 0 ? -errnum : -EIO;
	va_list ap;

	if (!e)
		return ret;
	e->kind = kind;
	e->errnum = errnum;
	e->reason = reason;
	va_start(ap, fmt);
	fill(e, NULL, fmt, ap);
	va_end(ap);
	return ret;
}

static enum err_kind kind_of_errno(int errnum)
{
	switch (errnum) {
	case ENOSPC:
	case EDQUOT:
		return ERR_FULL;
	case ENOENT:
		return ERR_NOT_FOUND;
	case EMFILE:
	case ENFILE:
	case ENOMEM:
	case EAGAIN:
		return ERR_CAPACITY;
	default:
		return ERR_IO;
	}
}

int err_errno(struct err *e, int errnum, const char *fmt, ...)
{
	int ret = errnum > 0 ? -errnum : -EIO;
	va_list ap;

	if (!e)
		return ret;
	e->kind = kind_of_errno(-ret);
	e->errnum = errnum;
	e->reason = NULL;
	va_start(ap, fmt);
	fill(e, strerror(-ret), fmt, ap);
	va_end(ap);
	return ret;
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	char old[sizeof(e->msg)];
	va_list ap;

	if (!e)
		return;
	memcpy(old, e->msg, sizeof(old));
	va_start(ap, fmt);
	fill(e, old, fmt, ap);
	va_end(ap);
}

const char *err_kind_name(enum err_kind kind)
{
	static const char *const names[] = {
		[ERR_NONE] = "none",
		[ERR_INVALID] = "invalid",
		[ERR_NOT_FOUND] = "not_found",
		[ERR_EXISTS] = "exists",
		[ERR_NOT_READY] = "not_ready",
		[ERR_PLAN] = "plan",
		[ERR_POLICY] = "policy",
		[ERR_DENIED] = "denied",
		[ERR_TIMEOUT] = "timeout",
		[ERR_BUSY] = "busy",
		[ERR_CAPACITY] = "capacity",
		[ERR_FULL] = "full",
		[ERR_TOO_LARGE] = "too_large",
		[ERR_UNAVAILABLE] = "unavailable",
		[ERR_UNSUPPORTED] = "unsupported",
		[ERR_IO] = "io",
		[ERR_INTERNAL] = "internal",
	};

	return (size_t)kind < ARRAY_SIZE(names) ? names[kind] : "internal";
}
