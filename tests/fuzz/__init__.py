"""Fuzzing of what strangers reach: `python -m tests.fuzz --seconds 600`. The short form is in tests/integration/query."""
