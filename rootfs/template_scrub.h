#pragma once
/* Takes what a build leaves behind, and no sandbox needs, off an upper folder: package caches, logs,
 * temporary files, shell histories, the machine's id. What the layers below have in these places shows
 * again: it is the base's business. Folders stay, for programs expect theirs (/var/log/nginx).
 *
 * The folder is hostile: nothing is followed. Blocking. */

#include "emulator/base/err.h"

int template_scrub(int upper_fd, struct err *e);
