#pragma once
/* For processes that a test forked: there Criterion's own assertions would go unheard, or speak for the wrong one. */

#include <stdio.h>
#include <unistd.h>

/* Says what is wrong, with a format and arguments if there are any, and ends the process. */
#define CHECK(cond, ...)                                                                                               \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			(void)fprintf(stderr, "%s:%d: %s", __FILE__, __LINE__, #cond);                                 \
			(void)fprintf(stderr, " " __VA_ARGS__);                                                        \
			(void)fputc('\n', stderr);                                                                     \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)
