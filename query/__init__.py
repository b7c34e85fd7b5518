"""Safe SQL on Parquet: judge, prune, run in a powerless child process. Knows no ledger, no Ray, no Postgres."""
