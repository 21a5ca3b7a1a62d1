"""Long-tailed recognition: one file per method over what `base.py` shares."""
