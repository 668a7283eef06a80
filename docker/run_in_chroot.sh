#!/bin/sh
# Run a command in a file system of build_in_chroot.sh, like its container: as user 10001, on a
# read-only root, with a private /tmp, without capabilities and without this shell's variables.
#
#     docker/run_in_chroot.sh FOLDER/tidegate [NAME=VALUE …] COMMAND …
#     docker/run_in_chroot.sh build/images/tidegate TIDEGATE_HOST=127.0.0.1 tidegate serve
#
# STATE=FOLDER is mounted on /var/lib/tidegate; user 10001 must be able to write to it.
# Needs root and util-linux. Signals reach COMMAND: the process is the same one.
set -eu

[ $# -ge 2 ] || { echo "usage: $0 FOLDER [NAME=VALUE …] COMMAND …" >&2; exit 2; }
folder=$(CDPATH='' cd -- "$1" && pwd)
shift
export CHROOT_FOLDER="$folder"
# shellcheck disable=SC2016 # expanded inside
exec unshare --mount --propagation private sh -eu -c '
    mount --bind "$CHROOT_FOLDER" "$CHROOT_FOLDER"
    mount --rbind /dev "$CHROOT_FOLDER/dev"
    mount -t proc proc "$CHROOT_FOLDER/proc"
    mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs "$CHROOT_FOLDER/tmp"
    mount -o remount,bind,ro "$CHROOT_FOLDER"
    [ -z "${STATE:-}" ] || mount --bind "$STATE" "$CHROOT_FOLDER/var/lib/tidegate"
    exec chroot "$CHROOT_FOLDER" setpriv --reuid=10001 --regid=10001 --clear-groups \
        --no-new-privs --bounding-set=-all --inh-caps=-all \
        env -i PATH=/opt/tidegate/bin:/opt/retrain/bin:/usr/bin:/bin \
        PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
        TIDEGATE_BUNDLE=/bundles/efficientnet-lite0/1 "$@"
' sh "$@"
