#include "api/errors.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *reason;
	unsigned int status;
} by_reason[] = {
	{ "unauthorized", 401 },
	{ "key_expired", 401 },
	{ "insufficient_scope", 403 },
	{ "rate_limited", 429 },
	{ "size_not_allowed", 402 },
	{ "concurrent_limit", 402 },
	{ "usage_exhausted", 402 },
	{ "network_not_allowed", 402 },
	{ "snapshot_cap_reached", 402 },
	{ "pause_unsupported", 501 },
	{ "snapshot_unsupported", 501 },
	{ "snapshot_damaged", 503 },
	{ "memory_lost", 409 },
	{ "sandbox_not_found", 404 },
	{ "sandbox_not_ready", 409 },
	{ "exec_timeout", 408 },
	{ "network_policy", 403 },
	{ "path_invalid", 400 },
	{ "file_not_found", 404 },
	{ "is_a_directory", 400 },
	{ "not_a_directory", 400 },
	{ "not_a_file", 400 },
	{ "directory_not_empty", 409 },
	{ "template_not_found", 404 },
	{ "template_unavailable", 503 },
	{ "network_unavailable", 503 },
	{ "not_implemented", 501 },
	{ "payload_too_large", 413 },
	{ "disk_full", 507 },
	{ "capacity", 503 },
	{ "idempotency_mismatch", 409 },
	{ "internal_error", 500 },
	{ "invalid_fault", 422 },
	{ "invalid_seed", 422 },
	{ "seed_command_failed", 422 },
	{ "fault_not_found", 404 },
	{ "too_many_faults", 409 },
	{ "faults_disabled", 403 },
};

static const struct {
	unsigned int status;
	const char *code, *detail;
} by_kind[] = {
	[ERR_NONE] = { 500, "internal_error", "internal error" },
	[ERR_INVALID] = { 400, "invalid_request", NULL },
	[ERR_NOT_FOUND] = { 404, "not_found", "not found" },
	[ERR_EXISTS] = { 409, "already_exists", NULL },
	[ERR_NOT_READY] = { 409, "sandbox_not_ready", NULL },
	[ERR_PLAN] = { 402, "plan_limit", NULL },
	[ERR_POLICY] = { 403, "network_policy", NULL },
	[ERR_DENIED] = { 403, "forbidden", NULL },
	[ERR_TIMEOUT] = { 408, "timeout", NULL },
	[ERR_BUSY] = { 409, "busy", NULL },
	[ERR_CAPACITY] = { 503, "capacity", "the emulator is at a limit of this host" },
	[ERR_FULL] = { 507, "disk_full", "no space left on the emulator's disk" },
	[ERR_TOO_LARGE] = { 413, "payload_too_large", NULL },
	[ERR_UNAVAILABLE] = { 503, "unavailable", NULL },
	[ERR_UNSUPPORTED] = { 501, "not_implemented", NULL },
	[ERR_IO] = { 500, "internal_error", "internal error" },
	[ERR_INTERNAL] = { 500, "internal_error", "internal error" },
};

/* A message with a reason was written for the client; one without may come from err_errno, deep below. */
void errors_map(const struct err *e, struct errors_answer *ret)
{
	size_t kind = (size_t)e->kind < ARRAY_SIZE(by_kind) ? (size_t)e->kind : ERR_INTERNAL;

	ret->status = by_kind[kind].status;
	ret->code = e->reason ? e->reason : by_kind[kind].code;
	ret->detail = e->reason ? NULL : by_kind[kind].detail;
	for (size_t i = 0; e->reason && i < ARRAY_SIZE(by_reason); i++)
		if (strcmp(by_reason[i].reason, e->reason) == 0)
			ret->status = by_reason[i].status;
	if (ret->status == 500) {
		ret->code = "internal_error";
		ret->detail = "internal error";
	}
}

/* ---- answers that are made up ---- */

static unsigned int status_of(const char *code)
{
	for (size_t i = 0; i < ARRAY_SIZE(by_reason); i++)
		if (strcmp(by_reason[i].reason, code) == 0)
			return by_reason[i].status;
	return 0;
}

int errors_check_code(unsigned int status, const char *code, struct err *e)
{
	if (!code[0] || status != 0 || status_of(code) != 0)
		return 0;
	return err_set(e, ERR_INVALID, EINVAL, "invalid_fault",
		       "code: \"%.40s\" has no status here; give one too, as in \"status=418; code=%.40s\"", code,
		       code);
}

void errors_complete(unsigned int *status, const char **code)
{
	static const struct {
		unsigned int status;
		const char *code;
	} usual[] = {
		{ 400, "invalid_request" }, { 401, "unauthorized" },	  { 402, "plan_limit" },
		{ 403, "forbidden" },	    { 404, "not_found" },	  { 408, "timeout" },
		{ 409, "conflict" },	    { 413, "payload_too_large" }, { 422, "validation_error" },
		{ 429, "rate_limited" },    { 501, "not_implemented" },	  { 503, "unavailable" },
		{ 507, "disk_full" },
	};

	if (*status == 0)
		*status = status_of(*code);
	if (*status == 0)
		*status = 500;
	if (**code)
		return;
	*code = *status < 500 ? "invalid_request" : "internal_error";
	for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
		if (usual[i].status == *status)
			*code = usual[i].code;
}

const char *errors_detail(const char *code)
{
	static const struct {
		const char *code, *detail;
	} known[] = {
		{ "unauthorized", "Invalid API key" },
		{ "key_expired", "the API key has expired" },
		{ "insufficient_scope", "the token lacks the scope sandboxes:write" },
		{ "rate_limited", "too many requests" },
		{ "size_not_allowed", "the size is more than the plan allows" },
		{ "concurrent_limit", "the plan allows no more sandboxes at a time" },
		{ "usage_exhausted", "the plan's usage of this month is used up" },
		{ "network_not_allowed", "the network mode is not part of the plan" },
		{ "snapshot_cap_reached", "the plan keeps no more snapshots" },
		{ "sandbox_not_found", "the sandbox does not exist" },
		{ "sandbox_not_ready", "the sandbox is not running" },
		{ "exec_timeout", "the command did not end in time" },
		{ "network_policy", "the network policy refused a connection" },
		{ "disk_full", "no space left on the sandbox's disk" },
		{ "capacity", "the service has no room for it now" },
		{ "snapshot_damaged", "the snapshot can't be read" },
		{ "template_unavailable", "the template can't be had now" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strcmp(known[i].code, code) == 0)
			return known[i].detail;
	return "an injected fault";
}
