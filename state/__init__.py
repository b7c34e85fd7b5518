"""Ledgers: the only memory. Every write of orchestration state goes through here; the only importer of psycopg."""
