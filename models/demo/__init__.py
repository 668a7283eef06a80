"""The demo bundle: EfficientNet-Lite0 with its ImageNet weights and a gate fitted on photographs.

`build` makes the bundle and needs only the checkpoint and what is committed beside this file;
`calibrate` made those committed numbers.
"""
