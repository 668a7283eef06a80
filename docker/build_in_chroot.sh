#!/bin/sh
# Build the images without a Docker engine and a registry: buildah in a chroot, on a Debian that
# debootstrap creates and that is tagged with the names of the Dockerfiles' base images. It only
# replaces them: Python is Debian's, and CUDA is missing.
#
#     docker/build_in_chroot.sh FOLDER [OPTION OF buildah build …]
#     IMAGES=tidegate-gpu docker/build_in_chroot.sh FOLDER …
#
# Needs root, buildah and debootstrap (Debian packages). Writes base/ and the images' file systems
# into FOLDER: tidegate/ and retrain/ unless IMAGES names others. The options can add mounts that pip
# needs, for example --volume /etc/pip.conf:/etc/pip.conf:ro.
set -eu

[ $# -ge 1 ] || { echo "usage: $0 FOLDER [OPTION OF buildah build …]" >&2; exit 2; }
for tool in buildah debootstrap; do
    command -v "$tool" >/dev/null || { echo "$tool not found: apt-get install $tool" >&2; exit 1; }
done
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
mkdir -p "$1"
folder=$(CDPATH='' cd -- "$1" && pwd)
shift
base_of() { sed -n 's/^FROM \([^ ]*\) AS build$/\1/p' "$1"; }

if [ ! -x "$folder/base/usr/bin/python3" ]; then
    # The mirror that this machine's apt uses; if it names none, debootstrap's default.
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null \
        | sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*debian\/*\) .*/\2/p; s/^URIs: \([^ ]*debian\/*\)$/\1/p' | head -n 1)
    # shellcheck disable=SC2086 # no mirror is no argument
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-dev,python3-venv,python3-pip \
        bookworm "$folder/base" $mirror
    cp /etc/apt/sources.list "$folder/base/etc/apt/" 2>/dev/null || true
    cp -r /etc/apt/sources.list.d /etc/apt/apt.conf.d "$folder/base/etc/apt/" 2>/dev/null || true
    ln -sf python3 "$folder/base/usr/bin/python" # the base image has it, too
fi

export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs
work=$(buildah from scratch)
buildah add --quiet "$work" "$folder/base" /
buildah config --env PATH=/usr/local/bin:/usr/bin:/bin "$work"
buildah commit --quiet "$work" "docker.io/library/$(base_of "$root/docker/Dockerfile")"
buildah commit --quiet --rm "$work" "docker.io/$(base_of "$root/docker/Dockerfile.gpu")"

for target in ${IMAGES:-retrain tidegate}; do
    stage='' file=Dockerfile
    case "$target" in
        retrain) stage="--target retrain" ;;
        tidegate-gpu) file=Dockerfile.gpu ;;
    esac
    # shellcheck disable=SC2086 # two words or none
    buildah build --format docker --layers --pull=never --file "$root/docker/$file" \
        --ignorefile "$root/docker/$file.dockerignore" --tag "$target:local" \
        --build-arg SOURCE_DATE_EPOCH="$(git -C "$root" log -1 --format=%ct)" $stage "$@" "$root"
    work=$(buildah from --pull=never "localhost/$target:local")
    rm -rf "${folder:?}/$target"
    cp -a "$(buildah mount "$work")" "$folder/$target"
    buildah umount "$work" >/dev/null
    buildah rm "$work" >/dev/null
    echo "$target: $(du -sm "$folder/$target" | cut -f1) MB, including the base: $(du -sm "$folder/base" | cut -f1)"
done
