"""The laptop: embedded Postgres, a devnet, and the local stack that `up` starts and `down` stops."""
