"""What runs inside the container. Imports nothing of `launcher`."""
