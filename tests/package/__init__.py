"""The wheel: what is in it, and that it serves outside of this repository."""
