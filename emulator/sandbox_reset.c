/* Starting over: every sandbox of an account, or all of them, ends ("reset"); once no process of them is left, their
 * rows and what else is remembered of the account go. Templates stay. What is made meanwhile stays as well: it is
 * of after the reset. */

#include <errno.h>
#include <string.h>

#include "emulator/base/log.h"
#include "emulator/sandbox-internal.h"

struct reset {
	struct sandboxes *m;
	char account[64]; /* "": all */
	unsigned int left;
	struct sandboxes_reset_result result;
	sandboxes_reset_fn done;
	void *arg;
};

int sandboxes_each(struct sandboxes *m, int (*fn)(void *arg, const struct sandbox_row *row), void *arg)
{
	struct sandbox *sb, *next;
	int r = 0;

	HASH_ITER(hh, m->by_id, sb, next)
	{
		r = fn(arg, &sb->row);
		if (r != 0)
			break;
	}
	return r;
}

static void finish(struct reset *rs)
{
	const char *account = rs->account[0] ? rs->account : NULL;
	struct sandboxes *m = rs->m;
	struct err e = ERR_INIT;
	int r = store_forget(m->c.store, account, &rs->result.rows, &e);

	if (r >= 0)
		r = meter_forget(m->meter, account, &e);
	if (r >= 0 && m->c.faults) {
		rs->result.faults = faults_clear(m->c.faults, account);
		sandboxes_fault_names(m);
	}
	if (r >= 0 && m->c.journal)
		journal_forget(m->c.journal, account);
	journal_add(m->c.journal, &(struct journal_event){ .type = JOURNAL_RESET, .account = account });
	log_info("reset of %s: sandboxes %u, rows %llu", account ? account : "everything", rs->result.ended,
		 (unsigned long long)rs->result.rows);
	rs->done(rs->arg, r < 0 ? &e : NULL, &rs->result);
	free(rs);
}

static void on_ended(void *arg, const struct err *e, const struct sandbox_row *row)
{
	struct reset *rs = arg;
	(void)e;
	(void)row;

	if (--rs->left == 0)
		finish(rs);
}

static int end_one(struct reset *rs, struct sandbox *sb)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	*w = (struct waiter){ .done = on_ended, .arg = rs };
	LL_APPEND(sb->enders, w);
	rs->left++;
	rs->result.ended++;
	sandbox_end(sb, "reset", NULL);
	return 0;
}

static void on_soon(void *arg, const struct err *e, const struct sandbox_row *row)
{
	on_ended(arg, e, row);
}

int sandboxes_reset(struct sandboxes *m, const char *account, sandboxes_reset_fn done, void *arg, struct err *e)
{
	struct reset *rs = calloc(1, sizeof(*rs));
	struct sandbox_row none = { 0 };
	struct sandbox *sb, *next;

	if (!rs)
		return err_errno(e, ENOMEM, "can't reset");
	*rs = (struct reset){ .m = m, .left = 1, .done = done, .arg = arg };
	if (account)
		(void)snprintf(rs->account, sizeof(rs->account), "%s", account);
	/* Answered from the loop, whether there is something to end or not. */
	if (sandbox_defer(m, on_soon, rs, &none) < 0) {
		free(rs);
		return err_errno(e, ENOMEM, "can't reset");
	}
	HASH_ITER(hh, m->by_id, sb, next)
	if ((!account || strcmp(sb->row.account, account) == 0) && end_one(rs, sb) < 0)
		log_error("%s: out of memory while everything is reset; it lives on", sb->row.id);
	return 0;
}
