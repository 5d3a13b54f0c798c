#include "emulator/profile.h"

#include <errno.h>
#include <string.h>

static const char *const call_names[PROFILE_CALLS] = { "create", "pause", "resume", "other" };

static const struct profile profiles[] = {
	{ .name = "fast" },
	{ .name = "cloud",
	  .slow = true,
	  .limits = true,
	  .latency = { [PROFILE_CREATE] = { FAULT_NORMAL, 300, 40 },
		       [PROFILE_PAUSE] = { FAULT_NORMAL, 900, 150 },
		       [PROFILE_RESUME] = { FAULT_NORMAL, 300, 40 },
		       [PROFILE_OTHER] = { FAULT_NORMAL, 25, 5 } } },
};

int profile_get(const char *name, struct profile *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(profiles); i++)
		if (strcmp(profiles[i].name, name) == 0) {
			*ret = profiles[i];
			return 0;
		}
	return -EINVAL;
}

int profile_set_latency(struct profile *p, const char *text, struct err *e)
{
	const char *eq = strchr(text, '=');

	for (size_t i = 0; eq && i < PROFILE_CALLS; i++) {
		if (strlen(call_names[i]) != (size_t)(eq - text) ||
		    memcmp(call_names[i], text, (size_t)(eq - text)) != 0)
			continue;
		p->slow = true;
		return fault_latency_parse(eq + 1, &p->latency[i], e);
	}
	return err_set(e, ERR_INVALID, EINVAL, NULL,
		       "\"%.40s\": wanted is create, pause, resume or other, then = and a latency, as in "
		       "create=uniform(200,400)",
		       text);
}
