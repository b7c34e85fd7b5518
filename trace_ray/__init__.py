"""trace_ray: EVM chains as verified Parquet, with an exact ledger and safe SQL."""
