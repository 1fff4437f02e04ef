"""Speech that a model generates: prompts, generation and measures."""
