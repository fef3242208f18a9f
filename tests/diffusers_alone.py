"""diffusers, imported as if transformers and peft were not installed.

It imports both where they are, some parts of it late, though nothing that is compared with needs them, and not every
transformers takes the huggingface_hub that diffusers needs. So they stay hidden in the processes that import this.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

modules: dict[str, Any] = sys.modules
for unwanted in ("transformers", "peft"):
    modules.setdefault(unwanted, None)  # None is what hides one

diffusers = pytest.importorskip("diffusers")
