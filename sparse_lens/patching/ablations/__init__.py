"""What absent nodes and edges carry."""
