"""What runs on the laptop or in CI. Of `job` it imports the contract alone."""

__version__ = "0.1.0"
