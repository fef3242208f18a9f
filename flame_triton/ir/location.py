"""Where in the user's own code a node was made."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_APPLICATIONS = os.path.join(_PACKAGE, "train") + os.sep  # models of the demo: code that uses the library


@dataclass(frozen=True, slots=True)
class Loc:
    """A place in source code. Carried for messages and pictures only: no pass reads it for meaning.

    within: the fused function (ft.fused) whose body the place is in, the outermost first; empty outside of any.
    """

    file: str
    line: int
    function: str
    within: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def user_location() -> Loc:
    """The innermost frame outside the library (the outermost one if all frames are inside)."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  (inspect.stack is a thousand times slower)
    while frame.f_back is not None and _inside(frame.f_code.co_filename):
        frame = frame.f_back
    return Loc(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _inside(file: str) -> bool:
    return file.startswith(_PACKAGE) and not file.startswith(_APPLICATIONS)
