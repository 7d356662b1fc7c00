"""Breaks the code on purpose, to see whether the tests of the promises notice: one patch for each break."""
