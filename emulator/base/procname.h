#pragma once
/* What ps(1) shows of a process. A sandbox can read /proc/1/cmdline, and a copy of the emulator would show it the
 * emulator's whole command line there. */

/* main() only: where the arguments are, for procname_set in this process or a copy of it. */
void procname_init(int argc, char **argv);

/* Overwrites the command line and the short name (at most 15 characters). The arguments are gone then. */
void procname_set(const char *name);
