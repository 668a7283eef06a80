#!/bin/sh
# Prepare an arm64 system below .tools/arm64, for run.sh: Debian's qemu, Debian's packages for arm64,
# the wheels for arm64, and Tidegate, which is built in the emulated system as in docker/Dockerfile.
# It needs apt-get and dpkg, but no root, and changes nothing else on this machine.
# What is there already is kept, except Tidegate, which is built again.
#
#     tests/arm64/prepare.sh [PYTHON]     PYTHON has pip (.venv/bin/python by default)
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
. "$root/docker/debian_packages.sh"
need_debian "use an arm64 machine."
python=${1:-$root/.venv/bin/python}
tools=$root/.tools/arm64
here=$root/tests/arm64

if [ ! -x "$tools/qemu/usr/bin/qemu-aarch64-static" ]; then
    unpack "$tools/qemu" qemu-user-static
    mv "$tools/qemu.new" "$tools/qemu"
fi

if [ ! -d "$tools/root" ]; then
    # An apt of its own, with the sources of this machine's apt.
    apt=$tools/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    : > "$apt/status"
    apt_get() {
        apt-get --quiet=2 --option APT::Architecture=arm64 --option APT::Architectures=arm64 \
            --option Dir::State="$apt" --option Dir::State::status="$apt/status" \
            --option Dir::Cache="$apt/cache" --option APT::Sandbox::User=root "$@"
    }
    apt_get update
    apt_get install --yes --no-install-recommends --download-only \
        dash python3 python3-dev gcc libc6-dev libjpeg62-turbo-dev
    rm -rf "$tools/root.new"
    mkdir -p "$tools/root.new/dev" "$tools/root.new/proc" "$tools/root.new/sys" \
        "$tools/root.new/tmp"
    for archive in "$apt"/cache/archives/*.deb; do
        dpkg -x "$archive" "$tools/root.new"
    done
    rm -rf "$apt"
    mv "$tools/root.new" "$tools/root"
fi

# install OPTION…: without building anything, so it fails where a package has no wheel for arm64.
install() {
    platforms=--platform=manylinux2014_aarch64
    for minor in 17 24 26 27 28; do platforms="$platforms --platform=manylinux_2_${minor}_aarch64"; done
    # shellcheck disable=SC2086 # several words
    "$python" -m pip install --quiet --quiet --disable-pip-version-check --target "$tools/site" --upgrade \
        --only-binary=:all: --implementation cp --python-version 3.11 $platforms "$@"
}

requirements=$tools/requirements.txt
"$python" "$here/requirements.py" > "$requirements.new"
if ! cmp -s "$requirements.new" "$requirements" || ! [ -d "$tools/site" ]; then
    rm -rf "$tools/site"
    install --constraint "$root/docker/constraints.txt" --requirement "$requirements.new"
    mv "$requirements.new" "$requirements"
fi

rm -rf "$tools/source" "$tools/wheel"
mkdir -p "$tools/source" "$tools/wheel"
(cd "$root" && git ls-files service models clusters pyproject.toml setup.py README.md LICENSE NOTICE \
    | tar --create --files-from=- | tar --extract --directory "$tools/source")
sh "$here/run.sh" sh -eu -c "cd '$tools/source' && python3 -c '
from setuptools import build_meta
build_meta.build_wheel(\"$tools/wheel\")' > '$tools/build.log' 2>&1" \
    || { tail -n 20 "$tools/build.log" >&2; exit 1; }
install --no-deps --platform=linux_aarch64 "$tools"/wheel/*.whl
sh "$here/run.sh" python3 -c '
import tidegate.service._softmax, tidegate.service.imaging._jpeg
from tidegate.service.imaging import _resample, jpeg_window
print("arm64: resize", _resample.PATH + ", JPEGs decoded", "in part" if jpeg_window.AVAILABLE else "whole")'
