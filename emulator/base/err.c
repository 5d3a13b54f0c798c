#include "emulator/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

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
	(void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
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
	size_t n;

	if (!e)
		return ret;
	e->kind = kind_of_errno(errnum);
	e->errnum = errnum;
	e->reason = NULL;
	va_start(ap, fmt);
	(void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	(void)snprintf(e->msg + n, sizeof(e->msg) - n, ": %s", strerror(errnum));
	return ret;
}

void err_prefix(struct err *e, const char *fmt, ...)
{
	char old[sizeof(e->msg)];
	va_list ap;
	size_t n;

	if (!e)
		return;
	memcpy(old, e->msg, sizeof(old));
	va_start(ap, fmt);
	(void)vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	(void)snprintf(e->msg + n, sizeof(e->msg) - n, ": %s", old);
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
