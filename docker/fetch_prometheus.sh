#!/bin/sh
# Put promtool and prometheus under .tools/ for the rule tests, from the Debian package: no root,
# nothing installed. Run from anywhere; does nothing when promtool is already there.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
target=$root/.tools/prometheus

if [ -x "$target/usr/bin/promtool" ]; then
    echo "already there: $target/usr/bin/promtool"
    exit 0
fi
for tool in apt-get dpkg; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "$tool not found: this script needs Debian or Ubuntu." >&2
        echo "Elsewhere install Prometheus yourself; the tests take promtool from PATH." >&2
        exit 1
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
if ! apt-get download prometheus; then
    echo "apt-get download prometheus failed: are the package lists there (apt-get update)?" >&2
    exit 1
fi
# Unpacked beside its place and moved in whole: an interrupted run leaves nothing half-done.
mkdir -p "$root/.tools"
rm -rf "$target" "$target.new"
dpkg -x prometheus_*.deb "$target.new"
mv "$target.new" "$target"
"$target/usr/bin/promtool" --version
