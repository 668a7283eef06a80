"""The demo bundle: EfficientNet-Lite0 with its ImageNet weights and a gate fitted on photographs.

`build` builds the bundle from the checkpoint and the files in this folder; `calibrate` computed the
committed calibration.
"""
