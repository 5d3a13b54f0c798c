#pragma once

#include "emulator/idmap.h"

/* Ends what a killed emulator left of this state dir, and removes it with everything in it. Says nothing unless it
 * fails; the exit status. Nobody may run on it. */
int cmd_clean_folder(const struct idmap *m, int state_fd, const char *path);
