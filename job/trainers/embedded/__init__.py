"""The embedded trainer: a child process that trains a LoRA with diffusers, on a CPU or a GPU.

`wire`, `task`, `environment`, `order` and `errors` need no training library, so that the parent may
import them; all other modules here run in the child alone.
"""
