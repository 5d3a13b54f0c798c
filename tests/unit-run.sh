#!/usr/bin/env bash
# Runs every Criterion binary of BUILD/unit, failures and skips shown, and sums their synthesis lines.
#   unit-run.sh BUILD        ORKESTR_TEST_SLOW=N: on a machine N times slower than the time-outs assume
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1
passed=0 failed=0 skipped=0
tap=$(mktemp)
out=$(mktemp)
trap 'rm -f "$tap" "$out"' EXIT

# Runs one binary; sets line, p, f.
run() {
	local rc
	: >"$tap"
	timeout -k 5 $((300 * ${ORKESTR_TEST_SLOW:-1})) "$build/unit/$1" --tap="$tap" --color=never </dev/null >"$out" 2>&1
	rc=$?
	line=$(grep -aE 'Synthesis: Tested: [0-9]+ \| Passing: [0-9]+ \| Failing: [0-9]+' "$out" | tail -n 1)
	if [[ $line =~ Passing:\ ([0-9]+)\ \|\ Failing:\ ([0-9]+) ]]; then
		p=${BASH_REMATCH[1]} f=${BASH_REMATCH[2]}
	else
		p=0 f=0
	fi
	[ "$rc" = 0 ] || [ "$f" != 0 ] || f=1 # a crash outside of any test
	[ -n "$line" ] || f=$((f == 0 ? 1 : f))
	[ -n "$line" ] || line="ended with status $rc and no synthesis"
}

# The sources decide, so a binary of a deleted test is not run and a missing one is a failure.
for source in tests/unit/test_*.c; do
	[ -e "$source" ] || break
	name=$(basename "$source" .c)
	run "$name"
	# Some tests measure time, and a shared machine may stand still for a moment. CI asks twice, and says so.
	if [ "$f" != 0 ] && [ "${RETRY_FAILED:-0}" = 1 ]; then
		grep -av 'Synthesis:' "$out"
		echo "    $name failed; it runs once more"
		run "$name"
	fi
	s=$(grep -acE '^ok - .*# SKIP' "$tap")
	printf '%-24s %s\n' "$name" "$line"
	if [ "$f" != 0 ]; then
		grep -av 'Synthesis:' "$out"
	fi
	grep -aE '^ok - .*# SKIP' "$tap" | sed 's/^ok - /    skipped: /; s/ *# SKIP / - /'
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "unit: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
