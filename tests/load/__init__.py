"""Many clients at once, honest ones and attackers, against a query service in a process of its own."""
