"""Launchers: run a command as several processes, on a cluster or in a cloud."""
