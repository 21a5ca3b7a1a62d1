"""Backbones behind one call: images (B, 3, H, W) to features (B, D)."""
