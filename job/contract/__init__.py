"""The wire between launcher and job: the only package that both sides import."""
