"""Comparison of two logs, and golden files: `compare.compare`, `golden.write_golden`, `reports.render`."""
