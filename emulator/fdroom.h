#pragma once
/* Room in the daemon's table of descriptors (RLIMIT_NOFILE). The last of them are for connections: without one there is
 * nobody who could be told that there is no room, and what lives could not be asked for or ended any more. So whoever is
 * about to open several asks first. */

#include "emulator/base/err.h"

#define FDROOM_SANDBOX 96 /* a new sandbox leaves so many free */
#define FDROOM_COMMAND 48 /* a new command; smaller, so that what lives can be used when nothing new can be made */

/* ERR_CAPACITY unless `spare` descriptors are left. */
int fdroom_check(unsigned int spare, struct err *e);
