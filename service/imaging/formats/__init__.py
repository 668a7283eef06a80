"""One module a format: its header's sizes, and what decoding it costs. Bytes in, `Found` out."""
