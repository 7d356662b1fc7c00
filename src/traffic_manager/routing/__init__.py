"""The rules of routing: no framework, driver or setting is imported here."""
