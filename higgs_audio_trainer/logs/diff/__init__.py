"""Two logs compared, and goldens: `compare.compare`, `golden.write_golden`, `reports.render`."""
