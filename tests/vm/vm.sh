#!/usr/bin/env bash
# Runs things on a user's machine: systemd, cgroup v2, a distribution's kernel, in a VM under qemu.
#   vm.sh [test [USER...]]     the unit and API suites there, as root, dev and plain (make test-vm)
#   vm.sh demo                 `make demo` from a clean clone there, as a user with sudo and nothing installed
#   vm.sh run DIR 'COMMAND'    boot, put DIR's contents in /job/in, run COMMAND there as root; prints what
#                              it prints, exits as it exits; files it leaves in /job/out come to $VM_OUT
#   vm.sh image                only make the image (otherwise made when it is missing)
# Environment: VM_ALL=1 (all of the API suite), VM_TESTS (arguments for pytest instead), VM_TEMPLATES (a state dir),
# IMAGE_SUITE (bookworm, trixie, noble), VM_DIR (where images are kept), VM_OUT, VM_TIMEOUT (seconds), VM_MEMORY (MB),
# VM_ACCEL (kvm, tcg, uml: without KVM the fastest, on a kernel of our own making), ORKESTR_TEST_SLOW, BUILD,
# RETRY_FAILED (1: what fails is run once more, and counted as that; the default without KVM).
# See README.md in this folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)

# A change of the recipe makes another image.
image_dir() {
	local base=${VM_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/orkestr-emulator-vm}
	echo "$base/$suite-$(sha256sum "$here/image.sh" | cut -c1-8)"
}

host_suite() {
	# shellcheck disable=SC1091 # the host's
	(. /etc/os-release && [ "${ID:-}" = debian ] && echo "${VERSION_CODENAME:-bookworm}" || echo bookworm)
}

need() {
	local missing=()
	for program in "$@"; do
		command -v "$program" >/dev/null || missing+=("$program")
	done
	[ ${#missing[@]} = 0 ] && return
	echo "vm: missing here: ${missing[*]}; sudo apt-get install qemu-system-x86 mmdebstrap e2fsprogs" >&2
	exit 1
}

# KVM only on bare metal unless asked for: a nested one may be there and still not boot anything.
accelerator() {
	if [ -n "${VM_ACCEL:-}" ]; then
		echo "$VM_ACCEL"
	elif [ -w /dev/kvm ] && ! grep -qw hypervisor /proc/cpuinfo; then
		echo kvm
	else
		echo tcg
	fi
}

make_image() {
	case $(accelerator) in
	uml) [ -e "$image/linux" ] || { mkdir -p "$image" && "$here/kernel.sh" "$image/linux"; } ;;
	*) need qemu-system-x86_64 ;;
	esac
	[ -e "$image/disk" ] && return
	need mmdebstrap mkfs.ext4
	if [ "$(id -u)" != 0 ]; then
		echo "vm: the image is made as root: sudo VM_DIR=$(dirname "$image") $0 image" >&2
		exit 1
	fi
	mkdir -p "$image"
	IMAGE_SUITE=$suite "$here/image.sh" "$image"
}

# What differs between accelerators: a CPU is emulated fastest without what is newer than SSE4, and without the
# kernel's answers to other CPUs' faults.
boot() {
	local job=$1 append="root=/dev/vda rw console=ttyS0 quiet no_timer_check panic=-1 systemd.show_status=0 loglevel=1" machine
	case $(accelerator) in
	uml)
		TMPDIR=/dev/shm timeout "$limit" "$image/linux" "mem=${VM_MEMORY:-4096}M" "umid=orkestr-vm-$$-$BASHPID" root=/dev/ubda rw \
			console=ttyS0 quiet panic=-1 systemd.show_status=0 loglevel=1 "ubd0=$job/cow,$image/disk" "ubd1=$job/in" \
			"ubd2=$job/out" con=null con0=null ssl=null ssl0=fd:0,fd:1
		return
		;;
	kvm) machine=(-accel kvm -cpu host) ;;
	*) machine=(-accel "tcg,thread=multi" -cpu Nehalem) append+=" mitigations=off" ;;
	esac
	timeout "$limit" qemu-system-x86_64 "${machine[@]}" -smp 2 -m "${VM_MEMORY:-4096}" \
		-kernel "$image/vmlinuz" -initrd "$image/initrd" -append "$append" \
		-drive "file=$image/disk,format=raw,if=virtio,snapshot=on,file.locking=off" \
		-drive "file=$job/in,format=raw,if=virtio,readonly=on" -drive "file=$job/out,format=raw,if=virtio" \
		-netdev user,id=n -device virtio-net,netdev=n -device virtio-rng-pci \
		-display none -serial stdio -monitor none -no-reboot
}

run() {
	local dir=$1 command=$2 job limit=${VM_TIMEOUT:-14400} status
	make_image
	job=$(mktemp -d)
	# shellcheck disable=SC2064 # its value now
	trap "rm -rf '$job'" EXIT
	mkdir "$job/t"
	printf '%s\n' "$command" >"$job/t/command"
	tar -cf "$job/in" -C "$job/t" command
	tar -rf "$job/in" --exclude=.git --transform 's,^\./,in/,;s,^\.$,in,' -C "$dir" .
	truncate -s 64M "$job/out"
	boot "$job" </dev/null || true
	mkdir "$job/o"
	if ! tar -xf "$job/out" -C "$job/o" 2>/dev/null || ! status=$(cat "$job/o/status" 2>/dev/null); then
		echo "vm: it ended without a result (timeout, or it did not boot)" >&2
		exit 124
	fi
	if [ -n "${VM_OUT:-}" ]; then
		mkdir -p "$VM_OUT"
		cp -r "$job/o/." "$VM_OUT/"
	fi
	exit "$status"
}

# What the suites need: the tests, the program, the unit binaries, the libraries these were linked with, and, from a
# state dir that has them, the templates (readable by root only; without, the tests that need them are skipped).
stage() {
	local to=$1 build=$2 bins=() bin
	mkdir -p "$to/tree/build/unit" "$to/tree/build/hostile" "$to/lib"
	mkdir -p "$to/tree/emulator/cmd"
	cp -r "$top/tests" "$top/api" "$top/README.md" "$to/tree/"
	cp -r "$top/emulator/cmd/man" "$top/emulator/cmd/completion" "$to/tree/emulator/cmd/"
	cp "$build"/orkestr-emulator_*.deb "$to/orkestr-emulator.deb" 2>/dev/null || true # without, it is not tested
	cp "$build/orkestr-emulator" "$to/tree/build/"
	cp "$build/hostile/orkestr-emulator" "$to/tree/build/hostile/"
	bins+=("$build/orkestr-emulator")
	for source in "$to"/tree/tests/unit/test_*.c; do
		bin=$build/unit/$(basename "$source" .c)
		[ -x "$bin" ] || { echo "vm: $bin is not built" >&2; exit 1; }
		cp "$bin" "$to/tree/build/unit/"
		bins+=("$bin")
	done
	ldd "${bins[@]}" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u |
		grep -vE '/(libc|libm|libpthread|libdl|librt|libresolv)\.so' | xargs -r cp -Lt "$to/lib"
	cp "$here/suite.sh" "$here/ids.py" "$to/"
	if [ -d "$templates/templates" ] && [ "$(id -u)" = 0 ]; then
		tar -cf "$to/templates.tar" --numeric-owner --xattrs --xattrs-include='*' -C "$templates" \
			--no-recursion . disk --recursion orkestr-state templates disk/l
	else
		echo "vm: no templates to hand over in $templates (as root: make api-test builds them): tests of real ones are skipped" >&2
	fi
}

# in_vm USER...: the suites as these, one after the other, in one VM.
in_vm() {
	(run "$staged" "ORKESTR_TEST_SLOW=$factor RETRY_FAILED=$retry MUST_RUN=${MUST_RUN:-0} VM_ALL=${VM_ALL:-0} VM_SUITES='$suites' \
		VM_TESTS=$(printf %q "${VM_TESTS:-}") bash suite.sh $*")
}

# A user-mode kernel has one CPU: a VM for each user, side by side.
in_vms() {
	local user pids=() rc=0 logs
	logs=$(mktemp -d)
	for user; do
		in_vm "$user" >"$logs/$user" 2>&1 &
		pids+=($!)
		echo "vm: $user is running: $logs/$user" >&2
	done
	for user; do
		wait "${pids[0]}" || rc=$?
		pids=("${pids[@]:1}")
		cat "$logs/$user"
	done
	# Each ends with its sum, before the kernel's last words; one without has not come to its end.
	for user; do
		grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' "$logs/$user" | tail -n 1 | grep . || echo "0 passed, 1 failed, 0 skipped"
	done | awk -F '[ ,]+' '{ p += $1; f += $3; s += $5 } END { print p + 0 " passed, " f + 0 " failed, " s + 0 " skipped" }'
	rm -rf "$logs"
	return $rc
}

test_vm() {
	local build=${BUILD:-build} staged factor=${ORKESTR_TEST_SLOW:-} suites=${VM_SUITES:-unit api} retry maps rc=0
	[[ $build = /* ]] || build=$top/$build
	[ $# != 0 ] || set -- root dev plain
	[ -n "$factor" ] || { [ "$(accelerator)" = kvm ] && factor=2 || factor=10; }
	[ "$(accelerator)" = kvm ] && retry=0 || retry=1
	retry=${RETRY_FAILED:-$retry}
	staged=$(mktemp -d)
	stage "$staged" "$build"
	if [ "$(accelerator)" = uml ]; then
		maps=$(cat /proc/sys/vm/max_map_count)
		if [ "$maps" -lt 262144 ]; then # each page is a mapping of the host's, or nearly
			echo "vm: a process in there can have some $((maps / 256)) MB, which some tests exceed; more: sudo sysctl vm.max_map_count=1048576" >&2
		fi
		if [ -z "${VM_SUITES:-}" ]; then
			echo "vm: the unit tests are left out: Criterion's memory does not fit a user-mode kernel's address space" >&2
			suites=api
		fi
		make_image
		in_vms "$@" || rc=$?
	else
		in_vm "$@" || rc=$?
	fi
	rm -rf "$staged"
	exit $rc
}

demo_vm() {
	local staged rc=0
	staged=$(mktemp -d)
	git clone --quiet "$top" "$staged/orkestr-emulator"
	# A mirror of npm's may be behind a certificate authority of the house's, which the host was told of.
	cp -r /usr/local/share/ca-certificates "$staged/" 2>/dev/null || true
	cat >"$staged/go" <<-'GO'
		set -e
		[ ! -d ca-certificates ] || { cp -r ca-certificates /usr/local/share/ && update-ca-certificates >/dev/null; }
		cp -r orkestr-emulator /home/dev/
		chown -R dev:dev /home/dev/orkestr-emulator
		until systemctl is-active --quiet user@1000; do sleep 0.5; done
		dpkg -l | grep -cE '^ii +lib.*-dev' || echo "no -dev package is installed"
		runuser -l dev -c 'sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends make >/dev/null && cd orkestr-emulator && time make demo'
	GO
	(run "$staged" "bash go") || rc=$?
	rm -rf "$staged"
	exit $rc
}

suite=${IMAGE_SUITE:-$(host_suite)}
image=$(image_dir)
templates=${VM_TEMPLATES:-$top/build/test-state}
case ${1:-test} in
test) test_vm "${@:2}" ;;
image) make_image ;;
demo) demo_vm ;;
run)
	[ $# = 3 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
	run "$2" "$3"
	;;
*) sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
