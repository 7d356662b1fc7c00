"""What operators get from us, tried with the tools that they use: marker `kit`, `make kit`.

`tools` is the table of those tools, `install` brings them into `.cache/kit`, and the tests ask `tool` for one.
"""
