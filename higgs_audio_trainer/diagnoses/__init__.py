"""Checks of the record: what the log says is wrong, in words. Torch-free, one module a family of checks."""
