/* A snapshot from elsewhere: the archive `snapshot import` reads. Whatever it is, either it becomes a whole snapshot under
 * the name it was given, or none, and nothing else is left in the folders but what the next start removes. */

#include <dirent.h>

#include "emulator/base/fd.h"
#include "rootfs/snapshot_archive.h"
#include "tests/fuzz/fuzz.h"

#define ID "sbx_01HXYZ00000000000000000000"

static int accept_all(void *arg _unused_, struct json_object *manifest, const struct snapshot_info *i,
		      struct err *e _unused_)
{
	fuzz_check(json_object_is_type(manifest, json_type_object) && strlen(i->tar_digest) == 64);
	return 0;
}

static size_t count(int at, const char *path)
{
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fdopendir(fd);
	const struct dirent *en;
	size_t n = 0;

	fuzz_check(d);
	while ((en = readdir(d)))
		n += en->d_name[0] != '.';
	(void)closedir(d);
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct snapshot_dir d = { .dir_fd = -1, .state_fd = -1 };
	static int at = -1;
	struct layer_env env = { .sandbox_uid = 0, .single_id = true };
	struct snapshot_import s = { .d = &d, .env = &env, .id = ID, .check = accept_all };
	struct snapshot_info info;
	struct err e = ERR_INIT;
	int r, before;

	if (at < 0) {
		at = fuzz_folder();
		fuzz_check(tree_prepare_state(at, &e) == 0 && snapshot_dir_open(at, -1, NULL, &d, &e) == 0);
	}
	before = fuzz_lowest_fd();
	env.state_fd = at;
	s.in_fd = fd_memfile("archive", p, n);
	fuzz_check(s.in_fd >= 0);
	r = snapshot_import(&s, &e);
	fuzz_check(r == 0 || (e.kind != ERR_NONE && e.msg[0] && strlen(e.msg) < sizeof(e.msg)));
	closep(&s.in_fd);
	fuzz_check(fuzz_lowest_fd() == before);
	fuzz_check(count(at, "snapshots") == (r == 0 ? 2 : 0));
	fuzz_check(count(at, "disk/s") == 0);
	if (r == 0) {
		fuzz_check(snapshot_load(&d, ID, &info, &e) == 0);
		fuzz_check(snapshot_remove(&d, ID, &e) == 0);
	}
	(void)tree_empty_trash(at, NULL);
	return 0;
}
