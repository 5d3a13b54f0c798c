#!/usr/bin/env bash
# Makes a user-mode Linux kernel, file $1: the newest kernel source that the distribution has as a package, with what
# the emulator and systemd ask of a kernel. Called by vm.sh for VM_ACCEL=uml. Eight minutes of CPU time.
#
# Debian's own package user-mode-linux does not serve: its kernel has no nftables family `inet` and no Landlock.
set -euo pipefail
to=$1
source=$(find /usr/src -maxdepth 1 -name 'linux-source-*.tar.*' 2>/dev/null | sort -V | tail -n 1)
missing=()
[ -n "$source" ] || missing+=(linux-source)
for program in make gcc flex bison bc xz; do
	command -v "$program" >/dev/null || missing+=("${program/%xz/xz-utils}")
done
if [ ${#missing[@]} != 0 ]; then
	echo "vm: to build the kernel: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi

on=(
	# systemd
	CGROUPS MEMCG CGROUP_SCHED FAIR_GROUP_SCHED CFS_BANDWIDTH CGROUP_PIDS CGROUP_FREEZER CGROUP_DEVICE CGROUP_CPUACCT
	CGROUP_BPF BLK_CGROUP BPF_SYSCALL PSI FHANDLE DEVTMPFS DEVTMPFS_MOUNT TMPFS TMPFS_XATTR TMPFS_POSIX_ACL AUTOFS_FS
	BINFMT_MISC UNIX98_PTYS IKCONFIG IKCONFIG_PROC KALLSYMS KALLSYMS_ALL IPV6 CRYPTO_SHA256 CRYPTO_USER_API_HASH
	# sandboxes
	NAMESPACES UTS_NS IPC_NS USER_NS PID_NS NET_NS SECCOMP SECCOMP_FILTER SECURITY SECURITY_NETWORK SECURITY_PATH
	SECURITY_LANDLOCK SECURITY_YAMA KEYS CHECKPOINT_RESTORE KCMP USERFAULTFD IO_URING POSIX_MQUEUE SYSVIPC
	OVERLAY_FS EXT4_FS EXT4_FS_POSIX_ACL EXT4_FS_SECURITY BLK_DEV_LOOP FUSE_FS SQUASHFS INOTIFY_USER FANOTIFY
	UNIX_DIAG PACKET_DIAG INET_DIAG INET_UDP_DIAG INET_TCP_DIAG INET_DIAG_DESTROY NETLINK_DIAG
	# their network
	VETH TUN DUMMY BRIDGE NET_SCHED NET_SCH_FQ NET_SCH_FQ_CODEL IP_MULTIPLE_TABLES IPV6_MULTIPLE_TABLES IP_ADVANCED_ROUTER
	NETFILTER NETFILTER_ADVANCED NETFILTER_INGRESS NETFILTER_NETLINK NETFILTER_NETLINK_QUEUE NETFILTER_NETLINK_LOG
	NF_CONNTRACK NF_CT_NETLINK NF_NAT NF_LOG_SYSLOG NF_TABLES NF_TABLES_INET NF_TABLES_IPV4 NF_TABLES_IPV6
	NF_TPROXY_IPV4 NF_TPROXY_IPV6 NF_SOCKET_IPV4 NF_SOCKET_IPV6
	NFT_CT NFT_LOG NFT_LIMIT NFT_MASQ NFT_NAT NFT_REDIR NFT_REJECT NFT_REJECT_INET NFT_QUEUE NFT_SOCKET NFT_TPROXY
	NFT_FIB_IPV4 NFT_FIB_IPV6 NFT_FIB_INET NFT_HASH NFT_OBJREF NETFILTER_XTABLES NFT_COMPAT NETFILTER_XT_TARGET_NFQUEUE
)
# A stack in vmalloc memory is unmapped for a moment when that is cleared up, and a signal then is the end.
off=(VMAP_STACK MODULES DEBUG_INFO DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT REISERFS_FS WIRELESS WLAN ETHERNET INPUT HID SCSI UML_NET IPV6_SIT)

work=$(mktemp -d "$(dirname "$to")/.kernel.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "vm: a user-mode kernel from $(basename "$source") (a few minutes, once)" >&2
tar -C "$work" --strip-components=1 -xf "$source"
cd "$work"
# Refused there (until 6.5) for the sake of hostfs, whose inodes may change; nothing here is on a hostfs.
sed -i 's/ && !ARCH_EPHEMERAL_INODES//' security/landlock/Kconfig
make -s ARCH=um x86_64_defconfig
for option in "${off[@]}"; do scripts/config -d "$option"; done
for option in "${on[@]}"; do scripts/config -e "$option"; done
scripts/config --set-str LSM landlock,yama
make -s ARCH=um olddefconfig
for option in "${on[@]}"; do
	grep -q "^CONFIG_$option=y" .config || echo "vm: this kernel has no $option" >&2
done
make -s -j"$(nproc)" ARCH=um linux
mv linux "$to"
