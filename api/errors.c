#include "api/errors.h"

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
