#pragma once
/* Small macros used everywhere: cleanup attributes, ownership transfer, array sizes.
 * Any process may use them; nothing here allocates or fails. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#undef MIN
#undef MAX /* <sys/param.h> has them too */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _noreturn_ __attribute__((noreturn))
#define _unused_ __attribute__((unused))
#define _warn_unused_ __attribute__((warn_unused_result))
#define _cleanup_(f) __attribute__((cleanup(f)))

/* Hands over an owned pointer or fd, leaving NULL or -1 behind. */
#define TAKE_PTR(p)                                                                                                    \
	({                                                                                                             \
		__typeof__(p) *pp_ = &(p);                                                                             \
		__typeof__(p) v_ = *pp_;                                                                               \
		*pp_ = NULL;                                                                                           \
		v_;                                                                                                    \
	})
#define TAKE_FD(fd)                                                                                                    \
	({                                                                                                             \
		int *fp_ = &(fd);                                                                                      \
		int v_ = *fp_;                                                                                         \
		*fp_ = -1;                                                                                             \
		v_;                                                                                                    \
	})

static inline void freep(void *p)
{
	free(*(void **)p);
}

/* Closes once; a failed close is never retried (close(2), "Dealing with error returns"). -1 is a no-op. */
static inline void closep(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static inline void fclosep(FILE **f)
{
	if (*f)
		(void)fclose(*f);
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_fclose_ _cleanup_(fclosep)
