#pragma once
/* A command as the wire shows it (wire.md, "Exec"): how it ended, what it is, what it wrote. */

#include <json-c/json.h>

#include "emulator/exec.h"

/* Members, with no comma before or behind: "exit_code":0,... to "background_processes":0. */
int exec_json_outcome(struct buf *b, const struct exec_result *r) _warn_unused_;

/* "name":[{"host","ip","port","proto","rule"}, ...], as exec_json_outcome. */
int exec_json_blocked(struct buf *b, const char *name, const struct exec_result *x) _warn_unused_;

/* The state of one, without its output. NULL out of memory. */
struct json_object *exec_json_info(const struct exec_info *i);

/* "SIGKILL"; "SIG34" for one without a name. */
#define EXEC_SIGNAL_NAME_SIZE 16
void exec_signal_name(int sig, char ret[static EXEC_SIGNAL_NAME_SIZE]);
/* "SIGINT", "INT", "sigint"; 0 for what is no signal's name. */
int exec_signal_number(const char *name);
