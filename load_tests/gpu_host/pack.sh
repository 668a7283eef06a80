#!/usr/bin/env bash
# Pack the commit HEAD, its demo bundle and every package that the GPU host lacks: see README.md.
#   PYTHON=python3.12 pack.sh TARGET     makes TARGET/.gpu1 and TARGET/.gpu2
set -euo pipefail
target=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$(realpath "$here/../..")
python=${PYTHON:-python3.12}
architecture=${ARCHITECTURE:-90}
work=${WORK:-${TMPDIR:-/var/tmp}/tidegate-gpu-pack}
stage=$work/stage
limit_mib=64

rm -rf "$stage"
mkdir -p "$work/wheels" "$work/large" "$stage/wheels" "$stage/app"

# What is left of the image's pins when the host's own packages are taken away.
packages="annotated-doc annotated-types anyio click fastapi filelock h11 httptools idna msgspec
  multipart opentelemetry-api orjson pillow prometheus-client pydantic pydantic-core
  pydantic-settings python-dotenv simplejpeg starlette tomlkit typing-extensions typing-inspection
  uvicorn"
for name in $packages; do grep "^$name==" "$root/docker/constraints.txt"; done > "$work/packages.txt"
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/wheels" \
  --requirement "$work/packages.txt"
# The tests of step 3 need it, and what it needs.
"$python" -m pip download --quiet --only-binary=:all: --dest "$work/wheels" \
  "$(grep '^hypothesis==' "$root/dev-constraints.txt")"
cp "$work"/wheels/*.whl "$stage/wheels/"

# Optional: nvImageCodec with nvJPEG alone, for the probe of step 5.
if "$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/large" \
  nvidia-nvimgcodec-cu13 nvidia-nvjpeg; then
  minor=$("$python" -c 'import sys; print(f"cpython-3{sys.version_info.minor}-")')
  for wheel in "$work"/large/nvidia_nv{imgcodec,jpeg}*.whl; do
    "$python" - "$wheel" "$stage/wheels/$(basename "$wheel")" "$minor" <<'P'
import re, sys, zipfile
source, target, minor = sys.argv[1:]
with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
    for name in old.namelist():
        other_python = re.search(r"\.cpython-\d+-", name) and minor not in name
        other_codec = "/extensions/" in name and "nvjpeg_ext" not in name
        if not (other_python or other_codec or re.search(r"/(include|samples)/|\.(h|a|cmake)$", name)):
            new.writestr(name, old.read(name))
P
  done
else
  echo "nvImageCodec is not available: step 5 compares less" >&2
fi

ort=$(grep '^onnxruntime-gpu==' "$root/docker/constraints.txt")
"$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "$work/large" "$ort"
wheel=$(ls "$work"/large/onnxruntime_gpu-"${ort#*==}"-*.whl)
packed=$work/$(basename "$wheel")-sm_$architecture
if [ ! -d "$packed" ]; then
  "$python" "$here/pack_onnxruntime.py" "$wheel" "$architecture" "$packed.part"
  mv "$packed.part" "$packed"
fi
cp -r "$packed" "$stage/onnxruntime"

# The project. The host links service and models to the names that they are imported by.
git -C "$root" archive HEAD | tar -x -C "$stage/app"
git -C "$root" rev-parse HEAD > "$stage/COMMIT"
bundle=models/bundles/efficientnet-lite0/1
mkdir -p "$stage/app/$(dirname $bundle)"
cp -r "$root/$bundle" "$stage/app/$bundle"
cp -r "${PHOTOS:-$root/build/photos}" "$stage/photos"
cp "$here"/run_*.sh "$here"/*_probe.py "$here/first_light.py" "$stage/"
include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
for module in _softmax imaging/_resample imaging/_jpeg; do # with the options of setup.py; optional
  gcc -O3 -std=c11 -D_GNU_SOURCE -ffp-contract=off -shared -fPIC -I"$include" \
    -o "$stage/app/service/$module$suffix" "$root/service/$module.c" -lm \
    || echo "$module is left out: the service will be slower" >&2
done

tar -C "$stage" --sort=name --mtime=@0 --owner=0 --group=0 -cf - . | gzip -1 > "$work/all.tar.gz"
for half in 1 2; do rm -rf "$target/.gpu$half"; mkdir "$target/.gpu$half"; done
split --number=2 --numeric-suffixes=1 --suffix-length=1 "$work/all.tar.gz" "$work/half."
mv "$work/half.1" "$target/.gpu1/"
mv "$work/half.2" "$target/.gpu2/"
(cd "$work" && sha256sum all.tar.gz) > "$target/.gpu2/sha256"
cp "$here/run_1.sh" "$target/.gpu1/"
cp "$here/run_2.sh" "$target/.gpu2/"
for half in 1 2; do
  mib=$(($(du -sb "$target/.gpu$half" | cut -f1) / 1048576 + 1))
  echo ".gpu$half: $mib of $limit_mib MiB, in addition to the working tree"
done
