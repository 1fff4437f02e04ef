"""Logs as data: reading, merging, comparing, validating and summarizing event files. Free of torch."""
