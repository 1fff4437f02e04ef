"""Preparation of manifests: clips encoded by many processes, and one data set of tokens and codes a manifest."""
