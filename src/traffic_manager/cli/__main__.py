"""`python -m traffic_manager.cli` is `traffic-manager`."""

from traffic_manager.cli import main

main()
