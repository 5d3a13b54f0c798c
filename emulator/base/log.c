#include "emulator/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "emulator/base/clock.h"
#include "emulator/base/text.h"

static enum log_level max_level = LOG_LEVEL_INFO;
static const char *process_name;

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void log_set_level(enum log_level level)
{
	max_level = level;
}

int log_level_parse(const char *word, enum log_level *ret)
{
	int i = text_index(word, level_names, ARRAY_SIZE(level_names));

	if (i >= 0)
		*ret = (enum log_level)i;
	return MIN(i, 0);
}

void log_set_name(const char *name)
{
	process_name = name;
}

/* A message may quote a client or a sandbox: no control character of theirs reaches a terminal, the C1
 * ones (U+0080 to U+009F, two bytes in UTF-8) included. */
static void mask_controls(char *p, int n)
{
	for (int i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c < 0x20 || c == 0x7f)
			p[i] = '?';
		else if (c == 0xc2 && i + 1 < n && (unsigned char)p[i + 1] >= 0x80 && (unsigned char)p[i + 1] < 0xa0)
			p[i] = p[i + 1] = '?';
	}
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char line[2048], when[CLOCK_ISO_SIZE];
	int saved = errno, n, m;
	va_list ap;

	if (level > max_level)
		return;
	clock_iso(clock_real_ms(), when);
	n = snprintf(line, sizeof(line), "%s %-5s %s%s", when, level_names[level], process_name ? process_name : "",
		     process_name ? ": " : "");
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	n = m < 0 ? n : MIN(n + m, (int)sizeof(line) - 2);
	mask_controls(line, n);
	line[n++] = '\n';
	(void)!write(STDERR_FILENO, line, (size_t)n);
	errno = saved;
}
