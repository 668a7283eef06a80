"""Tests of `service/offline`."""
