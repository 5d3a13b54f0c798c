#!/usr/bin/env bash
# Is the linked program hardened as the Makefile means it to be?    hardening.sh PROGRAM
set -uo pipefail
bin=$1
passed=0 failed=0
header=$(readelf -hW "$bin") && segments=$(readelf -lW "$bin") && dynamic=$(readelf -dW "$bin") &&
	symbols=$(readelf -W --dyn-syms "$bin") || exit 1

check() { # what, a command
	local what=$1
	shift
	if "$@"; then
		passed=$((passed + 1))
		echo "ok      $what"
	else
		failed=$((failed + 1))
		echo "FAILED  $what"
	fi
}
has() { grep -qE "$1" <<<"$2"; }
has_not() { ! grep -qE "$1" <<<"$2"; }

check "position independent executable" has 'Type: +DYN' "$header"
check "marked as PIE" has 'FLAGS_1.*PIE' "$dynamic"
check "RELRO segment" has 'GNU_RELRO' "$segments"
check "all symbols bound at start (now)" has 'BIND_NOW|FLAGS_1.*NOW' "$dynamic"
check "stack not executable" has 'GNU_STACK.* RW ' "$segments"
check "no segment both writable and executable" has_not 'LOAD.* RWE ' "$segments"
check "stack protector" has '__stack_chk_fail' "$symbols"
check "fortified libc calls" has '__[a-z]+_chk(@|$| )' "$(grep -v __stack_chk_fail <<<"$symbols")"
check "no rpath" has_not 'RPATH|RUNPATH' "$dynamic"
check "no text relocations" has_not 'TEXTREL' "$dynamic"
check "libsystemd is not linked" has_not 'NEEDED.*libsystemd' "$dynamic"
check "threads are not linked in by name" has_not 'pthread_create' "$symbols"
echo "hardening: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
