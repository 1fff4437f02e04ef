"""Summary of a log on one screen: metrics, problems, gaps and cost, and their rendering."""
