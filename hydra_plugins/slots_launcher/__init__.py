"""Hydra's launcher for several jobs at a time on one machine."""
