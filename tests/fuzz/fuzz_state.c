/* The JSON files of a state dir that somebody else may have written: a snapshot's manifest, a layer's and a template's
 * description; and what an image says about itself. */

#include "emulator/base/fd.h"
#include "rootfs/image.h"
#include "rootfs/json.h"
#include "rootfs/layer.h"
#include "rootfs/snapshot.h"
#include "rootfs/template.h"
#include "tests/fuzz/fuzz.h"

#define LAYER "0123456789abcdef01234567"
#define ID "sbx_01HXYZ00000000000000000000"

static void put(int at, const char *path, const void *p, size_t n)
{
	int fd = openat(at, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	fuzz_check(fd >= 0 && fd_write_all(fd, p, n) == 0);
	closep(&fd);
}

static void load_all(int at)
{
	static struct snapshot_dir d = { .dir_fd = -1, .state_fd = -1 };
	struct json_object *manifest = NULL;
	struct snapshot_info si;
	struct layer_info li;
	struct template *t = NULL;
	struct err e = ERR_INIT;

	if (d.dir_fd < 0)
		fuzz_check(snapshot_dir_open(at, -1, NULL, &d, &e) == 0);
	if (snapshot_load(&d, ID, &si, &e) == 0)
		fuzz_check(strcmp(si.id, ID) == 0 && strlen(si.tar_digest) == 64);
	else
		fuzz_check(e.kind != ERR_NONE && e.msg[0]);
	if (snapshot_manifest(&d, ID, &manifest, &e) == 0)
		json_object_put(manifest);
	if (layer_load(at, LAYER, &li, &e) == 0)
		fuzz_check(strcmp(li.id, LAYER) == 0);
	if (template_load(at, "fuzz", &t, &e) == 0) {
		fuzz_check(t->n_layers > 0 && t->n_layers <= TEMPLATE_MAX_LAYERS);
		for (size_t i = 0; i < t->n_layers; i++)
			fuzz_check(!strchr(t->layers[i], '/') && t->layers[i][0] != '.');
	}
	template_free(t);
}

static void about(int at)
{
	char text[96];
	int fd = openat(at, "image", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	fuzz_check(fd >= 0);
	image_distribution(fd, text, sizeof(text));
	fuzz_check(memchr(text, '\0', sizeof(text)));
	image_interpreter(fd, text, sizeof(text));
	fuzz_check(memchr(text, '\0', sizeof(text)));
	closep(&fd);
}

static int prepare(void)
{
	static const char *const folders[] = { "snapshots",
					       "templates",
					       "disk",
					       "disk/l",
					       ("disk/l/" LAYER),
					       "image",
					       "image/etc",
					       "image/usr",
					       "image/usr/local",
					       "image/usr/local/include",
					       "image/usr/local/include/node" };
	int at = fuzz_folder();

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++)
		fuzz_check(mkdirat(at, folders[i], 0777) == 0);
	put(at, "snapshots/" ID ".tar.zst", "x", 1);
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static int at = -1;

	if (at < 0)
		at = prepare();
	if (n > 65536)
		return 0;
	put(at, "snapshots/" ID ".json", p, n);
	put(at, "disk/l/" LAYER ".json", p, n);
	put(at, "templates/fuzz.json", p, n);
	put(at, "image/etc/os-release", p, n);
	put(at, "image/usr/local/include/node/node_version.h", p, n);
	load_all(at);
	about(at);
	return 0;
}
