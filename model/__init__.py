"""The transformer as arithmetic: no torch.distributed, no environment, no files."""
