#!/bin/sh
# Put promtool, prometheus, amtool and alertmanager under .tools/ for the tests of the rules and of
# the alerts' routes, from the Debian packages: no root, nothing installed. Run from anywhere; does
# nothing for what is already there.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# fetch PACKAGE FOLDER TOOL: unpacked beside its place and moved in whole, so that an interrupted
# run leaves nothing half-done.
fetch() {
    target=$root/.tools/$2
    if [ -x "$target/usr/bin/$3" ]; then
        echo "already there: $target/usr/bin/$3"
        return
    fi
    for tool in apt-get dpkg; do
        if ! command -v "$tool" >/dev/null 2>&1; then
            echo "$tool not found: this script needs Debian or Ubuntu." >&2
            echo "Elsewhere install Prometheus and Alertmanager yourself; the tests take them from PATH." >&2
            exit 1
        fi
    done
    work=$(mktemp -d)
    cd "$work"
    if ! apt-get download "$1"; then
        echo "apt-get download $1 failed: are the package lists there (apt-get update)?" >&2
        exit 1
    fi
    mkdir -p "$root/.tools"
    rm -rf "$target" "$target.new"
    dpkg -x "$1"_*.deb "$target.new"
    # Debian's Alertmanager reads its templates from /usr/share, where nothing is installed. A path
    # as long, from the working directory, finds those of the package.
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
