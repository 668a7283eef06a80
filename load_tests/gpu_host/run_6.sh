#!/usr/bin/env bash
# Step 6: three larger networks, made on the host.
. "${TG:-/var/tmp/tg}/env.sh" || exit 3
timeout 300 python3 -m tidegate.service architectures ResNet-50 ConvNeXt-T ViT-S/16 \
  --keep build/architectures 2>&1 | tail -12
for made in build/architectures/*/1; do
  name=$(basename "$(dirname "$made")")
  timeout 120 python3 -m tidegate.service gpu-report --quick --no-tests --no-http --engine onnx-cuda \
    --photos "$TG/photos" --out "${OUT:?}/$name.json" "$made" 2>&1 | tail -6
done
