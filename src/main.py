"""`python src/main.py` starts the server, as the specification does; see `traffic_manager.main`."""

import sys

from traffic_manager.cli import main

sys.argv[1:] = ["serve", *sys.argv[1:]]
main()
