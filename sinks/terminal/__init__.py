"""Text on a terminal: screen, streams, escapes, folding, colour. Imports nothing else of `sinks`."""
