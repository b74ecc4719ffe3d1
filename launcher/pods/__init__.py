"""Providers of pods."""
