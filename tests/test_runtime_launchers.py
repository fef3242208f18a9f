"""Triton 3.6 builds a C extension for each signature of kernels: threads that load several must each get their own."""

from __future__ import annotations

import shutil
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flame_triton.runtime.jit import prepare

HEADERS = Path(sysconfig.get_paths()["include"], "Python.h").exists()
CODE = """
#include <Python.h>
static PyObject* launch(PyObject* self, PyObject* args) {{ return PyLong_FromLong({number}); }}
static PyMethodDef methods[] = {{{{"launch", launch, METH_VARARGS, NULL}}, {{NULL, NULL, 0, NULL}}}};
static struct PyModuleDef module = {{PyModuleDef_HEAD_INIT, "__triton_launcher", NULL, -1, methods}};
PyMODINIT_FUNC PyInit___triton_launcher(void) {{ return PyModule_Create(&module); }}
"""


@pytest.mark.skipif(not (HEADERS and shutil.which("gcc")), reason="no C compiler, or no headers of Python")
def test_every_signature_has_a_launcher_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As Triton loads them: the module first, its function afterwards, on several threads at once."""
    prepare()
    from triton.backends.nvidia import driver

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    numbers = [*range(6)] * 2

    def load(number: int) -> object:
        return driver.compile_module_from_src(CODE.format(number=number), "__triton_launcher")

    with ThreadPoolExecutor(6) as pool:
        modules = [*pool.map(load, numbers)]
    assert [module.launch() for module in modules] == numbers  # type: ignore[attr-defined]
    again = [load(number) for number in numbers]
    assert [module.launch() for module in (*modules, *again)] == numbers * 2  # type: ignore[attr-defined]
