"""What cutting each edge or ablating each node by itself does, without approximation."""
