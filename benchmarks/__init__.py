"""What things cost, measured; never asserted in a test."""
