"""Deep hashing: one file per method."""
