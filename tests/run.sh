#!/usr/bin/env bash
# Runs the named suites one after the other, goes on when one fails, and ends with each one's closing line
# and their sum.    run.sh BUILD SUITE...    suites: unit hardening structure fuzz api
# MUST_RUN=1 makes a skip a failure. Logs: BUILD/test-logs/.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1
shift
logs=$build/test-logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
closing=()

# count "12 passed, 1 failed, 2 skipped, 1 error" -> the three sums
count() {
	local n
	n=$(grep -oE '[0-9]+ passed' <<<"$1" | grep -oE '[0-9]+' || echo 0)
	passed=$((passed + n))
	while read -r n; do
		failed=$((failed + n))
	done < <(grep -oE '[0-9]+ (failed|errors?)' <<<"$1" | grep -oE '[0-9]+')
	n=$(grep -oE '[0-9]+ skipped' <<<"$1" | grep -oE '[0-9]+' || echo 0)
	skipped=$((skipped + n))
}

# One suite, its output also in $1. Through a file and not a pipe: a process that a failed test leaves behind
# would hold a pipe open, and this script would wait for it for ever.
logged() {
	local log=$1 pid
	shift
	: >"$log"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	tail -n +1 -f --pid="$pid" "$log"
	wait "$pid"
}

suite_of() {
	case $1 in
	unit) tests/unit-run.sh "$build" ;;
	hardening) tests/lint/hardening.sh "$build/orkestr-emulator" ;;
	structure) tests/lint/source.py --structure ;;
	fuzz) tests/fuzz/replay.sh "$build" ;;
	api) ORKESTR_EMULATOR=$PWD/$build/orkestr-emulator tests/api/run ;;
	*) echo "run.sh: no suite '$1'" >&2; false ;;
	esac
}

for suite in "$@"; do
	printf '\n== %s\n' "$suite"
	log=$logs/$suite.log
	logged "$log" suite_of "$suite"
	rc=$?
	# pytest ends with "=== 3 passed in 1.2s ===", ours with "unit: 3 passed, 0 failed, 0 skipped".
	line=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -E '[0-9]+ (passed|failed|skipped|errors?)' | tail -n 1 | sed -E 's/^=+ //; s/ =+$//; s/^[a-z]+: //')
	before=$failed
	count "$line"
	if [ "$rc" != 0 ] && [ "$failed" = "$before" ]; then
		failed=$((failed + 1)) # it ended badly without naming a failed test: that is one
	fi
	closing+=("$(printf '%-10s %s%s' "$suite" "${line:-no closing line}" "$([ "$rc" = 0 ] || echo "  (exit code $rc, $log)")")")
done

printf '\n== summary\n'
printf '%s\n' "${closing[@]}"
if [ "${MUST_RUN:-0}" = 1 ] && [ "$skipped" != 0 ]; then
	echo "MUST_RUN=1: a skip is a failure"
	failed=$((failed + skipped)) skipped=0
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
