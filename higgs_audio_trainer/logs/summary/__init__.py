"""A log on one screen: its figures, and their rendering."""
