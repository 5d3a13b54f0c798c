/* Fault rules about names: they are the egress process's to carry out. It counts for itself and tells each time. */

#include <errno.h>
#include <string.h>

#include "emulator/base/text.h"
#include "emulator/sandbox-internal.h"
#include "netpolicy/egress.h"

static const struct sandbox *by_id(const struct sandboxes *m, const char *id)
{
	const struct sandbox *sb;

	HASH_FIND(hh, m->by_id, id, strlen(id), sb);
	return sb;
}

int sandboxes_fault_names_ready(struct sandboxes *m, const struct fault_rule *r, struct err *e)
{
	const struct sandbox *sb = r->sandbox[0] ? by_id(m, r->sandbox) : NULL;

	if (m->egress_lost)
		return err_set(e, ERR_UNAVAILABLE, ENETDOWN, "network_unavailable",
			       "no sandbox has a network on this host, so no name can fail");
	if (name_fault_check(r->host) < 0)
		return err_set(e, ERR_INVALID, EINVAL, "invalid_fault", "host: a name, *.NAME for all below it, or *");
	if (r->account[0] || r->key[0])
		return err_set(e, ERR_INVALID, EINVAL, "invalid_fault", "dns: goes with host, sandbox and times only");
	if (r->sandbox[0] && (!sb || sb->net_index < 0))
		return err_set(e, ERR_INVALID, ENOENT, "invalid_fault",
			       "sandbox: %.40s does not run with a network of its own", r->sandbox);
	return 0;
}

static void tell(struct sandboxes *m, const struct fault_rule *r)
{
	const struct sandbox *sb = r->sandbox[0] ? by_id(m, r->sandbox) : NULL;
	struct egress_msg msg = { .magic = EGRESS_MAGIC, .type = EGRESS_FAULT, .index = EGRESS_ALL };

	if (!r->effect.dns_servfail || (r->times > 0 && r->hits >= r->times))
		return;
	if (r->sandbox[0] && (!sb || sb->net_index < 0))
		return;
	if (sb)
		msg.index = (uint32_t)sb->net_index;
	msg.value = (int32_t)(r->times > 0 ? MIN(r->times - r->hits, (uint64_t)INT32_MAX) : 0);
	if (text_format(msg.text, sizeof(msg.text), "%s %s", r->id, r->host) >= 0)
		(void)sandboxes_tell_egress(m, &msg);
}

void sandboxes_fault_names(struct sandboxes *m)
{
	const struct egress_msg forget = { .magic = EGRESS_MAGIC, .type = EGRESS_FAULT };

	if (m->egress_lost)
		return;
	(void)sandboxes_tell_egress(m, &forget);
	for (size_t i = 0; i < faults_count(m->c.faults); i++)
		tell(m, faults_at(m->c.faults, i));
}

void sandbox_fault_hit(const struct sandbox *sb, const char *id, const char *host)
{
	if (!sb->m->c.faults || !faults_hit(sb->m->c.faults, id))
		return;
	journal_add(sb->m->c.journal, &(struct journal_event){ .type = JOURNAL_FAULT_FIRED,
							       .account = sb->row.account,
							       .sandbox = sb->row.id,
							       .subject = id,
							       .detail = host });
}
