#!/bin/sh
# Download the Debian packages of nginx and HAProxy, and the libraries that HAProxy needs, and unpack
# them under .tools/proxies, for the slow tests that send attacks through them. Needs no root and
# installs nothing. Can be run from any folder; does nothing if they are already there.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
target=$root/.tools/proxies
if [ -x "$target/usr/sbin/nginx" ] && [ -x "$target/usr/sbin/haproxy" ]; then
    echo "already present: $target"
    exit
fi
for tool in apt-get dpkg; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "$tool not found: this script needs Debian or Ubuntu." >&2
        echo "On other systems install nginx and HAProxy; the tests find them on PATH." >&2
        exit 1
    fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
if ! apt-get download nginx haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1; then
    echo "apt-get download failed: run apt-get update if the package lists are missing" >&2
    exit 1
fi
mkdir -p "$root/.tools"
rm -rf "$target" "$target.new" # renamed at the end, so that an interrupted run leaves nothing
for package in *.deb; do
    dpkg -x "$package" "$target.new"
done
mv "$target.new" "$target"
libraries=$(dirname "$(find "$target/usr/lib" -name 'liblua5.3.so.0' | head -n 1)")
"$target/usr/sbin/nginx" -v
LD_LIBRARY_PATH=$libraries "$target/usr/sbin/haproxy" -v | head -n 1
