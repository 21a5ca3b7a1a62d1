"""What is trained: backbones, one file per method, metrics."""
