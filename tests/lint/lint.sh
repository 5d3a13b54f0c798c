#!/usr/bin/env bash
# `make lint`: each checker in turn, going on when one fails; a tool that is not here is a visible skip
# (MUST_RUN=1: a failure).
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0 skipped=0
mapfile -t sources < <(git ls-files --cached --others --exclude-standard 'emulator/*.c' 'rootfs/*.c' 'netpolicy/*.c' 'api/*.c')
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard '*.sh' .ci/run tests/api/run)
mapfile -t all < <(git ls-files --cached --others --exclude-standard '*.c' '*.h')
mapfile -t c_files < <(printf '%s\n' "${all[@]}" | grep '\.c$')
# The tests' headers are parts of a test; the others must do alone.
mapfile -t headers < <(printf '%s\n' "${all[@]}" | grep '\.h$' | grep -v ^tests/)
flags=(-std=gnu17 -D_GNU_SOURCE= -I.)
read -ra pkg < <(make -s print-cflags)
read -ra warn < <(make -s print-warn)

step() { # name, tool, command...
	local name=$1 tool=$2
	shift 2
	printf '\n== %s\n' "$name"
	if ! command -v "$tool" >/dev/null; then
		echo "skipped: there is no $tool here (apt-get install $tool)"
		skipped=$((skipped + 1))
	elif "$@"; then
		passed=$((passed + 1))
	else
		echo "FAILED: $name"
		failed=$((failed + 1))
	fi
}

tidy() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	# The files go before the --, so xargs can't simply append them.
	printf '%s\0' "${sources[@]}" | FLAGS="${flags[*]} ${pkg[*]}" xargs -0 -n 4 -P "$(nproc)" bash -c \
		'clang-tidy --quiet --warnings-as-errors="*" "$@" -- $FLAGS 2>/dev/null' tidy
}
# The compiler that is not the Makefile's: it warns of other things under the same flags.
other_compiler() {
	printf '%s\0' "${c_files[@]}" | xargs -0 -n 8 -P "$(nproc)" clang -fsyntax-only -Werror \
		"${warn[@]}" "${flags[@]}" "${pkg[@]}" &&
		clang -x c-header -fsyntax-only -Werror "${warn[@]}" -Wno-unused-function "${flags[@]}" "${pkg[@]}" "${headers[@]}"
}
formatted() {
	local f bad=()
	for f in "${all[@]}"; do
		clang-format "$f" | cmp -s - "$f" || bad+=("$f")
	done
	[ ${#bad[@]} = 0 ] || echo "not as clang-format would have it (make format): ${bad[*]}"
	[ ${#bad[@]} = 0 ]
}
cppcheck_all() {
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingInclude --suppress=unmatchedSuppression --suppressions-list=tests/lint/cppcheck.txt \
		-D_GNU_SOURCE -D__x86_64__ --include=tests/lint/cppcheck.h -I. -j "$(nproc)" "${sources[@]}"
}

# Only what is a shell script: tests/api/run may be Python.
scripts_checked() {
	grep -lE '^#!.*sh$' "${scripts[@]}" | xargs shellcheck -x
}

step "includes, banned functions, lengths" python3 tests/lint/source.py
step "format" clang-format formatted
step "cppcheck" cppcheck cppcheck_all
step "warnings of clang" clang other_compiler
step "clang-tidy" clang-tidy tidy
step "shell scripts" shellcheck scripts_checked

printf '\nlint: %d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "${MUST_RUN:-0}" != 1 ] || failed=$((failed + skipped))
[ "$failed" = 0 ]
