#!/usr/bin/env bash
# Step 3: the GPU tests.
. "${TG:-/var/tmp/tg}/env.sh" || exit 3
export GPU_TEST_BATCHES=${GPU_TEST_BATCHES:-3000}
# Without plugins of the host, whose warnings would be errors here.
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 timeout 570 python3 -m pytest tests/gpu -m gpu -v \
  -p pytest_timeout -p no:cacheprovider -o addopts="-ra --import-mode=importlib --strict-markers" \
  --junitxml="${OUT:?}/tests.xml" 2>&1 | tee "$OUT/tests.log" | tail -60
