#include "emulator/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "emulator/base/clock.h"

static enum log_level max_level = LOG_LEVEL_INFO;
static const char *process_name;

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void log_set_level(enum log_level level)
{
	max_level = level;
}

enum log_level log_level(void)
{
	return max_level;
}

int log_level_parse(const char *word, enum log_level *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++)
		if (strcmp(word, level_names[i]) == 0) {
			*ret = (enum log_level)i;
			return 0;
		}
	return -EINVAL;
}

void log_set_name(const char *name)
{
	process_name = name;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[2048], when[CLOCK_ISO_SIZE];
	int saved = errno, n, m;
	va_list ap;

	if (level > max_level)
		return;
	clock_iso(clock_real_ms(), when);
	n = snprintf(line, sizeof(line), "%s %-5s %s%s", when, level_names[level],
		     process_name ? process_name : "", process_name ? ": " : "");
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n = m < 0 ? n : MIN(n + m, (int)sizeof(line) - 2);
	/* A message may quote a client or a sandbox: no control byte of theirs reaches a terminal. */
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';
	line[n++] = '\n';
	(void)!write(STDERR_FILENO, line, (size_t)n);
	errno = saved;
}
