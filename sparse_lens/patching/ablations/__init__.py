"""Ablations: what absent nodes and edges carry."""
