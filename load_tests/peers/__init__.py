"""The servers that ours is compared with: one small idiomatic program each, all round one model."""
