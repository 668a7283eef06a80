#!/bin/sh
# Fetch nginx, HAProxy and the libraries that HAProxy needs into .tools/proxies, for the slow tests
# that send attacks through them. Can be run from any folder; does nothing if they are already there.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/docker/debian_packages.sh"
target=$root/.tools/proxies
if [ -x "$target/usr/sbin/nginx" ] && [ -x "$target/usr/sbin/haproxy" ]; then
    echo "already present: $target"
    exit
fi
need_debian "install nginx and HAProxy; the tests find them on PATH."
unpack "$target" nginx haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
mv "$target.new" "$target"
libraries=$(dirname "$(find "$target/usr/lib" -name 'liblua5.3.so.0' | head -n 1)")
"$target/usr/sbin/nginx" -v
LD_LIBRARY_PATH=$libraries "$target/usr/sbin/haproxy" -v | head -n 1
