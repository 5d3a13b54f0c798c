#include "emulator/base/procname.h"

#include <string.h>
#include <sys/prctl.h>

#include "emulator/base/util.h"

static char *start;
static size_t size;

void procname_init(int argc, char **argv)
{
	if (argc < 1)
		return;
	start = argv[0];
	size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0]);
}

void procname_set(const char *name)
{
	(void)prctl(PR_SET_NAME, name);
	if (!start)
		return;
	memset(start, 0, size);
	memcpy(start, name, MIN(strlen(name), size - 1));
}
