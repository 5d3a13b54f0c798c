#pragma once
/* Keeper only: the layers of the state dir that this one lies in (STATE/runs/RUN). */

#include "emulator/base/err.h"

#define KEEPER_SHARE_RUNS "runs"
#define KEEPER_SHARE_FROM "../../disk/l" /* from the run's own state dir, the current folder */

/* Covers each folder in disk/l by the one of the same name there, read-only. Before anything of disk is cloned. */
int keeper_share_layers(struct err *e);
