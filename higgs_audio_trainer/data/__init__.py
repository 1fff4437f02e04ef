"""The way from a manifest to batches, a file for each noun: manifest, clips, codes, prompt and labels, batch."""
