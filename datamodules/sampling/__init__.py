"""Which samples are in which part, in which order, by which random numbers."""
