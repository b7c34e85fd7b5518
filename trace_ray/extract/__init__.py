"""From a chain to verified tables in a staging directory. Knows neither Ray nor Postgres."""
