#!/usr/bin/env bash
# Runs every Criterion binary of BUILD/unit, as many at once as there are processors, shows failures and skips in the
# sources' order, and sums their synthesis lines. ORKESTR_TEST_SLOW=N: a machine N times slower than the time-outs assume.
#   unit-run.sh BUILD          unit-run.sh BUILD NAME OUT  (one of them, into OUT.tap and OUT.out; ours)
#
# What the program's processes do as root of their own user namespace needs more than one id. For root that is no
# matter; for an ordinary user the tests run as root of a user namespace with that user's subordinate ids, as the program
# does; without such ids, those that need them are skipped.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
build=$1
PATH=$PATH:/usr/sbin:/sbin # nft is there, and Debian gives users a PATH without it

# About who one is on the host, so never in a user namespace of ours.
as_oneself=" test_cgroup test_cgroup_gauge test_cgroup_layout test_cgroup_sweep test_doctor test_files_userns test_idmap test_statedir "
needs_ids=" test_exec test_exec_sessions test_files test_files_race test_files_tar test_hostile_init test_layer test_routes_files test_store_fault test_tmpl test_tree "
needs_root=" test_snapshot " # owners up to 165534, device nodes
# With terminals of its own: the host's are not this namespace's to use. No pid namespace: Criterion names its sockets by
# process numbers.
# shellcheck disable=SC2016 # expanded by the inner shell
in_namespace=(unshare --user --map-root-user --map-auto --mount
	sh -c 'mount -t devpts -o ptmxmode=666 devpts /dev/pts && exec "$@"' sh)

# Why test $1 can't run here, or nothing.
reason() {
	[ "$(id -u)" != 0 ] || return
	if [[ $needs_root == *" $1 "* ]]; then
		echo "needs root"
	elif [[ $needs_ids == *" $1 "* ]] && [ "$ids" = no ]; then
		echo "needs root, or subordinate ids: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
	fi
}

ids=${UNIT_IDS:-$([ "$(id -u)" != 0 ] && "${in_namespace[@]}" true 2>/dev/null && echo yes || echo no)}
if [ $# = 3 ]; then
	[ "$ids" = yes ] && [[ $as_oneself != *" $2 "* ]] || in_namespace=()
	timeout -k 5 $((300 * ${ORKESTR_TEST_SLOW:-1})) "${in_namespace[@]}" "$build/unit/$2" --tap="$3.tap" --color=never \
		</dev/null >"$3.out" 2>&1
	echo $? >"$3.status"
	exit 0
fi
export UNIT_IDS=$ids
passed=0 failed=0 skipped=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What came of one: sets line, p, f.
read_result() {
	local rc
	rc=$(cat "$work/$1.status" 2>/dev/null || echo 1)
	line=$(grep -aE 'Synthesis: Tested: [0-9]+ \| Passing: [0-9]+ \| Failing: [0-9]+' "$work/$1.out" | tail -n 1)
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
names=()
for source in tests/unit/test_*.c; do
	[ -e "$source" ] || continue
	name=$(basename "$source" .c)
	why=$(reason "$name")
	if [ -n "$why" ]; then
		echo "skipped: $name - $why"
		skipped=$((skipped + 1))
	else
		names+=("$name")
	fi
done
printf '%s\n' "${names[@]}" | xargs -P "$(nproc)" -I{} "$0" "$build" {} "$work/{}"

for name in "${names[@]}"; do
	read_result "$name"
	# Some tests measure time, and a shared machine may stand still for a moment. CI asks twice, and says so.
	if [ "$f" != 0 ] && [ "${RETRY_FAILED:-0}" = 1 ]; then
		grep -av 'Synthesis:' "$work/$name.out"
		echo "    $name failed; it runs once more"
		"$0" "$build" "$name" "$work/$name"
		read_result "$name"
	fi
	s=$(grep -acE '^ok - .*# SKIP' "$work/$name.tap")
	printf '%-24s %s\n' "$name" "$line"
	if [ "$f" != 0 ]; then
		grep -av 'Synthesis:' "$work/$name.out"
	fi
	grep -aE '^ok - .*# SKIP' "$work/$name.tap" | sed 's/^ok - /    skipped: /; s/ *# SKIP / - /'
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "unit: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
