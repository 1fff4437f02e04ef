"""Device check: all measurements that need a CUDA device, as one command of limited duration."""
