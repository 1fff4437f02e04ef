"""The audit of the data: samples in, statistics and findings out. Pure, torch-free, in bounded memory."""
