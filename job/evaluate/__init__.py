"""Drawing each checkpoint's images and reading what they show."""
