"""python -m flame_triton: the command line."""

from .cli import main

main()
