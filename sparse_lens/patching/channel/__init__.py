"""The masked pass of a channel graph: gates on channels, masks on weights."""
