/* A state dir for one run lies in another one, two folders down, and has its layers: `orkestr-emulator exec`. Its
 * disk/l holds an empty folder for each; here, in a mount namespace nobody else sees, the real one covers it,
 * read-only. Layers made during the run lie beside them. */

#include "emulator/keeper_share.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>

#include "emulator/base/text.h"

static int share(const char *name, struct err *e)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_RDONLY };
	char from[PATH_MAX], to[PATH_MAX];
	_cleanup_close_ int tree = -1;

	if (text_format(from, sizeof(from), KEEPER_SHARE_FROM "/%s", name) < 0 ||
	    text_format(to, sizeof(to), "disk/l/%s", name) < 0)
		return err_errno(e, ENAMETOOLONG, "a layer's name");
	tree = open_tree(AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
	if (tree < 0)
		return err_errno(e, errno, "the shared layer %s", name);
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ||
	    move_mount(tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return err_errno(e, errno, "sharing the layer %s", name);
	return 0;
}

int keeper_share_layers(struct err *e)
{
	DIR *d = opendir("disk/l");
	const struct dirent *de;
	int r = 0;

	if (!d)
		return err_errno(e, errno, "disk/l");
	while (r == 0 && (de = readdir(d)))
		if (de->d_name[0] != '.')
			r = share(de->d_name, e);
	(void)closedir(d);
	return r;
}
