"""Images blended in pairs: mixup and CutMix, and what a loss makes of two labels."""
