"""Rival circuit-finding methods, one file each."""
