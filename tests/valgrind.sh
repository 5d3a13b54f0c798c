#!/usr/bin/env bash
# `make valgrind`: what the sanitizers can't see (reads of what was never written) in all that parses, in the HTTP server
# around it, and in the daemon itself: the fuzz targets over their corpus, unit tests, and the API suite over a daemon
# that runs under memcheck (tests/api/harness/memcheck.py says how).
#   valgrind.sh BUILD [ARGUMENT...]    arguments go to pytest: test_exec.py -k utf8
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1
shift
if ! command -v valgrind >/dev/null; then
	echo "skipped: there is no valgrind here (apt-get install valgrind)"
	echo "valgrind: 0 passed, 0 failed, 1 skipped"
	[ "${MUST_RUN:-0}" != 1 ]
	exit
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0

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

# The API suite's own failures are printed and not counted: under memcheck a second is short, and the API suite is
# `make test`'s. What counts is what valgrind says of the daemon and of the workers it forked.
daemon() {
	local logs=$PWD/$build/memcheck wants=3.24 has pid bad=()
	has=$(valgrind --version | grep -oE '[0-9]+\.[0-9]+')
	if [ "$(printf '%s\n' "$wants" "$has" | sort -V | head -n 1)" != "$wants" ]; then
		echo "skipped: daemon: valgrind $has does not know openat2; $wants does (Debian 13)"
		skipped=$((skipped + 1))
		return
	fi
	rm -rf "$logs" && mkdir -p "$logs" && chmod 1777 "$logs"
	MEMCHECK_PROGRAM=$PWD/$build/orkestr-emulator MEMCHECK_LOGS=$logs ORKESTR_TEST_SLOW=${ORKESTR_TEST_SLOW:-8} \
		ORKESTR_EMULATOR=$PWD/tests/api/harness/memcheck.py tests/api/run -q "$@"
	for log in "$logs"/*.log; do
		pid=$(basename "$log" .log)
		if grep -qE '^==[0-9]+== .*(uninitialised|Invalid (read|write|free)|unaddressable)' "$log" ||
			{ [ -e "$logs/$pid.daemon" ] && grep -q 'definitely lost' "$log"; }; then
			bad+=("$log")
		fi
	done
	printf 'daemon: %d of them, %d processes in all, valgrind found something in %d\n' \
		"$(find "$logs" -name '*.daemon' | wc -l)" "$(find "$logs" -name '*.log' | wc -l)" ${#bad[@]}
	if [ ${#bad[@]} = 0 ] && compgen -G "$logs/*.daemon" >/dev/null; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		[ ${#bad[@]} = 0 ] || tail -n 40 "${bad[@]}"
	fi
}
daemon "$@"
echo "valgrind: $passed passed, $failed failed, $skipped skipped"
[ "${MUST_RUN:-0}" != 1 ] || failed=$((failed + skipped))
[ "$failed" = 0 ]
