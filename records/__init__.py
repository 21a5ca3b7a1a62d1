"""The run directory: its layout, its result.json, its report."""
