"""Whatever bytes come, whoever reads them takes them rightly or refuses them as documented: `make fuzz`."""
