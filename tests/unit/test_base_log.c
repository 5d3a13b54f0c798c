#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "emulator/base/fd.h"
#include "emulator/base/log.h"

/* Criterion runs each test in its own process, so standard error is ours to redirect. */
static int capture(void)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_geq(dup2(fd, STDERR_FILENO), 0);
	return fd;
}

static size_t captured(int fd, char *ret, size_t cap)
{
	ssize_t n = pread(fd, ret, cap - 1, 0);

	cr_assert_geq(n, 0);
	ret[n] = '\0';
	cr_assert_eq(ftruncate(fd, 0), 0);
	cr_assert_geq(lseek(fd, 0, SEEK_SET), 0);
	return (size_t)n;
}

Test(log, one_line_with_time_level_and_name)
{
	int fd = capture();
	char s[4096];

	log_info("hello %d", 7);
	captured(fd, s, sizeof(s));
	cr_assert_eq(strlen(s), strlen("2026-05-01T12:34:56.789Z info  hello 7\n"));
	cr_assert_str_eq(s + 24, " info  hello 7\n");
	log_set_name("keeper");
	log_error("no");
	captured(fd, s, sizeof(s));
	cr_assert_str_eq(s + 24, " error keeper: no\n");
	log_set_name(NULL);
	log_warn("w");
	captured(fd, s, sizeof(s));
	cr_assert_str_eq(s + 24, " warn  w\n");
}

Test(log, levels)
{
	static const enum log_level levels[] = { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
	int fd = capture();
	char s[4096];

	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		size_t lines = 0;

		log_set_level(levels[i]);
		log_error("x");
		log_warn("x");
		log_info("x");
		log_debug("x");
		captured(fd, s, sizeof(s));
		for (const char *p = s; *p; p++)
			lines += *p == '\n';
		cr_assert_eq(lines, i + 1);
	}
}

Test(log, level_words)
{
	static const char *const bad[] = { "", "Error", "warning", "inf", "infoo", " info", "4" };
	enum log_level l = LOG_LEVEL_WARN;

	cr_assert_eq(log_level_parse("error", &l), 0);
	cr_assert_eq(l, LOG_LEVEL_ERROR);
	cr_assert_eq(log_level_parse("warn", &l), 0);
	cr_assert_eq(l, LOG_LEVEL_WARN);
	cr_assert_eq(log_level_parse("info", &l), 0);
	cr_assert_eq(l, LOG_LEVEL_INFO);
	cr_assert_eq(log_level_parse("debug", &l), 0);
	cr_assert_eq(l, LOG_LEVEL_DEBUG);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		cr_assert_eq(log_level_parse(bad[i], &l), -EINVAL, "%s", bad[i]);
	cr_assert_eq(l, LOG_LEVEL_DEBUG);
}

Test(log, no_control_character_gets_through)
{
	int fd = capture();
	char s[4096];

	log_info("a\nb\r\x1b[31mc\td\x7f \xc2\x9b"
		 "2J \xc2\x80 \xc2\x9f \xc2\xa0 \xc3\xa9");
	captured(fd, s, sizeof(s));
	cr_assert_str_eq(s + 24, " info  a?b??[31mc?d? ??2J ?? ?? \xc2\xa0 \xc3\xa9\n");
}

Test(log, long_lines_are_cut_and_stay_one_line)
{
	int fd = capture();
	static char big[10000], s[20000];
	size_t n;

	/* Around every length at which the line's buffer just fills. */
	for (size_t len = 1980; len < 2060; len++) {
		memset(big, 'b', len);
		big[len] = '\0';
		log_info("%s", big);
		n = captured(fd, s, sizeof(s));
		cr_assert_leq(n, 2048u);
		cr_assert_eq(s[n - 1], '\n');
		cr_assert_eq(strchr(s, '\n'), s + n - 1);
		cr_assert_eq(strlen(s), n);
		cr_assert_eq(strspn(s + 31, "b"), n - 32, "len %zu", len);
	}
	memset(big, 'b', sizeof(big) - 1);
	log_info("%s", big);
	n = captured(fd, s, sizeof(s));
	cr_assert_geq(n, 2000u);
	cr_assert_eq(s[n - 1], '\n');
}

Test(log, errno_survives)
{
	(void)capture();
	errno = ENOTTY;
	log_info("x");
	cr_assert_eq(errno, ENOTTY);
	(void)close(STDERR_FILENO);
	errno = EDOM;
	log_info("nobody hears it");
	cr_assert_eq(errno, EDOM);
}
