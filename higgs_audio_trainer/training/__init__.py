"""The trainer: model, arguments, loop, signals."""
