"""What a training needs and what a machine has, before anything is downloaded."""
