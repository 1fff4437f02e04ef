"""From a manifest to batches: manifest -> clips -> codes -> prompt and labels -> batch. One file a noun."""
