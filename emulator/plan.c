#include <errno.h>
#include <string.h>

#include "emulator/account.h"

/* wire.md, Limits. The numbers marked D there are the cloud's own; the rest is our reading. */

#define BIT(s) (1u << (s))

const struct size_spec size_menu[SIZE_COUNT] = {
	[SIZE_SMALL] = { "small", 500, 512 },
	[SIZE_MEDIUM] = { "medium", 2000, 4096 },
	[SIZE_LARGE] = { "large", 4000, 8192 },
};

static const struct plan plans[] = {
	[PLAN_FREE] = {
		.name = "free",
		.sizes = BIT(SIZE_SMALL),
		.max_cpu_millis = 500,
		.max_memory_mb = 512,
		.max_concurrent = 1,
		.max_snapshots = 1,
		.max_timeout_s = 3600,
		.gb_hours = 10.0,
		.cpu_hours = 2.0,
		.network_open = false,
		.rate = { 60, 60 },
	},
	[PLAN_PRO] = {
		.name = "pro",
		.sizes = BIT(SIZE_SMALL) | BIT(SIZE_MEDIUM),
		.max_cpu_millis = 2000,
		.max_memory_mb = 4096,
		.max_concurrent = 5,
		.max_snapshots = 3,
		.max_timeout_s = 3600,
		.gb_hours = 200.0,
		.cpu_hours = 100.0,
		.network_open = true,
		.rate = { 300, 60 },
	},
	[PLAN_TEAM] = {
		.name = "team",
		.sizes = BIT(SIZE_SMALL) | BIT(SIZE_MEDIUM) | BIT(SIZE_LARGE),
		.max_cpu_millis = 4000,
		.max_memory_mb = 8192,
		.max_concurrent = 15,
		.max_snapshots = 10,
		.max_timeout_s = 3600,
		.gb_hours = 2000.0,
		.cpu_hours = 1000.0,
		.network_open = true,
		.rate = { 1200, 60 },
	},
};

int size_parse(const char *name, enum size_id *ret)
{
	for (size_t i = 0; i < SIZE_COUNT; i++)
		if (strcmp(name, size_menu[i].name) == 0) {
			*ret = (enum size_id)i;
			return 0;
		}
	return -EINVAL;
}

const struct plan *plan_get(enum plan_id id)
{
	return &plans[id];
}

int plan_parse(const char *name, enum plan_id *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(plans); i++)
		if (strcmp(name, plans[i].name) == 0) {
			*ret = (enum plan_id)i;
			return 0;
		}
	return -EINVAL;
}
