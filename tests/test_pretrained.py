"""Folders of weights: diffusers reads ours, we read diffusers', and what does not fit is refused whole."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from diffusers_models import arrays_of, theirs

import flame_triton as ft
from flame_triton.errors import ArgumentError, StateError
from flame_triton.models import DiT, weights
from flame_triton.runtime import checkpoint

TINY: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 3, "num_layers": 2, "sample_size": 8,
    "num_embeds_ada_norm": 5,
}  # fmt: skip
NAME = "DiTTransformer2DModel"
WEIGHTS, INDEX = weights.WEIGHTS_FILE, weights.INDEX_FILE
GATE = "transformer_blocks.0.norm1.linear.weight"


def state_of(model: DiT, *more: ft.Value, seed: int = 3) -> ft.State:
    return ft.State([*model.parameters(None), *more], seed=seed, device="reference")


def random_model() -> tuple[DiT, ft.State]:
    """A model whose parameters are all random, zeros included."""
    model = DiT.from_config(TINY)
    state, rng = state_of(model), np.random.default_rng(1)
    for value in model.parameters():
        state.set(value, rng.standard_normal(value.shape).astype(np.float32))
    return model, state


def held(model: DiT, state: ft.State) -> dict[str, np.ndarray]:
    return model.state_dict(state)


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def load_theirs(folder: Path, **options: Any) -> Any:
    import diffusers

    return diffusers.DiTTransformer2DModel.from_pretrained(folder, **options)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder of ours in float32, and what it holds."""
    model, state = random_model()
    model.save_pretrained(tmp_path / "model", state)
    return tmp_path / "model", held(model, state)


# ---- round trips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, several", [("10GB", False), ("4KB", True)])
def test_diffusers_loads_what_we_save(tmp_path: Path, size: str, several: bool) -> None:
    model, state = random_model()
    model.save_pretrained(tmp_path / "a" / "model", state, max_shard_size=size)
    assert (tmp_path / "a" / "model" / INDEX).exists() == several
    assert not (tmp_path / "a" / "model" / WEIGHTS).exists() == several
    module = load_theirs(tmp_path / "a" / "model")
    assert_same(arrays_of(module), held(model, state))
    assert {k: module.config[k] for k in TINY} == TINY
    assert os.listdir(tmp_path / "a") == ["model"]  # no temporary folder stays


@pytest.mark.parametrize("size", ["10GB", "4KB"])
def test_we_load_what_diffusers_saves(tmp_path: Path, size: str) -> None:
    import torch

    module = theirs(NAME, TINY, dtype=torch.float32)
    module.save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / INDEX).exists() == (size == "4KB")
    model = DiT.from_pretrained(tmp_path)
    state = state_of(model)
    assert_same(held(model, state), arrays_of(module))
    x, t, labels = np.ones((1, 3, 8, 8), np.float32), np.array([7.0], np.float32), np.array([2])
    given = [ft.input(a.shape, ft.dtype(a.dtype)) for a in (x, t, labels)]
    found = ft.compile(model(*given), given, state=state, device="reference")(x, t, labels)
    expected = module(*(torch.from_numpy(a) for a in (x, t, labels))).sample.detach().numpy()
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-5)


def test_shards_hold_at_most_what_was_asked(tmp_path: Path) -> None:
    model, state = random_model()
    model.save_pretrained(tmp_path, state, max_shard_size=3000)
    where = json.loads((tmp_path / INDEX).read_text())
    assert where["metadata"]["total_size"] == sum(v.type.nbytes for v in model.parameters(None))
    assert set(where["weight_map"]) == {name for name, _ in model.named_parameters(None)}
    for file in set(where["weight_map"].values()):
        with checkpoint.Reader(tmp_path / file) as reader:
            sizes = [t.nbytes for t in reader.types.values() if isinstance(t, ft.types.TensorType)]
        assert sum(sizes) <= 3000 or len(sizes) == 1
    again = DiT.from_pretrained(tmp_path)
    assert_same(held(again, state_of(again)), held(model, state))


# ---- element types ---------------------------------------------------------------------------------------------


def test_none_takes_the_type_of_the_file(tmp_path: Path) -> None:
    model, state = random_model()
    model.save_pretrained(tmp_path, state, dtype="bfloat16")
    loaded = DiT.from_pretrained(tmp_path)
    assert loaded.dtype is ft.bfloat16 and {p.dtype for p in loaded.parameters(None)} == {ft.bfloat16}
    expected = {name: array.astype(ml_dtypes.bfloat16) for name, array in held(model, state).items()}
    assert_same(held(loaded, state_of(loaded)), expected)
    module = load_theirs(tmp_path)  # as float32
    assert_same(arrays_of(module), {name: array.astype(np.float32) for name, array in expected.items()})


def test_conversion_is_asked_for(saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder, arrays = saved
    narrow = DiT.from_pretrained(folder, dtype="bfloat16")
    state = state_of(narrow)
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    assert_same(held(narrow, state), rounded)
    narrow.save_pretrained(tmp_path / "narrow", state)
    wide = DiT.from_pretrained(tmp_path / "narrow", dtype="float32")
    assert_same(held(wide, state_of(wide)), {name: array.astype(np.float32) for name, array in rounded.items()})


def test_masters_start_from_the_numbers_in_the_file(saved: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    folder, arrays = saved
    model = DiT.from_pretrained(folder, dtype="bfloat16")
    optimizer = ft.optim.AdamW(model.parameters(), 1e-3, master="float32", ema=0.9)
    state = state_of(model, *optimizer.state_values)
    for name, value in model.named_parameters():
        np.testing.assert_array_equal(state[optimizer.masters[value]], arrays[name])
    model.save_pretrained(tmp_path / "masters", state, bind=optimizer.masters)
    again = DiT.from_pretrained(tmp_path / "masters")
    assert again.dtype is ft.float32
    assert_same(held(again, state_of(again)), arrays)
    for value in model.parameters():
        state.set(optimizer.averages[value], np.full(value.shape, 0.5, state[optimizer.averages[value]].dtype))
    model.save_pretrained(tmp_path / "averages", state, bind=optimizer.averages, dtype="bfloat16")
    averages = DiT.from_pretrained(tmp_path / "averages")
    assert averages.dtype is ft.bfloat16 and all((state_of(averages)[p] == 0.5).all() for p in averages.parameters())


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], object], file: str = WEIGHTS) -> None:
    """The same weights, changed."""
    with checkpoint.Reader(folder / file) as reader:
        arrays = {name: reader.read(name) for name in reader.types}
    change(arrays)
    types = {name: ft.types.TensorType(a.shape, ft.dtype(a.dtype)) for name, a in arrays.items()}
    checkpoint.write(folder / file, types, arrays.__getitem__, {})


def test_several_types_want_a_word(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, arrays = saved
    rewrite(folder, lambda held: held.update({GATE: held[GATE].astype(np.float16)}))
    with pytest.raises(StateError, match="are float16 and float32: say which dtype="):
        DiT.from_pretrained(folder)
    model = DiT.from_pretrained(folder, dtype="float32")
    np.testing.assert_array_equal(held(model, state_of(model))[GATE], arrays[GATE].astype(np.float16))


# ---- what is refused -------------------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_listed_at_once(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = saved

    def spoil(arrays: dict[str, np.ndarray]) -> None:
        del arrays["proj_out_1.bias"], arrays["proj_out_2.bias"]
        arrays["lora.weight"] = np.zeros(3, np.float32)
        arrays[GATE] = arrays[GATE].T.copy()
        arrays["pos_embed.proj.bias"] = np.zeros(8, np.int64)

    rewrite(folder, spoil)
    with pytest.raises(StateError) as caught:
        DiT.from_pretrained(folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"the weights in {folder} do not fit the model:"
    assert sorted(line.strip() for line in lines[1:]) == [
        "lora.weight: unexpected",
        "pos_embed.proj.bias: int64, expected float32",
        "proj_out_1.bias: missing, expected [16]",
        "proj_out_2.bias: missing, expected [12]",
        f"{GATE}: shape [8, 48], expected [48, 8]",
    ]


def test_unsupported_types_and_damaged_files_are_refused(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    import safetensors.torch
    import torch

    folder, arrays = saved
    tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
    tensors["proj_out_1.bias"] = torch.zeros(16, dtype=torch.complex64)
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    with pytest.raises(StateError, match=r"proj_out_1.bias: the file holds the unsupported dtype C64"):
        DiT.from_pretrained(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])
    with pytest.raises(StateError, match="no sound safetensors file"):
        DiT.from_pretrained(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(StateError, match=rf"{WEIGHTS} cannot be read: No such file"):
        DiT.from_pretrained(folder)


def test_configurations_that_cannot_be_read_are_refused(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, _ = saved
    config = folder / "config.json"
    keys = json.loads(config.read_text())
    config.write_text(json.dumps(keys | {"attention_type": "gated", "norm_type": "ada_norm"}))
    with pytest.raises(ArgumentError, match=r"(?s)attention_type = 'gated'.*|norm_type = 'ada_norm'.*"):
        DiT.from_pretrained(folder)
    config.write_text("[1, 2]")
    with pytest.raises(StateError, match="holds no JSON object"):
        DiT.from_pretrained(folder)
    config.write_text("{")
    with pytest.raises(StateError, match="is no JSON"):
        DiT.from_pretrained(folder)
    config.unlink()
    with pytest.raises(StateError, match=r"config.json cannot be read"):
        DiT.from_pretrained(folder)


def test_an_index_must_describe_its_files(tmp_path: Path) -> None:
    model, state = random_model()
    model.save_pretrained(tmp_path, state, max_shard_size="4KB")
    index = json.loads((tmp_path / INDEX).read_text())
    where = index["weight_map"]
    first, last = min(where.values()), max(where.values())
    moved = next(name for name, file in where.items() if file == first)

    def with_map(changed: object) -> None:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": changed}))

    with_map(where | {moved: last})
    with pytest.raises(StateError) as caught:
        DiT.from_pretrained(tmp_path)
    assert f"{moved}: not in {last}, where the index says" in str(caught.value)
    assert f"{moved}: in {first}, not where the index says" in str(caught.value)
    with_map(where | {moved: "../elsewhere.safetensors"})
    with pytest.raises(StateError, match="is no file of this folder"):
        DiT.from_pretrained(tmp_path)
    with_map([1])
    with pytest.raises(StateError, match="is no index of weights"):
        DiT.from_pretrained(tmp_path)
    with_map(where)
    (tmp_path / last).unlink()
    with pytest.raises(StateError, match=rf"{last} cannot be read"):
        DiT.from_pretrained(tmp_path)


def test_a_state_without_the_parameters_cannot_be_saved(tmp_path: Path) -> None:
    model, state = random_model()
    with pytest.raises(StateError, match="is not in this State"):
        DiT.from_config(TINY).save_pretrained(tmp_path / "a", state)
    weight, bias = model.proj_out_1.weight, model.proj_out_1.bias
    with pytest.raises(StateError, match=r"proj_out_1.weight: float32.* cannot be written from"):
        model.save_pretrained(tmp_path / "a", state, bind={weight: bias})
    for size in ("many", 0, "0GB", True, -1):
        with pytest.raises(ArgumentError, match="max_shard_size must be bytes"):
            model.save_pretrained(tmp_path / "a", state, max_shard_size=size)
    with pytest.raises(ArgumentError, match="dtype must be floating"):
        model.save_pretrained(tmp_path / "a", state, dtype="int32")
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file", state)
    assert os.listdir(tmp_path) == ["file"]


# ---- folders that are there already ----------------------------------------------------------------------------


def test_what_was_checked_is_what_is_read(saved: tuple[Path, dict[str, np.ndarray]]) -> None:
    """The State is made later; a folder that has been written anew meanwhile does not change the numbers."""
    folder, arrays = saved
    model = DiT.from_pretrained(folder)
    other = DiT.from_config(TINY)
    other.save_pretrained(folder, state_of(other))
    assert_same(held(model, state_of(model)), arrays)


def test_saving_again_leaves_nothing_of_the_old_weights(tmp_path: Path) -> None:
    model, state = random_model()
    (tmp_path / "README.md").write_text("mine")
    for size, count in (("4KB", None), ("10GB", 1), ("2KB", None), (6000, None), ("10GB", 1)):
        model.save_pretrained(tmp_path, state, max_shard_size=size)
        files = set(os.listdir(tmp_path)) - {"README.md", "config.json"}
        if count == 1:
            assert files == {WEIGHTS}
        else:
            where = json.loads((tmp_path / INDEX).read_text())["weight_map"]
            assert files == {INDEX, *where.values()}
        assert_same(arrays_of(load_theirs(tmp_path)), held(model, state))
    assert (tmp_path / "README.md").read_text() == "mine"


class PowerCut:
    """os.unlink and os.replace that fail, and go on failing, once `limit` calls have touched `folder`."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, limit: int) -> None:
        self.folder, self.limit, self.done = str(folder), limit, 0
        patch.setattr(os, "unlink", self.guarded(os.unlink))
        patch.setattr(os, "replace", self.guarded(os.replace))

    def guarded(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(str(a).startswith(self.folder) for a in args):
                if self.done == self.limit:
                    raise OSError("the power is gone")
                self.done += 1
            return own(*args, **kwargs)

        return call


@pytest.mark.parametrize("sizes", [("4KB", "4KB"), ("10GB", "10GB"), ("4KB", "10GB"), ("10GB", "4KB")])
def test_a_save_cut_short_is_never_a_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: Any) -> None:
    """Stopped before any step of the move, the folder holds all of the old weights, all of the new, or is refused."""
    old, old_state = random_model()
    new = DiT.from_config(TINY)
    new_state = state_of(new)
    outcomes = []
    for limit in range(100):
        folder = tmp_path / str(limit)
        old.save_pretrained(folder, old_state, max_shard_size=sizes[0])
        finished = True
        with monkeypatch.context() as patch:
            PowerCut(patch, folder, limit)
            try:
                new.save_pretrained(folder, new_state, max_shard_size=sizes[1])
            except StateError:
                finished = False
        try:
            model = DiT.from_pretrained(folder)
        except StateError:
            outcomes.append("refused")
            continue
        found = held(model, state_of(model))
        outcomes.append("old" if found[GATE].any() else "new")
        assert_same(found, held(old, old_state) if outcomes[-1] == "old" else held(new, new_state))
        if finished:
            break
    assert outcomes[0] == "old" and outcomes[-1] == "new" and 2 < len(outcomes) < 100
    assert outcomes == sorted(outcomes, key=["old", "refused", "new"].index)


# ---- the document ----------------------------------------------------------------------------------------------


def test_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code in order, in a folder where a small model stands for the large one."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    small = DiT.from_config(TINY | {"in_channels": 4, "out_channels": 8})
    small.save_pretrained(tmp_path / "DiT-XL-2-256" / "transformer", state_of(small))
    monkeypatch.chdir(tmp_path)
    module = ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", module)  # dataclasses look there for what annotations mean
    for block in blocks:
        exec(compile(block, "models.md", "exec"), module.__dict__)
    held_in = {name: DiT.from_pretrained(tmp_path / name).dtype for name in ("copy", "trained", "averaged")}
    assert held_in == {"copy": ft.bfloat16, "trained": ft.float32, "averaged": ft.bfloat16}
    assert len(blocks) == 7 and list(module.own.state_dict(ft.State(module.own.parameters(None)))) == [
        "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias",
    ]  # fmt: skip
