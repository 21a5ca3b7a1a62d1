"""Metrics as torchmetrics.Metric classes over pure functions."""
