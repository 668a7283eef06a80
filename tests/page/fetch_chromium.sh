#!/bin/sh
# Download Debian's headless Chromium and the libraries that it lacks here, and unpack them under
# .tools/chromium/, for the tests of the page. Needs no root and installs nothing. Can be run from
# any folder; does nothing if it is already present.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
target=$root/.tools/chromium
package=chromium-headless-shell
program=$target/chromium
work=
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

if [ -x "$program" ]; then
    echo "already present: $program"
    exit
fi
for tool in apt-get dpkg; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "$tool not found: this script needs Debian or Ubuntu." >&2
        echo "On other systems set CHROMIUM to a Chromium or Chrome; the tests use it." >&2
        exit 1
    fi
done
work=$(mktemp -d)
cd "$work"
# What an installation would add is what is missing here.
missing=$(apt-get install --simulate --no-install-recommends "$package" |
    sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -v -e '^xdg-utils$' || true)
# shellcheck disable=SC2086 # one word for each package
if ! apt-get download ${missing:-$package}; then
    echo "apt-get download failed: run apt-get update if the package lists are missing" >&2
    exit 1
fi
mkdir -p "$root/.tools"
rm -rf "$target" "$target.new"
for archive in *.deb; do
    dpkg -x "$archive" "$target.new"
done
cat >"$target.new/chromium" <<'END'
#!/bin/sh
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
for folder in "$here"/usr/lib/*-linux-gnu; do
    LD_LIBRARY_PATH=$folder:$folder/pulseaudio${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
export LD_LIBRARY_PATH
exec "$here/usr/lib/chromium/chromium-headless-shell" "$@"
END
chmod +x "$target.new/chromium"
mv "$target.new" "$target"
"$program" --version
