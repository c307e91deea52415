"""The exact effects of cutting single edges and ablating single nodes."""
