"""Experiment trackers as sinks. Each module imports its library when its sink is made, and not before."""
