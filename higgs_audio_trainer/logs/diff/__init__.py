"""Comparison of two logs, and golden files: `compare.diff`, `golden.write_golden`, `reports.render`."""
