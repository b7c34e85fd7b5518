"""Fuzzes what strangers reach: `python -m tests.fuzz --seconds 600`. Short forms are in tests/integration."""
