"""Files in their thousands of damaged forms: data, pickles, models, cards, recipes, grid files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pickle
import shutil
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import torch

import surrogate
from helpers.faults import Fault, Kind, Mutation, Refused, check, command, few_or_many
from helpers.hdf5_mutations import of_hdf5
from helpers.model_files import BRANCHES, a_card, a_stack, rewrite, sealed
from helpers.mutations import Draw, change_arrays, change_json, of_bytes, of_toml
from helpers.pickle_mutations import of_pickle
from surrogate import datasets
from surrogate.datasets.content import dataset_digest
from surrogate.datasets.layout import STREAMED, array_for
from surrogate.errors import Interrupted, UsageError
from surrogate.kernels import SpikeEvents
from surrogate.model.model_file import MODEL_NAME, save
from surrogate.training.trainer import TrainingProgress


def content_of(path: Path) -> tuple[str, ...]:
    """All that a data file holds, shortened."""
    with datasets.open(path) as data:
        table = repr([(name, column.tolist()) for name, column in sorted(data.segments.items())])
        trials = [(trial.digest(), trial.split, trial.source) for trial in data]
        return (
            data.digest,
            str(data.channels),
            hashlib.sha256(f"{table}{trials}".encode()).hexdigest(),
        )


def validated(path: Path) -> Any:
    """The content of a data file that passes its own command."""
    command("data", "info", path)
    command("data", "validate", path)
    return content_of(path)


def converted(path: Path, number: int) -> Any:
    """The content of what a source is converted to; what is accepted must be sound."""
    out = path.parent / "out.h5"
    out.unlink(missing_ok=True)
    shutil.rmtree(f"{out}.parts", ignore_errors=True)
    command("data", "convert", path, "--out", out)
    try:
        return validated(out)
    except Refused as refusal:
        raise Fault("silent change", f"converted to what is not valid: {refusal}") from None


def used_data(path: Path, number: int) -> Any:
    """What is accepted, by every command and in every copy, is what was written."""
    found = validated(path)
    if number % 5 == 0:
        copied = converted(path, number)
        if copied != found:
            raise Fault("silent change", "a conversion changes what it copies")
    return found


def reseal_data(path: Path) -> None:
    """Make the digests of the trials and of the file that the arrays have now."""
    seal_tables(path)
    with datasets.open(path) as data:
        digests = [np.frombuffer(trial.digest(), np.uint8) for trial in data]
    with h5py.File(path, "r+") as file:
        file["trial/digest"][...] = digests
    seal_tables(path)


def seal_tables(path: Path) -> None:
    tables = {}

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and name not in STREAMED and "voltage/" not in name:
            if item.size > 1e6:
                raise ValueError("too large to be read here")
            tables[name] = item[:].astype(array_for(name).type_for(item.dtype))

    with h5py.File(path, "r+") as file:
        file.visititems(add)
        digest = dataset_digest(int(file.attrs["n_steps"]), float(file.attrs["dt_ms"]), tables)
        file.attrs["digest"] = np.bytes_(digest)


@few_or_many
def test_data_files(tiny_data: Path, tmp_path: Path, count: int) -> None:
    mutations = [
        *of_bytes(sealed=True),
        *2 * of_hdf5(sealed=True),
        *2 * of_hdf5(reseal=reseal_data),
    ]
    check(Kind("data HDF5", tiny_data, mutations, used_data), count, tmp_path)


@pytest.fixture
def tiny_content() -> dict[str, Any]:
    """What a public pickle holds: two trials of 60 ms, two segments, eight samples per ms."""
    rng = np.random.default_rng(5)
    trials = []
    for _ in range(2):
        voltage = (-70 + rng.standard_normal(480)).astype(np.float16)
        voltage[[81, 243]] = 30
        trials.append(
            {
                "exInputSpikeTimes": {0: [np.int64(t) for t in range(1, 60, 9)], 1: [2.5, 7]},
                "inhInputSpikeTimes": {np.int64(1): np.array([3, 33], np.int32)},
                "outputSpikeTimes": (np.array([81, 243]) / 8).astype(np.float16),
                "somaVoltageHighRes": voltage,
                "somaVoltageLowRes": voltage[::8],
            }
        )
    segments = {
        "allSegmentsType": ["basal", "apical"],
        "allSegmentsLength": [20.0, 25.5],
        "allSegments_DistFromSoma": [10.0, 33.0],
        "allSegments_SectionInd": [0, 1],
    }
    kinds = {"excitatorySynapseType": "NMDA", "inhibitorySynapseType": "GABA_A", "randomSeed": 77}
    return {"Params": segments | kinds, "Results": {"listOfSingleSimulationDicts": trials}}


@few_or_many
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles(tiny_content: dict[str, Any], tmp_path: Path, protocol: int, count: int) -> None:
    path = tmp_path / "public.p"
    path.write_bytes(pickle.dumps(tiny_content, protocol=protocol))
    mutations = [*of_bytes(sealed=False), *2 * of_pickle()]

    def older(draw: Draw, path: Path) -> None:
        """What the older two protocols hold is text."""
        path.write_bytes(pickle.dumps(tiny_content, protocol=draw.choice((0, 1))))
        draw.choice(mutations[:-1]).change(draw, path)

    mutations.append(Mutation("protocol 0 or 1, changed", older))
    kind = Kind(f"pickle, protocol {protocol}", path, mutations, converted)
    check(kind, count // 3, tmp_path / "work")


@few_or_many
def test_foreign_hdf5(tiny_data: Path, tmp_path: Path, count: int) -> None:
    path = tmp_path / "foreign.h5"
    with datasets.open(tiny_data) as data, h5py.File(path, "w") as file:
        trials = list(data)
        times = [trial.spike_time_ms for trial in trials]
        ends = np.cumsum([0, *(len(trial.channel) for trial in trials)])
        counts = np.concatenate([np.diff(trial.row_ptr) for trial in trials])
        sizes = {"n_trials": 5, "n_steps": 60, "n_excitatory": 3, "n_inputs": 6}
        file.attrs.update(sizes | {"format": "l5pc-spikes", "version": 1, "source": "a simulation"})
        file["input/channel"] = np.concatenate([trial.channel for trial in trials])
        file["input/row_ptr"] = np.concatenate([[0], counts.cumsum()])
        file["output/spike_time_ms"] = np.concatenate(times).astype("f4")
        file["output/spike_time_ms_float16_rounded"] = (
            np.concatenate(times).astype("f2").astype("f4")
        )
        file["output/trial_ptr"] = np.cumsum([0, *map(len, times)])
        file["soma_voltage_mV"] = np.stack([t.voltage_mV["soma"] for t in trials]).astype("f2")
        file["nexus_voltage_mV"] = file["soma_voltage_mV"][:]
        file["trial/source"] = [trial.source for trial in trials]
        file["segment/allSegmentsType"] = data.segments["type"].astype("S8")
        file["segment/allSegmentsLength"] = data.segments["length_um"]
        file["segment/allSegments_DistFromSoma"] = data.segments["distance_um"]
        file["segment/allSegments_SectionInd"] = data.segments["section"].astype("f8")
        assert ends[-1] == file["input/channel"].shape[0]
    mutations = [*of_bytes(sealed=False), *3 * of_hdf5()]
    check(Kind("foreign HDF5", path, mutations, converted), count, tmp_path / "work")


def used_model(path: Path, number: int) -> Any:
    model = surrogate.load(path)
    shape = (2, 30, model.stack.spec.input_size)
    events = SpikeEvents.from_dense((torch.arange(math.prod(shape)) % 7 == 0).view(shape).float())
    return repr(model.card), [part.tobytes() for part in model.predict(events)]


def resealed_bytes(draw: Draw, path: Path) -> None:
    draw.choice(of_bytes(sealed=False)).change(draw, path)
    path.write_bytes(sealed(path.read_bytes()))


def resealed_weights(draw: Draw, path: Path) -> None:
    weights = safetensors.numpy.load(path.read_bytes())
    with safetensors.safe_open(path, "numpy") as file:
        about = file.metadata()
    path.write_bytes(sealed(safetensors.numpy.save(change_arrays(draw, weights), about)))


def resealed_card(draw: Draw, path: Path) -> None:
    def change(_: Any, about: dict[str, Any]) -> None:
        about["card"] = change_json(draw, about["card"])

    rewrite(path, change)


@pytest.fixture(params=["rnn", "elm"])
def small_model(request: pytest.FixtureRequest, tiny_run: Path, tmp_path: Path) -> Path:
    """One that was trained, and one with branches."""
    if request.param == "rnn":
        return tiny_run / MODEL_NAME
    stack = a_stack("elm", "linear", branches=BRANCHES)
    save(tmp_path / "elm.safetensors", stack, a_card(stack))
    return tmp_path / "elm.safetensors"


@few_or_many
def test_model_files(small_model: Path, tmp_path: Path, count: int) -> None:
    mutations = [
        *2 * of_bytes(sealed=True),
        *3 * [Mutation("bytes, sealed anew", resealed_bytes)],
        *3 * [Mutation("weights, sealed anew", resealed_weights)],
        *3 * [Mutation("card, sealed anew", resealed_card)],
    ]
    arch = surrogate.load(small_model).stack.spec.arch
    kind = Kind(f"model, {arch}", small_model, mutations, used_model)
    check(kind, count, tmp_path / "work")


def read_card(data: Path) -> Any:
    """All that reads a card; the slow readers now and then."""

    def use(path: Path, number: int) -> Any:
        found = used_model(path, number)
        if number % 5 == 0:
            command("evaluate", path, "--data", data, "--bootstrap", 0)
        if number % 25 == 0:
            with contextlib.suppress(UsageError):
                in_brian(surrogate.load(path))
            command("report", path, "--data", data)
        return found

    return use


def in_brian(model: surrogate.Model) -> None:
    """A few steps in Brian2."""
    from brian2 import Network, defaultclock, ms, prefs

    prefs.codegen.target = "numpy"
    defaultclock.dt = model.card.dt_ms * ms
    Network(surrogate.SurrogateNeuron(2, model)).run(2 * defaultclock.dt)


@few_or_many
def test_cards(tiny_run: Path, tiny_data: Path, tmp_path: Path, count: int) -> None:
    model = tiny_run / MODEL_NAME
    kind = Kind("card", model, [Mutation("card, sealed anew", resealed_card)], read_card(tiny_data))
    check(kind, count, tmp_path)


def stop_soon(progress: TrainingProgress) -> None:
    """A recipe may ask for hours of training."""
    if progress.step == 7:
        signal.raise_signal(signal.SIGINT)


@few_or_many
def test_recipes(tiny_data: Path, tiny_run: Path, tmp_path: Path, count: int) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text((tiny_run / "recipe.toml").read_text() + "[rnn]\nwarmup_steps = 1\n[lstm]\n")

    def use(path: Path, number: int) -> Any:
        out = path.parent / "run"
        shutil.rmtree(out, ignore_errors=True)
        small = {"arch": "rnn", "hidden": "2-2", "out": out, "plots": False, "reuse_windows": True}
        with contextlib.suppress(Interrupted):
            surrogate.train(tiny_data, recipe=path, progress=stop_soon, **small)
        return (out / "recipe.toml").read_text()

    check(Kind("recipe", path, of_toml(), use), count, tmp_path / "work")


@few_or_many
def test_grid_files(tiny_data: Path, tmp_path: Path, count: int) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(
        f"""\
data = {json.dumps(str(tiny_data))}
arch = ["rnn", "lstm"]
hidden = ["2-2", "3-2"]
learning_rate = [0.003, 0.01]
class_weight = ["none", 5]
seeds = 2
same_seeds = true
reuse_windows = true
labels = "exact"
recipe = "blog"
[set]
epochs = 3
windows_per_epoch = 2
batch_size = 1
window_ms = 20
[set_by_size.'3-2']
epochs = 1
"""
    )

    def use(path: Path, number: int) -> Any:
        out = path.parent / "grid"
        grid = surrogate.grid.plan(file=path, out=out).grid
        # A dry run trains each configuration, to say how long the grid will take.
        if number % 10 == 0 and len(grid.configurations) <= 4:
            command("grid", "run", path, "--out", out, "--dry-run")
        return repr(grid)

    check(Kind("grid file", path, of_toml(), use), count, tmp_path / "work")
