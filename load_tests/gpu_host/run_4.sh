#!/usr/bin/env bash
# Step 4: the report of the demo in one precision, fp32 or fp16.
. "${TG:-/var/tmp/tg}/env.sh" || exit 3
precision=${1:-fp32}
http=()
test "$precision" = fp16 && http=(--no-http)
timeout 585 python3 -m tidegate.service gpu-report --no-tests "${http[@]}" --engine onnx-cuda \
  --precision "$precision" --photos "$TG/photos" --out "${OUT:?}/gpu-$precision.json" "$BUNDLE" \
  2>&1 | tee "$OUT/gpu-$precision.log" | tail -30
test -s "$OUT/gpu-$precision.json" || exit 1 # the log says why
python3 - "$OUT/gpu-$precision.json" "$TG/COMMIT" <<'P'
import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
report = json.loads(path.read_text())
report["packed_commit"] = Path(sys.argv[2]).read_text().strip()
report["packed_onnxruntime"] = "other GPUs' code blanked by pack_onnxruntime.py; see libraries"
path.write_text(json.dumps(report, indent=1) + "\n")
P
