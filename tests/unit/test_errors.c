#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "api/errors.h"

Test(errors, table)
{
	static const struct {
		enum err_kind kind;
		const char *reason;
		unsigned int status;
		const char *code;
		bool hidden;
	} t[] = {
		/* wire.md, "Errors" */
		{ ERR_DENIED, "unauthorized", 401, "unauthorized", false },
		{ ERR_DENIED, "key_expired", 401, "key_expired", false },
		{ ERR_DENIED, "insufficient_scope", 403, "insufficient_scope", false },
		{ ERR_BUSY, "rate_limited", 429, "rate_limited", false },
		{ ERR_PLAN, "size_not_allowed", 402, "size_not_allowed", false },
		{ ERR_PLAN, "concurrent_limit", 402, "concurrent_limit", false },
		{ ERR_PLAN, "usage_exhausted", 402, "usage_exhausted", false },
		{ ERR_PLAN, "network_not_allowed", 402, "network_not_allowed", false },
		{ ERR_PLAN, "snapshot_cap_reached", 402, "snapshot_cap_reached", false },
		{ ERR_NOT_FOUND, "sandbox_not_found", 404, "sandbox_not_found", false },
		{ ERR_NOT_READY, "sandbox_not_ready", 409, "sandbox_not_ready", false },
		{ ERR_TIMEOUT, "exec_timeout", 408, "exec_timeout", false },
		{ ERR_POLICY, "network_policy", 403, "network_policy", false },
		{ ERR_NOT_FOUND, "file_not_found", 404, "file_not_found", false },
		{ ERR_INVALID, "is_a_directory", 400, "is_a_directory", false },
		{ ERR_INVALID, "path_invalid", 400, "path_invalid", false },
		{ ERR_NOT_FOUND, "template_not_found", 404, "template_not_found", false },
		{ ERR_UNAVAILABLE, "template_unavailable", 503, "template_unavailable", false },
		{ ERR_UNAVAILABLE, "network_unavailable", 503, "network_unavailable", false },
		{ ERR_TOO_LARGE, "payload_too_large", 413, "payload_too_large", false },
		{ ERR_FULL, "disk_full", 507, "disk_full", false },
		{ ERR_CAPACITY, "capacity", 503, "capacity", false },
		{ ERR_INTERNAL, "internal_error", 500, "internal_error", true },
		/* a reason beats the kind, an unknown one goes by it */
		{ ERR_IO, "sandbox_not_found", 404, "sandbox_not_found", false },
		{ ERR_PLAN, "something_new", 402, "something_new", false },
		{ ERR_IO, "something_new", 500, "internal_error", true },
		/* no reason: what may be a strerror with a path stays in the log */
		{ ERR_INVALID, NULL, 400, "invalid_request", false },
		{ ERR_NOT_FOUND, NULL, 404, "not_found", true },
		{ ERR_NOT_READY, NULL, 409, "sandbox_not_ready", false },
		{ ERR_CAPACITY, NULL, 503, "capacity", true },
		{ ERR_FULL, NULL, 507, "disk_full", true },
		{ ERR_IO, NULL, 500, "internal_error", true },
		{ ERR_INTERNAL, NULL, 500, "internal_error", true },
		{ ERR_NONE, NULL, 500, "internal_error", true },
		{ (enum err_kind)99, NULL, 500, "internal_error", true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		struct err e = { .kind = t[i].kind, .reason = t[i].reason, .msg = "open /var/lib/secret" };
		struct errors_answer a;

		errors_map(&e, &a);
		cr_expect_eq(a.status, t[i].status, "row %zu: %u", i, a.status);
		cr_expect_str_eq(a.code, t[i].code, "row %zu: %s", i, a.code);
		cr_expect_eq(a.detail != NULL, t[i].hidden, "row %zu", i);
	}
}
