"""Results on their way from the bucket to this machine's disk, and there."""
