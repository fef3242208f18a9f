"""A process that compiles kernels into Triton's cache: a launch in each line of stdin, what became of it on stdout.

It imports no program of the user's and never touches a GPU. Arguments: the compute capability times ten; "anew" to
compile also what is cached, and to report what ptxas says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys

from .compiling import compile_for, compiled_anew, separate_output, stand_in
from .jit import prepare
from .wire import decode

READY = "ready"


def main(arch: int, anew: bool) -> None:
    """Serve until stdin ends."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # whatever the compiler prints is no answer
        prepare()
        with stand_in(arch), compiled_anew() if anew else contextlib.nullcontext(), separate_output() as output:
            answers.write(READY + "\n")
            answers.flush()
            for line in sys.stdin:
                answers.write(json.dumps(dataclasses.asdict(compile_for(decode(line), arch, output))) + "\n")
                answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["anew"])
