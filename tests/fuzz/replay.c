/* Runs a fuzz target over files: what `make test` does with the committed corpus, without libFuzzer.
 *   replay NAME FILE...    says which input it was when one ends the process. */

#include <signal.h>
#include <sys/stat.h>

#include "emulator/base/fd.h"
#include "tests/fuzz/fuzz.h"

static const char *at = "(none)";

static void on_crash(int sig)
{
	(void)!write(STDERR_FILENO, "fuzz: it ended at ", 18);
	(void)!write(STDERR_FILENO, at, strlen(at));
	(void)!write(STDERR_FILENO, "\n", 1);
	(void)signal(sig, SIG_DFL);
	(void)raise(sig);
}

static int replay(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint8_t *p = NULL;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	p = malloc((size_t)st.st_size + 1);
	if (!p)
		return -ENOMEM;
	n = fd_read_all(fd, p, (size_t)st.st_size);
	if (n < 0)
		return (int)n;
	/* Of exactly its size, so that a read beyond it is one beyond the allocation. */
	p = realloc(p, n > 0 ? (size_t)n : 1);
	at = path;
	(void)LLVMFuzzerTestOneInput(p, (size_t)n);
	return 0;
}

int main(int argc, char **argv)
{
	static const int fatal[] = { SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM };
	int n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++)
		(void)signal(fatal[i], on_crash);
	for (int i = 2; i < argc; i++, n++) {
		int r;

		(void)alarm(60); /* a loop without end is a finding, too */
		r = replay(argv[i]);
		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(-r));
			return 1;
		}
	}
	printf("%-16s %d inputs\n", argc > 1 ? argv[1] : "", n);
	return n > 0 ? 0 : 1;
}
