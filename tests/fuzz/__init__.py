"""Fuzzes what strangers reach: `python -m tests.fuzz --seconds 600`. A short form is in tests/integration/query."""
