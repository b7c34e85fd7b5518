"""Runs untrusted bundles: fresh sandboxes without network, secrets or database, and how each of them ended."""
