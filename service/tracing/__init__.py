"""Traces of sampled requests, exported with OpenTelemetry.

Whether a request is traced is decided when it arrives. Its spans are built after its response, on a
thread, from times that are taken anyway, so that other requests cost only the decision.
"""
