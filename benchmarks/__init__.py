"""Measured costs of every part of the project. No test asserts a timing."""
