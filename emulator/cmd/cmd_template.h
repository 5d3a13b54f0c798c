#pragma once

/* `orkestr-emulator template ...`: makes, shows and removes templates. Exit status 0, 1 when it failed, 2
 * for bad usage. argv[0] is "template". */
int cmd_template(int argc, char **argv);
