"""A log checked: each line by itself, and the lines against each other. `validate.validate` is the way in."""
