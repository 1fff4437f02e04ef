"""Records as text for people. `record` renders a record with the functions of the other modules."""
