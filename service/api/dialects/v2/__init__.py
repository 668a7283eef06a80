"""The Open Inference Protocol, version 2: the API of Triton, KServe and OpenVINO Model Server."""
