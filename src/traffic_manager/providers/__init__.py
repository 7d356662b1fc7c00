"""Identity providers, as far as they are asked for anything: the keys that they sign tokens with."""
