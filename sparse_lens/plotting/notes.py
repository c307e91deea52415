"""Texts that tell the reader of a page how to read the drawing of a circuit."""

CIRCUIT_NOTE = {
    "channel": (
        "A channel of the residual stream is a level line, on which nodes read (hollow) and write "
        "(full). Point at a node or an edge for names and weights; a node lights up its edges. "
        "Drag to move, click in the legend to hide."
    ),
    "component": (
        "Heads read at their ports for q, k and v. Point at a node or an edge for names and "
        "scores; a node lights up its edges. Drag to move, click in the legend to hide."
    ),
}
"""By kind of graph."""

PROFILE_NOTE = "Click on a node to see below what it does on some prompts, token by token."
