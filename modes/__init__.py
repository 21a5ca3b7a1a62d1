"""What a composed configuration can be asked to do: one file per mode."""
