"""What a training records, in our trainer or in any other."""
