"""The servers that ours is compared with: one small idiomatic program each, with the same model."""
