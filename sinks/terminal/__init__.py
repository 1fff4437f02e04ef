"""Text for a person's terminal: screen, streams, escapes, folding, colour."""
