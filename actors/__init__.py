"""The moving parts: what Ray runs. Plain classes, and thin Ray shells around them."""
