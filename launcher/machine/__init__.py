"""This machine: its clock, processes, locks, files, addresses."""
