#!/bin/sh
# Download the Debian packages of Prometheus and Alertmanager and unpack promtool, prometheus, amtool
# and alertmanager under .tools/, for the tests of the rules and the routes. Needs no root and
# installs nothing. Can be run from any folder; skips programs that are already present.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# fetch PACKAGE FOLDER TOOL: unpack into a temporary folder and rename it, so that an interrupted run
# leaves nothing incomplete.
fetch() {
    target=$root/.tools/$2
    if [ -x "$target/usr/bin/$3" ]; then
        echo "already present: $target/usr/bin/$3"
        return
    fi
    for tool in apt-get dpkg; do
        if ! command -v "$tool" >/dev/null 2>&1; then
            echo "$tool not found: this script needs Debian or Ubuntu." >&2
            echo "On other systems install Prometheus and Alertmanager; the tests find them on PATH." >&2
            exit 1
        fi
    done
    work=$(mktemp -d)
    cd "$work"
    if ! apt-get download "$1"; then
        echo "apt-get download $1 failed: run apt-get update if the package lists are missing" >&2
        exit 1
    fi
    mkdir -p "$root/.tools"
    rm -rf "$target" "$target.new"
    dpkg -x "$1"_*.deb "$target.new"
    # Debian's Alertmanager reads its templates from /usr/share, but nothing is installed there. A
    # relative path of the same length makes it read the package's templates.
    if [ -e "$target.new/usr/bin/prometheus-alertmanager" ]; then
        sed -i 's|/usr/share/prometheus/alertmanager|usr/share//prometheus/alertmanager|g' \
            "$target.new/usr/bin/prometheus-alertmanager"
    fi
    mv "$target.new" "$target"
    cd "$root"
    rm -rf "$work"
    "$target/usr/bin/$3" --version
}

fetch prometheus prometheus promtool
fetch prometheus-alertmanager alertmanager amtool
