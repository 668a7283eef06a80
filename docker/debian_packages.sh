# For the scripts that fetch programs for tests; source it with `set -eu`. It downloads Debian
# packages and unpacks them below .tools/. It needs no root and installs nothing.
# shellcheck shell=sh

work=
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# need_debian ADVICE: exit with an error and the advice if there is no apt-get or dpkg.
need_debian() {
    for tool in apt-get dpkg; do
        if ! command -v "$tool" >/dev/null 2>&1; then
            echo "$tool not found: this script needs Debian or Ubuntu." >&2
            echo "On other systems $1" >&2
            exit 1
        fi
    done
}

# unpack FOLDER PACKAGE...: download packages and unpack them in FOLDER.new. The caller completes it
# and renames it to FOLDER, so that an interrupted run leaves nothing incomplete.
unpack() {
    folder=$1
    shift
    work=$(mktemp -d)
    if ! (cd "$work" && apt-get download "$@"); then
        echo "apt-get download failed: run apt-get update if the package lists are missing" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$folder")"
    rm -rf "$folder" "$folder.new"
    for archive in "$work"/*.deb; do
        dpkg -x "$archive" "$folder.new"
    done
    rm -rf "$work"
}
