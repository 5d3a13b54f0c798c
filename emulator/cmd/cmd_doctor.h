#pragma once

/* `orkestr-emulator doctor`: checks the host. Exit status 0 if sandboxes can run, 1 if not, 2 for bad usage. */
int cmd_doctor(int argc, char **argv);
