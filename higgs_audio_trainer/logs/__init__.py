"""The log as data: reading it back, its gaps, its schema. Free of torch."""
