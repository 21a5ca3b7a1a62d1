"""Data sets as LightningDataModules: one file per family."""
