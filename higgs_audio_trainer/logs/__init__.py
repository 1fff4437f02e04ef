"""The log as data: its schema. Free of torch."""
