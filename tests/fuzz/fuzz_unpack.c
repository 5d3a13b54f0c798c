/* A tar archive from outside, into a folder that becomes a layer, a sandbox's (live), or one of a package: whatever it
 * holds, nothing is written outside of the folder. The first two bytes say which and how. */

#include <archive.h>
#include <archive_entry.h>

#include "emulator/base/text.h"
#include "rootfs/unpack.h"
#include "tests/fuzz/fuzz.h"

struct source {
	struct fuzz_input in;
	size_t step;
};

static ssize_t read_some(void *arg, void *p, size_t n)
{
	struct source *s = arg;

	n = MIN(MIN(n, s->step), s->in.n);
	fuzz_take(&s->in, p, n);
	return (ssize_t)n;
}

static int victim(int top)
{
	char text[8];
	int fd = openat(top, "victim", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));

	closep(&fd);
	return n == 6 && memcmp(text, "intact", 6) == 0 ? 0 : -1;
}

static void prepare(int top)
{
	int fd = openat(top, "victim", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	fuzz_check(fd >= 0 && write(fd, "intact", 6) == 6);
	closep(&fd);
	(void)mkdirat(top, "in", 0777);
	fd = openat(top, "in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fuzz_check(fd >= 0 && mkdirat(fd, "there", 0755) == 0 && symlinkat("../victim", fd, "out") == 0 &&
		   symlinkat("..", fd, "up") == 0 && symlinkat("/", fd, "root") == 0);
	closep(&fd);
}

/* How many entries were unpacked of an archive that was taken, or a negative errno. */
static int unpack(int top, const uint8_t *p, size_t n)
{
	struct unpack_spec s = { .read = read_some,
				 .single_id = true,
				 .limits = { .max_bytes = 1 << 20, .max_entries = 200 } };
	struct unpack_result res = { 0 };
	struct source src = { .in = { p, n } };
	struct err e = ERR_INIT;
	unsigned int how;
	int r;

	fuzz_drop();
	prepare(top);
	how = fuzz_byte(&src.in);
	src.step = fuzz_byte(&src.in) * 64u + 1;
	s.read_arg = &src;
	s.whiteouts = how & 1;
	s.root_too = how & 2;
	s.as_root = how & 4;
	s.strip = how & 8 ? "package" : NULL;
	s.prefix = how & 16 ? "usr/lib/x" : NULL;
	s.live = how & 32;
	s.root_fd = openat(top, "in", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fuzz_check(s.root_fd >= 0);
	r = unpack_archive(&s, &res, &e);
	closep((int *)&s.root_fd);
	fuzz_check(r == 0 || (r < 0 && e.kind != ERR_NONE && e.msg[0] && strlen(e.msg) < sizeof(e.msg)));
	fuzz_check(res.made <= res.entries && res.entries <= 201);
	fuzz_check(victim(top) == 0);
	/* An archive may leave folders nobody may write to. */
	fuzz_regain();
	fuzz_check(tree_remove(top, "in", &e) == 0);
	return r < 0 ? r : (int)res.entries;
}

/* A target that refuses everything finds nothing: a plain archive is taken. */
static void check_taken(int top)
{
	static uint8_t tar[16384] = { 0, 255 };
	struct archive *a = archive_write_new();
	struct archive_entry *en = archive_entry_new();
	size_t n = 0;

	fuzz_check(a && en && archive_write_set_format_pax_restricted(a) == ARCHIVE_OK);
	fuzz_check(archive_write_open_memory(a, tar + 2, sizeof(tar) - 2, &n) == ARCHIVE_OK);
	archive_entry_set_pathname(en, "folder/file");
	archive_entry_set_filetype(en, S_IFREG);
	archive_entry_set_perm(en, 0644);
	archive_entry_set_size(en, 6);
	fuzz_check(archive_write_header(a, en) == ARCHIVE_OK && archive_write_data(a, "inside", 6) == 6);
	archive_entry_free(en);
	fuzz_check(archive_write_free(a) == ARCHIVE_OK && n > 0);
	fuzz_check(unpack(top, tar, n + 2) == 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static int top = -1;

	if (n < 3)
		return 0;
	if (top < 0) {
		top = fuzz_folder();
		check_taken(top);
	}
	(void)unpack(top, p, n);
	return 0;
}
