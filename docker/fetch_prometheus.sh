#!/bin/sh
# Fetch promtool, prometheus, amtool and alertmanager into .tools/, for the tests of the rules and
# the routes. Can be run from any folder; skips programs that are already present.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/docker/debian_packages.sh"

# fetch PACKAGE FOLDER TOOL
fetch() {
    target=$root/.tools/$2
    if [ -x "$target/usr/bin/$3" ]; then
        echo "already present: $target/usr/bin/$3"
        return
    fi
    need_debian "install Prometheus and Alertmanager; the tests find them on PATH."
    unpack "$target" "$1"
    # Debian's Alertmanager reads its templates from /usr/share, but nothing is installed there. A
    # relative path of the same length makes it read the package's templates.
    if [ -e "$target.new/usr/bin/prometheus-alertmanager" ]; then
        sed -i 's|/usr/share/prometheus/alertmanager|usr/share//prometheus/alertmanager|g' \
            "$target.new/usr/bin/prometheus-alertmanager"
    fi
    mv "$target.new" "$target"
    "$target/usr/bin/$3" --version
}

fetch prometheus prometheus promtool
fetch prometheus-alertmanager alertmanager amtool
