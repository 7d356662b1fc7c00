"""One module for each section of the settings: fields, defaults and checks side by side."""
