"""Speech that a model generates by itself: prompts, generation, and measures of what was said."""
