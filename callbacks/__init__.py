"""What happens around a run: checkpoints, progress, the metrics table, pictures."""
