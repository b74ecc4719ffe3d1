"""A whole night rehearsed: the real launcher, the real S3 server and the real job, RunPod simulated."""
