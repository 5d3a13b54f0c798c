#pragma once
/* One line a message, on standard error: time, level, text. Never a secret, never an env value.
 * Log once, where the error is handled. */

#include "emulator/base/util.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_set_level(enum log_level level);

/* "error", "warn", "info", "debug". -EINVAL for any other word. */
int log_level_parse(const char *word, enum log_level *ret);

/* Which process is speaking ("daemon", "keeper", "init"): a short static string, or NULL. */
void log_set_name(const char *name);

void log_write(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)
