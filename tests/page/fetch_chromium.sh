#!/bin/sh
# Fetch headless Chromium and the libraries that it lacks here into .tools/chromium, for the tests of
# the page. Can be run from any folder; does nothing if it is already present.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
. "$root/docker/debian_packages.sh"
target=$root/.tools/chromium
package=chromium-headless-shell
program=$target/chromium
if [ -x "$program" ]; then
    echo "already present: $program"
    exit
fi
need_debian "set CHROMIUM to a Chromium or Chrome; the tests use it."
# What an installation would add is what is missing here.
missing=$(apt-get install --simulate --no-install-recommends "$package" |
    sed -n 's/^Inst \([^ ]*\).*/\1/p' | grep -v -e '^xdg-utils$' || true)
# shellcheck disable=SC2086 # one word for each package
unpack "$target" ${missing:-$package}
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
