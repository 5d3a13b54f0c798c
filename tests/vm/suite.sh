#!/usr/bin/env bash
# In the VM, as root: the unit and API suites as each kind of user (root, dev, plain), or as those named; for dev the
# delegation of cgroup controllers too. Ends with each suite's closing line and their sum, as `make test` does.
#   VM_ALL=1        every unit test and the whole API suite, not only what is about the kernel and files marked `vm`
#   VM_TESTS=...    arguments for pytest instead (no unit tests then)
#   VM_SUITES=...   the suites of tests/run.sh (default: unit api)
#   MUST_RUN=1      a skip is a failure (not for plain, which has not what some tests need, and says so)
set -uo pipefail
closing=()
failures=0 passed=0 failed=0 skipped=0

# The VM's own libraries serve where it has them; the others come along.
for lib in lib/*; do
	[ -e "$lib" ] || continue
	ldconfig -p | grep -qF "$(basename "$lib") " || cp "$lib" /usr/local/lib/
done
ldconfig
here=$PWD
templates=
if [ -e templates.tar ]; then
	templates=/opt/templates/state
	mkdir -p "$templates"
	tar -C "$templates" --numeric-owner --xattrs --xattrs-include='*' -xpf templates.tar
	owner=root
fi

# as USER [NAME=VALUE...] COMMAND...: without PAM, so only who is given a session has one.
as() {
	local user=$1 home
	shift
	home=$(getent passwd "$user" | cut -d: -f6)
	setpriv --reuid "$user" --regid "$user" --init-groups env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
		LANG=C.UTF-8 HOME="$home" USER="$user" ORKESTR_TEST_SLOW="${ORKESTR_TEST_SLOW:-1}" RETRY_FAILED="${RETRY_FAILED:-0}" "$@"
}

# What a run left on the machine, if it is still there after a while: systemd forgets a scope, and the janitor
# removes a folder, a moment after the last process.
left_behind() {
	local left
	for _ in $(seq 50); do
		left=$(
			find /sys/fs/cgroup -name '*orkestr-emulator*' 2>/dev/null
			ps -eo pid=,stat=,args= | awk '$2 !~ /^Z/ && /orkestr-(emulator|janitor)/ && !/awk/'
			grep -E 'orkestr|doctor' /proc/self/mountinfo
		)
		[ -z "$left" ] && return
		sleep 0.2
	done
	echo "left behind: $left"
}

# close NAME PASSED FAILED SKIPPED LINE
close() {
	closing+=("$(printf '%-16s %s' "$1" "$5")")
	passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
	[ "$3" = 0 ] || failures=$((failures + 1))
}

# leave_out NAME WHY
leave_out() {
	if [ "${MUST_RUN:-0}" = 1 ]; then
		close "$1" 0 1 0 "1 failed: $2"
	else
		close "$1" 0 0 1 "1 skipped: $2"
	fi
}

# Those that depend on the kernel and on who one is.
kernel_units=(test_{cgroup,cgroup_layout,cgroup_sweep,idmap,statedir,doctor,gateway,files_userns}.c)

# person NAME [NAME=VALUE...]: a copy of the tree of its own, then the suites in it.
person() {
	local name=$1 home tree log left suites select='-m vm' line sum
	shift
	home=$(getent passwd "$name" | cut -d: -f6)
	tree=$home/orkestr log=/job/out/$name.log
	rm -rf "$tree" && cp -r "$here/tree" "$tree"
	# the sources say which unit tests there are
	[ "${VM_ALL:-0}" = 1 ] || (cd "$tree/tests/unit" && mkdir kernel && mv "${kernel_units[@]}" kernel/ && rm -f test_*.c && mv kernel/* .)
	chown -R "$name:$name" "$tree"
	if [ -n "$templates" ]; then
		python3 "$here/ids.py" "$templates" "$owner" "$name" || exit 1
		owner=$name
		set -- "$@" ORKESTR_TEST_TEMPLATES="$templates"
	fi
	read -ra suites <<<"${VM_SUITES:-unit api}"
	[ "${VM_ALL:-0}" = 1 ] && select=
	[ -n "${VM_TESTS:-}" ] && suites=(api) select=$VM_TESTS
	printf '\n==== %s: doctor\n' "$name"
	if as "$name" "$@" "$tree/build/orkestr-emulator" doctor; then
		close "$name doctor" 1 0 0 "1 passed"
	else
		close "$name doctor" 0 1 0 "1 failed"
	fi
	printf '\n==== %s: suites\n' "$name"
	as "$name" "$@" PYTEST_ADDOPTS="$select" "$tree/tests/run.sh" build "${suites[@]}" 2>&1 | tee "$log"
	while read -r line; do
		closing+=("$name $line")
	done < <(sed -n '/^== summary$/,$p' "$log" | grep -E '^(unit|api) ')
	sum=$(tail -n 1 "$log")
	passed=$((passed + $(grep -oE '[0-9]+ passed' <<<"$sum" | grep -oE '[0-9]+' || echo 0)))
	failed=$((failed + $(grep -oE '[0-9]+ failed' <<<"$sum" | grep -oE '[0-9]+' || echo 1)))
	skipped=$((skipped + $(grep -oE '[0-9]+ skipped' <<<"$sum" | grep -oE '[0-9]+' || echo 0)))
	left=$(left_behind)
	if [ -n "$left" ]; then
		echo "$left"
		close "$name left behind" 0 1 0 "1 failed"
	fi
}

# as_root NAME TEST: a pytest file of this folder, which changes the machine.
as_root() {
	local log="/job/out/$1.log" line p f
	printf '\n==== %s\n' "$1"
	ORKESTR_EMULATOR=/usr/local/bin/orkestr-emulator ORKESTR_DEB=$here/orkestr-emulator.deb python3 -m pytest -q -p no:cacheprovider "$here/tree/tests/vm/$2" 2>&1 | tee "$log"
	line=$(tail -n 1 "$log")
	p=$(grep -oE '[0-9]+ passed' <<<"$line" | grep -oE '[0-9]+' || echo 0)
	f=$(grep -oE '[0-9]+ (failed|error)' <<<"$line" | grep -oE '[0-9]+' | awk "{ n += \$1 } END { print n + 0 }")
	[ "$p" != 0 ] || [ "$f" != 0 ] || f=1
	close "$1" "$p" "$f" 0 "$line"
}

until systemctl is-active --quiet "user@$(id -u dev).service"; do sleep 0.2; done
mkdir -p /job/out
install tree/build/orkestr-emulator /usr/local/bin/
uname -rm
systemctl --version | head -1
[ $# != 0 ] || set -- root dev plain
for user; do
	case $user in
	root) person root MUST_RUN="${MUST_RUN:-0}" ;;
	dev)
		if [ -z "${VM_TESTS:-}" ]; then
			as_root "dev delegation" test_delegation.py
			if [ ! -e orkestr-emulator.deb ]; then
				leave_out "dev package" "no package was built (make deb)"
			elif [ -z "$(ip route show default)" ]; then
				leave_out "dev package" "its dependencies come from a mirror, and there is no network here"
			else
				as_root "dev package" test_package.py
			fi
		fi
		person dev MUST_RUN="${MUST_RUN:-0}" XDG_RUNTIME_DIR="/run/user/$(id -u dev)"
		;;
	plain) person plain ;;
	*) echo "no such user here: $user"; exit 2 ;;
	esac
done

# shellcheck disable=SC1091 # the VM's
printf '\n== summary (%s, Linux %s)\n' "$(. /etc/os-release && echo "$PRETTY_NAME")" "$(uname -r)"
printf '%s\n' "${closing[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
