"""Implementations of Store: S3, and an S3 server on loopback for whoever has no bucket."""
