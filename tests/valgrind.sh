#!/usr/bin/env bash
# `make valgrind`: what the sanitizers can't see (reads of what was never written) in all that parses, and in the HTTP
# server around it: the fuzz targets over their corpus, and unit tests.
#   valgrind.sh BUILD
# Not the whole daemon: valgrind 3.19 knows neither clone3, open_tree, seccomp, openat2 nor execveat, so no sandbox starts under it.
# What a real one does is `make asan`'s.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1
if ! command -v valgrind >/dev/null; then
	echo "skipped: there is no valgrind here (apt-get install valgrind)"
	echo "valgrind: 0 passed, 0 failed, 1 skipped"
	[ "${MUST_RUN:-0}" != 1 ]
	exit
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0

# Errors and definite leaks fail; what is still reachable at the end is the target's own scenery.
check() { # name, command...
	local name=$1
	shift
	timeout -k 5 900 valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite \
		--show-leak-kinds=definite --trace-children=yes --trace-children-skip='*/nft' "$@" </dev/null >"$log" 2>&1
	local rc=$?
	if [ $rc = 0 ] && ! grep -qE '^==[0-9]+== .*(uninitialised|Invalid (read|write|free)|definitely lost)' "$log"; then
		passed=$((passed + 1))
		printf '%-24s ok\n' "$name"
	else
		failed=$((failed + 1))
		printf '%-24s FAILED (%d)\n' "$name" $rc
		tail -n 60 "$log"
	fi
}

# Not pid1, which leaves functions by longjmp with what they held; nor those that need openat2.
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	[[ $name =~ ^fuzz_(pid1|files|unpack|state)$ ]] || check "$name" "$build/fuzz/$name" "$name" tests/fuzz/corpus/"${name#fuzz_}"/*
done
for name in test_validate test_ledger test_dns test_exec_log test_exec_init test_errors test_base_buf test_base_text; do
	check "$name" "$build/unit/$name" -j1
done
echo "valgrind: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
