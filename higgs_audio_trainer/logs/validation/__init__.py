"""Validation of logs: each line alone, and the lines of a log together. Start with `validate.validate`."""
