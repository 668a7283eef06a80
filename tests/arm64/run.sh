#!/bin/sh
# Run a command in the arm64 system of prepare.sh, emulated by qemu. The repository is at its own path, and is
# the working directory unless that is inside it.
#
#     tests/arm64/run.sh python3 -m pytest tests/unit/imaging
#     QEMU_CPU=cortex-a72 tests/arm64/run.sh …
#
# Needs Linux 6.7: qemu is registered in a user namespace of its own, not on the machine, so no root
# is needed. The command is the same process, so signals reach it.
set -eu

[ $# -ge 1 ] || { echo "usage: $0 COMMAND …" >&2; exit 2; }
ARM64_REPOSITORY=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
ARM64_TOOLS=$ARM64_REPOSITORY/.tools/arm64
ARM64_FOLDER=$PWD
export ARM64_REPOSITORY ARM64_TOOLS ARM64_FOLDER

export QEMU_CPU="${QEMU_CPU:-cortex-a76}"
case $QEMU_CPU in # the part and the features that Linux reports
    cortex-a72) cpu="0xd08 fp asimd evtstrm crc32 cpuid" ;; # Raspberry Pi 4
    cortex-a76) cpu="0xd0b fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp" ;; # Raspberry Pi 5
    *) echo "QEMU_CPU is cortex-a72 or cortex-a76, not '$QEMU_CPU'" >&2; exit 2 ;;
esac
export ARM64_PART="${cpu%% *}" ARM64_FEATURES="${cpu#* }"
export PYTHONPATH="$ARM64_TOOLS/site" PYTHONNOUSERSITE=1 HOME=/tmp LC_ALL=C.UTF-8 PATH=/usr/bin:/bin

# shellcheck disable=SC2016 # expanded inside
exec unshare --user --map-root-user --mount sh -eu -c '
    mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
    # The head of an ELF file for aarch64; F: the interpreter is opened now, outside the root.
    printf "%s" ":arm64:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:$ARM64_TOOLS/qemu/usr/bin/qemu-aarch64-static:F" \
        > /proc/sys/fs/binfmt_misc/register
    root=$ARM64_TOOLS/root
    mount --rbind /proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount --rbind /sys "$root/sys" # ONNX Runtime counts the cores there
    mount -t tmpfs tmpfs "$root/tmp"
    # With the cpuinfo of this machine, which qemu shows, ONNX Runtime crashes.
    for core in $(seq 0 $(($(getconf _NPROCESSORS_CONF) - 1))); do
        printf "processor\t: %s\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: %s\nCPU revision\t: 1\n\n" \
            "$core" "$ARM64_FEATURES" "$ARM64_PART"
    done > "$root/tmp/cpuinfo"
    mount --bind "$root/tmp/cpuinfo" "$root/proc/cpuinfo"
    mkdir -p "$root$ARM64_REPOSITORY"
    mount --rbind "$ARM64_REPOSITORY" "$root$ARM64_REPOSITORY"
    exec /usr/sbin/chroot "$root" /bin/sh -c "
        cd \"\$ARM64_FOLDER\" 2>/dev/null || cd \"\$ARM64_REPOSITORY\"
        exec \"\$@\"" sh "$@"
' sh "$@"
