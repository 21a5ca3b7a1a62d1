"""Few-shot and zero-shot recognition on features of a pretrained encoder."""
