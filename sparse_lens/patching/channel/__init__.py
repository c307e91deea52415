"""The masked forward pass on a channel graph: gates on channels, masks on weights."""
