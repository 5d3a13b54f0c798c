#!/usr/bin/env bash
# `make fuzz`: each target under libFuzzer, one after the other, from the committed corpus and what earlier runs found.
#   run.sh BUILD SECONDS [TARGET...]
# Finds are in BUILD/found/; a crash is in BUILD/crashes/, to be committed under tests/fuzz/corpus/TARGET with its mend.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
build=$1 seconds=$2
shift 2
if ! command -v clang >/dev/null; then
	echo "skipped: there is no clang here (apt-get install clang)"
	echo "fuzz: 0 passed, 0 failed, 1 skipped"
	[ "${MUST_RUN:-0}" != 1 ]
	exit
fi
sanitize="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
# clang warns of other things than gcc, which has seen the same files.
make -s -j"$(nproc)" BUILD="$build" CC=clang WARN=-w WERROR= FORTIFY= FUZZ_DRIVER= \
	CFLAGS="-O1 -g -fno-omit-frame-pointer $sanitize -fsanitize=fuzzer-no-link" \
	LDFLAGS="$sanitize -fsanitize=fuzzer" fuzz-bins || exit 1
mkdir -p "$build/found" "$build/crashes" "$build/logs"
chmod 1777 "$build/crashes" # a target may be working as nobody when it finds something
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
passed=0 failed=0
[ $# != 0 ] || set -- tests/fuzz/fuzz_*.c
for name in "$@"; do
	name=$(basename "$name" .c)
	name=${name#fuzz_}
	mkdir -p "$build/found/$name"
	log=$build/logs/$name.log
	nice -n 19 "$build/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -max_len=16384 \
		-print_final_stats=1 -artifact_prefix="$build/crashes/$name-" \
		"$build/found/$name" "tests/fuzz/corpus/$name" </dev/null >"$log" 2>&1
	rc=$?
	printf '%-16s %s runs, %s\n' "$name" "$(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+$')" \
		"$([ $rc = 0 ] && echo "nothing found" || echo "FAILED ($log)")"
	if [ $rc = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "fuzz: $passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
