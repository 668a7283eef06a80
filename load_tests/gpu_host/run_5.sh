#!/usr/bin/env bash
# Step 5: the questions that only a GPU answers.
. "${TG:-/var/tmp/tg}/env.sh" || exit 3
timeout 240 python3 "$TG/onnxruntime_probe.py" "$BUNDLE/model.onnx" "${OUT:?}/onnxruntime.json" 2>&1 | tail -40
timeout 240 python3 "$TG/jpeg_probe.py" "$BUNDLE" "$TG/photos" "$OUT/jpeg.json" 2>&1 | tail -40
