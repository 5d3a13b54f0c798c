/* Paths of the files API in a tree with traps. A script of operations, each on a path of the input's: nothing outside
 * of the root changes or is read. */

#include "emulator/files.h"
#include "tests/fuzz/fuzz.h"

static int top = -1, root = -1;

static void make_tree(void)
{
	int fd;

	(void)mkdirat(top, "root", 0777);
	root = openat(top, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fuzz_check(root >= 0);
	fd = openat(top, "secret", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	fuzz_check(fd >= 0 && write(fd, "secret", 6) == 6);
	closep(&fd);
	fuzz_check(symlinkat("..", root, "up") == 0 && symlinkat("/secret", root, "abs") == 0 &&
		   symlinkat("../../secret", root, "rel") == 0 && symlinkat("loop", root, "loop") == 0 &&
		   mkdirat(root, "d", 0777) == 0 && mkfifoat(root, "fifo", 0666) == 0 &&
		   symlinkat("/d/../../..", root, "d/far") == 0);
}

static void one(const struct files_ctx *c, unsigned int op, const char *path)
{
	struct files_entry en;
	struct files_write *w;
	struct files_dir *dir;
	struct err e = ERR_INIT;
	char text[8];
	int r = 0, fd;

	switch (op % 4) {
	case 0:
		r = fd = files_open(c, path, &en, &e);
		if (fd >= 0)
			fuzz_check(read(fd, text, 6) != 6 || memcmp(text, "secret", 6) != 0);
		closep(&fd);
		break;
	case 1:
		r = files_write_begin(c, path, op & 64 ? 0755 : UINT32_MAX, &w, &e);
		if (r == 0 && files_write_data(w, "data", 4, &e) == 0)
			r = files_write_commit(w, &en, &e);
		else if (r == 0)
			files_write_abort(w);
		break;
	case 2:
		r = files_dir_open(c, path, NULL, 10, &dir, &e);
		while (r == 0 && files_dir_next(dir, &en, &e) == 1)
			fuzz_check(en.name && *en.name && !strchr(en.name, '/'));
		if (r == 0)
			files_dir_free(dir);
		break;
	default:
		r = files_remove(c, path, op & 64, &e);
		break;
	}
	fuzz_check(r >= 0 || (e.kind != ERR_NONE && e.msg[0] && strlen(e.msg) < sizeof(e.msg)));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct fuzz_input in = { p, n };
	struct files_ctx c;
	struct stat st;
	char text[8];
	int fd;

	if (top < 0)
		top = fuzz_folder();
	fuzz_drop();
	make_tree();
	c = (struct files_ctx){ .root_fd = root, .uid = (uid_t)setfsuid((uid_t)-1) };
	for (int i = 0; in.n > 1 && i < 12; i++) {
		unsigned int op = fuzz_byte(&in);
		const uint8_t *end = memchr(in.p, '\n', in.n);
		size_t len = end ? (size_t)(end - in.p) : in.n;
		char *path = fuzz_string(in.p, len);

		in.p += MIN(len + 1, in.n);
		in.n -= MIN(len + 1, in.n);
		one(&c, op, path);
		free(path);
	}
	fd = openat(top, "secret", O_RDONLY | O_CLOEXEC);
	fuzz_check(fd >= 0 && read(fd, text, sizeof(text)) == 6 && memcmp(text, "secret", 6) == 0);
	closep(&fd);
	fuzz_check(fstat(top, &st) == 0 && st.st_nlink == 3);
	closep(&root);
	fuzz_regain();
	fuzz_check(tree_remove(top, "root", NULL) == 0);
	return 0;
}
