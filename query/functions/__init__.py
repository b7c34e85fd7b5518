"""The reviewed function list of the DuckDB version in use, and how it is made."""
