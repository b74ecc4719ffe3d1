"""The data set: read safely, checked, packed for the pod."""
