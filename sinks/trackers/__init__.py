"""Experiment trackers as sinks. A module imports the library of its tracker when the sink is made."""
