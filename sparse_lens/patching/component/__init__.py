"""The masked pass of a component graph: writers kept, mixed, and put in at the readers."""
