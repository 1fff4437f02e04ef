"""Families of models: meaning of tokens, prompts, weights, training and speech of their checkpoints.

Each family is a package with an object that has the methods of `family.Family`. Nothing outside asks which family a
checkpoint is of. `docs/design/families.md` says how to add one.
"""
