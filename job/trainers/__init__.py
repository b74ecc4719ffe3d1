"""Trainers: each turns a recipe into a command line and the command's output into the same reports."""
