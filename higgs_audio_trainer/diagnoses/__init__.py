"""Checks that find training mistakes in the log: pure, torch-free functions, one module for each family of checks."""
