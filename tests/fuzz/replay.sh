#!/usr/bin/env bash
# Runs each fuzz target over its committed corpus, crash inputs of the past among it; no libFuzzer, no clang.
#   replay.sh BUILD
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
build=$1
passed=0 failed=0
for source in tests/fuzz/fuzz_*.c; do
	name=$(basename "$source" .c)
	corpus=tests/fuzz/corpus/${name#fuzz_}
	if timeout -k 5 300 "$build/fuzz/$name" "${name#fuzz_}" "$corpus"/* </dev/null 2>&1; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAILED: $name"
	fi
done
echo "fuzz: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
