"""Tests of the work on a CUDA device. The same functions also run on the CPU."""
