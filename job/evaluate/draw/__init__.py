"""The child process that draws images with a base model and LoRAs, for people and for the ruler."""
