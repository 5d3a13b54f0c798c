/* What the journal is told of a command. A command line may hold a secret, as an argument or an assignment; so
 * unless it was wanted otherwise only the program's name is told, and not even that where it isn't plain. */

#include <string.h>

#include "emulator/base/text.h"
#include "emulator/exec-internal.h"

#define PLAIN "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-"

void exec_journal_text(const char *command, bool shell, bool more, char ret[static EXEC_JOURNAL_TEXT])
{
	static const char hidden[] = "\xe2\x80\xa6"; /* an ellipsis */
	size_t from = shell ? strspn(command, " \t\n") : 0, n = strspn(command + from, PLAIN);
	const char *after = command + from + n;
	bool plain = n > 0 && n < EXEC_JOURNAL_TEXT - sizeof(hidden) - 1 &&
		     (!*after || (shell && strchr(" \t\n;|&<>", *after)));

	if (shell)
		more = after[strspn(after, " \t\n")] != '\0';
	if (!plain)
		(void)snprintf(ret, EXEC_JOURNAL_TEXT, "%s", hidden);
	else
		(void)snprintf(ret, EXEC_JOURNAL_TEXT, "%.*s%s%s", (int)n, command + from, more ? " " : "",
			       more ? hidden : "");
}

static void tell(const struct exec *x, enum journal_type type, const char *detail)
{
	const struct journal_event ev = { .type = type,
					  .account = x->sb->row.account,
					  .sandbox = x->sb->row.id,
					  .subject = x->name,
					  .detail = detail,
					  .duration_us =
						  type == JOURNAL_EXEC_ENDED ? (int64_t)x->res.duration_ms * 1000 : 0 };

	journal_add(x->m->c.journal, &ev);
}

/* Its words with spaces between. */
static void whole_command(const struct exec *x, char ret[static EXEC_JOURNAL_TEXT])
{
	const char *p = x->args;
	size_t at = 0;

	ret[0] = '\0';
	for (size_t i = 0; i < x->n_args && at < EXEC_JOURNAL_TEXT; i++, p += strlen(p) + 1)
		at += (size_t)snprintf(ret + at, EXEC_JOURNAL_TEXT - at, "%s%s", i ? " " : "", p);
}

void exec_tell_started(const struct exec *x)
{
	char text[EXEC_JOURNAL_TEXT] = "";

	if (!x->m->c.journal)
		return;
	if (x->m->c.journal_commands)
		whole_command(x, text);
	else if (x->args)
		exec_journal_text(x->args, x->shell, x->n_args > 1, text);
	tell(x, JOURNAL_EXEC_STARTED, text);
}

void exec_tell_ended(const struct exec *x)
{
	const struct exec_result *r = &x->res;
	char text[64];

	if (!x->m->c.journal || !x->sb)
		return;
	if (r->reason == EXEC_EXITED)
		(void)snprintf(text, sizeof(text), "exited %d", r->exit_code);
	else if (r->reason == EXEC_SIGNAL)
		(void)snprintf(text, sizeof(text), "signal %d", r->signal);
	else
		(void)snprintf(text, sizeof(text), "%s", exec_reason_name(r->reason));
	tell(x, JOURNAL_EXEC_ENDED, text);
}
