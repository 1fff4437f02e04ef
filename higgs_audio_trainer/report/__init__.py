"""Reports on one log or two logs, as a single HTML file. Torch-free."""
