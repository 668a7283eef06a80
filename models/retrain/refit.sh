#!/bin/sh
# A command for `tidegate retrain-request --run … --models …`: fits the gate, the temperature and the
# drift reference of the drifted bundle again. IMAGES is a folder with labelled images: train/,
# calibrate/ and test/, each with one folder per class.
set -eu
exec tidegate fit "$RETRAIN_BUNDLE" \
    --train "$IMAGES/train" --calibrate "$IMAGES/calibrate" --test "$IMAGES/test" \
    --name "$RETRAIN_MODEL" --version "$RETRAIN_VERSION" --out "$RETRAIN_OUT"
