#!/usr/bin/env bash
# Step 2: unpack both halves, try one session on the GPU, then a tenth of the report.
set -u
TG=${TG:-/var/tmp/tg}
test -f "$TG/half.1" || { echo "this is another machine: start with step 1" >&2; exit 3; }
cat "$TG/half.1" .gpu2/half.2 > "$TG/all.tar.gz"
(cd "$TG" && sha256sum --check -) < .gpu2/sha256 || exit 4
tar -xz -C "$TG" -f "$TG/all.tar.gz" || exit 5
cd "$TG" || exit 5
mkdir -p site names/tidegate
ln -sfn ../../app/service ../../app/models names/tidegate/
python3 - <<'P' || exit 6
import lzma
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

def unpack(packed: Path) -> None:
    target = Path("site") / packed.relative_to("onnxruntime").with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(lzma.decompress(packed.read_bytes()))

with ThreadPoolExecutor() as pool:
    list(pool.map(unpack, Path("onnxruntime").rglob("*.xz")))
for wheel in sorted(Path("wheels").glob("*.whl")):
    zipfile.ZipFile(wheel).extractall("site")

# The service reads its version from its metadata, which an installation would write.
version = re.search(r'^version = "(.+)"', Path("app/pyproject.toml").read_text(), re.M)[1]
info = Path(f"site/tidegate-{version}.dist-info")
info.mkdir(exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tidegate\nVersion: {version}\n")

# ONNX Runtime looks for NVIDIA's wheels next to itself: link those that torch brought.
Path("site/nvidia/__init__.py").unlink(missing_ok=True)
try:
    import nvidia
    folders = [Path(folder) for folder in nvidia.__path__]
except ImportError:
    folders = []
    print("no NVIDIA wheels: set LD_LIBRARY_PATH to CUDA 13 and cuDNN 9")
for library in (file for folder in folders for file in folder.glob("*/lib/*.so*")):
    link = Path("site/nvidia", library.parent.parent.name, "lib", library.name)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(library)
P
cat > env.sh <<P
export TG=$TG PYTHONPATH=$TG/names:$TG/app:$TG/site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
BUNDLE=models/bundles/efficientnet-lite0/1
cd $TG/app
P
. ./env.sh
python3 - <<'P' || exit 6
import importlib

for name in ("fastapi", "msgspec", "orjson", "pydantic", "uvloop", "httptools", "simplejpeg", "PIL",
             "onnx", "rich", "httpx", "pytest", "pytest_timeout", "filelock", "cuda.bindings", "pynvml",
             "onnxruntime", "onnxruntime.quantization", "onnxruntime.transformers.float16"):
    module = importlib.import_module(name)
    print(name, getattr(module, "__version__", ""), getattr(module, "__file__", ""))
from tidegate.service.imaging.pillow_resize import RESIZES_BY

print("resize by", RESIZES_BY)
P
python3 -m tidegate.service bundle verify $BUNDLE || exit 7
timeout 120 python3 "$TG/first_light.py" 2>&1 | tee "${OUT:?}/first_light.txt"
timeout 300 python3 -m tidegate.service gpu-report --quick --no-tests --engine onnx-cuda \
  --photos "$TG/photos" --out "$OUT/quick.json" $BUNDLE 2>&1 | tee "$OUT/quick.log" | tail -25
