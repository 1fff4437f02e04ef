"""A report on one or two logs: one HTML file that needs nothing else. Torch-free."""
