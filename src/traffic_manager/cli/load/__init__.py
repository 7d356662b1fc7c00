"""The load generator behind `traffic-manager bench`: an open loop of resolves, changes and watchers."""
