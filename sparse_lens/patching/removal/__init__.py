"""What becomes of a circuit's answers as nodes or edges are removed, run after run."""
