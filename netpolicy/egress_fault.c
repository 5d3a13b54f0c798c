#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "emulator/base/text.h"
#include "netpolicy/egress-internal.h"

/* Names whose questions fail because a test wants it (emulator/fault.h). */

int name_fault_check(const char *host)
{
	struct policy_rule r;

	if (strcmp(host, "*") == 0)
		return 0;
	return policy_rule_parse(host, &r, NULL) < 0 || !r.name[0] || r.port != 0 ? -EINVAL : 0;
}

/* "flt_1 HOST"; value: how often, 0 for ever; index: whose, EGRESS_ALL for everybody. */
int name_fault_add(struct egress *eg, const struct egress_msg *m)
{
	const char *space = strchr(m->text, ' ');
	struct name_fault f = { .index = m->index, .left = m->value }, *v;
	size_t n = space ? (size_t)(space - m->text) : 0;
	struct policy_rule rule;

	if (n == 0 || n >= sizeof(f.id) || m->value < 0 || name_fault_check(space + 1) < 0)
		return -EINVAL;
	memcpy(f.id, m->text, n);
	if (strcmp(space + 1, "*") != 0) {
		if (policy_rule_parse(space + 1, &rule, NULL) < 0)
			return -EINVAL;
		memcpy(f.name, rule.name, sizeof(f.name));
		f.below = rule.below;
	}
	if (eg->n_faults >= NAME_FAULTS_MAX)
		return -E2BIG;
	v = reallocarray(eg->faults, eg->n_faults + 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	eg->faults = v;
	v[eg->n_faults++] = f;
	return 0;
}

void name_fault_clear(struct egress *eg)
{
	free(eg->faults);
	eg->faults = NULL;
	eg->n_faults = 0;
}

void name_fault_forget(struct egress *eg, uint32_t index)
{
	for (size_t i = eg->n_faults; i > 0; i--)
		if (eg->faults[i - 1].index == index)
			eg->faults[i - 1] = eg->faults[--eg->n_faults];
}

static bool covers(const struct name_fault *f, const char *name)
{
	size_t n = strlen(name), k = strlen(f->name);

	if (!f->name[0])
		return true;
	if (!f->below)
		return strcasecmp(name, f->name) == 0;
	return n > k + 1 && name[n - k - 1] == '.' && strcasecmp(name + n - k, f->name) == 0;
}

bool name_fault_fires(struct egress *eg, const struct sandbox *s, const char *name, char rule[static POLICY_RULE_MAX])
{
	for (size_t i = 0; i < eg->n_faults; i++) {
		struct name_fault *f = &eg->faults[i];

		if ((f->index != EGRESS_ALL && f->index != s->index) || !covers(f, name))
			continue;
		(void)snprintf(rule, POLICY_RULE_MAX, EGRESS_FAULT_RULE "%s", f->id);
		if (f->left > 0 && --f->left == 0)
			eg->faults[i] = eg->faults[--eg->n_faults];
		return true;
	}
	return false;
}
