"""Time of surrogates in a Brian2 network: ``python -m surrogate.benchmarks.brian_network``.

N surrogates (RNN 32-16-2, 1278 channels, 14 arrivals per ms and neuron) and 4 N leaky
integrate-and-fire neurons, connected both ways, at a time step of 0.1 ms. The time of the model's
step and that of the rest of Brian2 are reported separately. The peer is what one would write
without this package: the same network around a ``network_operation`` that calls torch.nn on dense
input. Both must give the same voltages before anything is timed; otherwise the exit status is 1.

With ``--background`` the same network is timed with independent Poisson spikes on every channel
instead of recorded ones: once drawn within the step, once by a PoissonGroup with a synapse for each
channel.

With ``--standalone`` our network is also compiled as a C++ program, whose profile gives the wall
time of the step and of the rest. tests/brian_bridge/test_modes.py proves that its spikes are those
of the run-time modes.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch

from surrogate import machine
from surrogate.channels import Channels
from surrogate.files import atomic_write_text
from surrogate.kernels.architectures import L5PC_INPUTS
from surrogate.model.card import ModelCard
from surrogate.model.model_file import Model
from surrogate.model.spike_rule import SpikeRule
from surrogate.model.stack import RecurrentStack

if TYPE_CHECKING:
    from brian2 import Network

CHANNELS, RATE_HZ, CHUNK_MS = L5PC_INPUTS, 14 / L5PC_INPUTS * 1e3, 50
PARITY_BOUND = 1e-3  # mV


class Timed:
    """A network that measures the CPU time of its step and of each chunk."""

    def __init__(
        self,
        neurons: int,
        model: Model,
        build: Callable[..., tuple[Any, ...]],
        drive: Callable[..., list[Any]] | None = None,
    ) -> None:
        from brian2 import Network, NetworkOperation, StateMonitor, ms

        cells, inputs, operation, members = build(neurons, model)
        self.step_seconds = 0.0
        self._marks: list[tuple[float, float]] = []
        step = operation.function

        def clocked() -> None:
            started = time.process_time()
            step()
            self.step_seconds += time.process_time() - started

        operation.function = clocked
        mark = NetworkOperation(self._mark, dt=CHUNK_MS * ms, when="end")
        self.trace = StateMonitor(cells, "v", record=[0], dt=1 * ms)
        surroundings = _surroundings(neurons, cells, inputs, drive or _recorded_input)
        self.network: Network = Network(cells, self.trace, mark, *members, *surroundings)

    def _mark(self) -> None:
        self._marks.append((time.process_time(), self.step_seconds))

    def run(self, chunks: int) -> list[tuple[float, float]]:
        """Seconds of step and of the rest per simulated second, a pair per chunk."""
        from brian2 import ms

        self._marks.clear()
        self.network.run((chunks + 1) * CHUNK_MS * ms)
        spent = np.diff(np.array(self._marks), axis=0) / (CHUNK_MS * 1e-3)
        return [(step, whole - step) for whole, step in spent]


def _recorded_input(neurons: int, inputs: Any, rng: np.random.Generator) -> list[Any]:
    """A list of spikes, which each neuron receives on other channels."""
    from brian2 import SpikeGeneratorGroup, Synapses, ms

    steps = 2000
    arrivals = rng.random((steps, CHANNELS)) < RATE_HZ * 1e-3
    bins, channel = arrivals.nonzero()
    source = SpikeGeneratorGroup(CHANNELS, channel, bins * ms, period=steps * ms)
    into = Synapses(source, inputs, on_pre="x_post += 1")
    # A different order for each neuron: with the same order the search would be twice as fast.
    order = np.concatenate([rng.permutation(CHANNELS) for _ in range(neurons)])
    into.connect(i=order, j=np.arange(CHANNELS * neurons))
    return [source, into]


def _poisson_input(neurons: int, inputs: Any, _: np.random.Generator) -> list[Any]:
    """Spikes of a PoissonGroup, one of its elements for each channel of each neuron."""
    from brian2 import Hz, PoissonGroup, Synapses

    source = PoissonGroup(CHANNELS * neurons, rates=RATE_HZ * Hz)
    into = Synapses(source, inputs, on_pre="x_post += 1")
    into.connect(j="i")
    return [source, into]


def _no_input(neurons: int, inputs: Any, _: np.random.Generator) -> list[Any]:
    return []


def _surroundings(
    neurons: int, cells: Any, inputs: Any, drive: Callable[..., list[Any]]
) -> list[Any]:
    """Input, integrate-and-fire neurons, and the synapses between all of them."""
    from brian2 import NeuronGroup, Synapses, ms

    rng = np.random.default_rng(0)
    driving = drive(neurons, inputs, rng)
    lif = NeuronGroup(
        4 * neurons,
        "dv/dt = (drive - v) / (10*ms) : 1\ndrive : 1",
        threshold="v > 1",
        reset="v = 0",
        refractory=2 * ms,
        method="exact",
    )
    lif.drive = rng.uniform(0.8, 1.05, 4 * neurons)
    out = Synapses(cells, lif, on_pre="v_post += 0.02", delay=0.5 * ms)
    fan = 1 + 4 * neurons // 10
    out.connect(i=np.repeat(np.arange(neurons), fan), j=rng.integers(0, 4 * neurons, neurons * fan))
    back = Synapses(lif, inputs, on_pre="x_post += 1", delay=1.3 * ms)
    back.connect(i=np.arange(4 * neurons), j=rng.integers(0, CHANNELS * neurons, 4 * neurons))
    return [*driving, lif, out, back]


def surrogate_group(neurons: int, model: Model) -> tuple[Any, ...]:
    """The group of this package: group, inputs, step, further members."""
    from surrogate import SurrogateNeuron

    cells = SurrogateNeuron(neurons, model)
    return cells, cells.inputs, cells._step, ()


def background_group(neurons: int, model: Model) -> tuple[Any, ...]:
    """The same with its background inside the step."""
    from brian2 import Hz

    from surrogate import SurrogateNeuron
    from surrogate.brian_bridge import Background

    cells = SurrogateNeuron(neurons, model, background=Background(input=RATE_HZ * Hz, seed=1))
    return cells, cells.inputs, cells._step, ()


def plain_group(neurons: int, model: Model) -> tuple[Any, ...]:
    """What one would write without this package."""
    from brian2 import NetworkOperation, NeuronGroup, ms

    spec, rule = model.card.spec, model.spike_rule
    assert rule is not None
    cells = NeuronGroup(
        neurons,
        "v : volt\nlogit : 1\nfresh : boolean",
        threshold="fresh and logit >= level",
        reset="",
        refractory=rule.refractory_bins * model.card.dt_ms * ms,
        namespace={"level": rule.logit},
    )
    inputs = NeuronGroup(neurons * CHANNELS, "x : 1")
    cells.run_regularly("fresh = False", when="end")
    layers = model.stack.layers
    hidden: list[Any] = [None] * len(layers)
    started = False

    def step() -> None:
        nonlocal started
        if not started:  # no bin has ended at 0 ms
            started = True
            return
        with torch.no_grad():
            y = torch.from_numpy((inputs.x_[:] > 0).astype(np.float32)).view(neurons, 1, CHANNELS)
            for index, layer in enumerate(layers):
                y, hidden[index] = layer(y, hidden[index])
        cells.logit_ = y[:, 0, 0].numpy()
        cells.v_ = (y[:, 0, 1].numpy() * spec.voltage_scale + spec.voltage_offset) * 1e-3
        cells.fresh_ = True
        inputs.x_ = 0

    operation = NetworkOperation(step, dt=1 * ms, when="before_start")
    return cells, inputs, operation, (inputs, operation)


def example_model() -> Model:
    """RNN 32-16-2 with random weights, and a level that outputs exceed in one bin of a hundred."""
    from brian2 import Hz, ms

    from surrogate.brian_bridge import warm_state

    torch.manual_seed(0)
    stack = RecurrentStack("rnn", (32, 16, 2), CHANNELS, voltage_scale=10, voltage_offset=-67.7)
    card = ModelCard(stack.spec, Channels.of(input=CHANNELS), 1.0, resting_voltage_mv=-76.0)
    model = Model(stack, card)
    states = warm_state(model, 400, 30 * ms, rates={"input": RATE_HZ * Hz})
    logits = states[:, stack.spec.state_slices[-1]["h"]][:, 0]
    level = float(np.quantile(logits, 0.99))
    card.spike_rule = SpikeRule("level", level, 2, "a hundredth of the bins")
    return model


def kernel_seconds(neurons: int, model: Model) -> dict[str, float]:
    """CPU time per simulated second of the step on events, and of finding them among the counts."""
    from surrogate.kernels.stepper import Stepper

    stepper = Stepper(model.card.spec, model.state_dict(), neurons)
    rng = np.random.default_rng(1)
    counts = (rng.random((neurons, CHANNELS)) < RATE_HZ * 1e-3).astype(np.int32)
    active = counts.ravel().nonzero()[0]
    channel = counts.nonzero()[1].astype(np.int16)
    row_ptr = np.concatenate([[0], counts.sum(1).cumsum()]).astype(np.int32)
    lost, clocked = np.zeros(neurons, np.int64), []
    for _ in range(100):
        started = time.process_time()
        stepper.step_counts(counts, lost)
        between = time.process_time()
        stepper.step(channel, row_ptr)
        clocked.append((time.process_time() - between, between - started))
        counts.ravel()[active] = 1
    events, whole = (statistics.median(column) * 1e3 for column in zip(*clocked, strict=True))
    return {"kernel_seconds": events, "scan_seconds": whole - events}


def background_seconds(neurons: int, chunks: int, model: Model) -> dict[str, Any]:
    """CPU time per simulated second with independent background, drawn by us and by Brian2."""
    kinds: dict[str, tuple[Callable[..., tuple[Any, ...]], Callable[..., list[Any]]]] = {
        "background": (background_group, _no_input),
        "PoissonGroup": (surrogate_group, _poisson_input),
    }
    timed = {name: Timed(neurons, model, *how) for name, how in kinds.items()}
    row: dict[str, Any] = {}
    for name, one in timed.items():
        one.run(1)
        row[name] = _medians(one.run(chunks))
    ours, theirs = (sum(row[name].values()) for name in kinds)
    return row | {"ratio": theirs / ours}


def _medians(pairs: list[tuple[float, float]]) -> dict[str, float]:
    step, rest = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"step_seconds": step, "rest_seconds": rest}


def standalone_seconds(neurons: int, model: Model, *, background: bool = False) -> dict[str, float]:
    """Wall time per simulated second of the network as a C++ program; medians of three runs."""
    from brian2 import Network, device, second, set_device
    from brian2.devices.device import reset_device

    step, rest = [], []
    with tempfile.TemporaryDirectory() as folder:
        set_device("cpp_standalone", directory=folder, build_on_run=False)
        try:
            build, drive = (
                (background_group, _no_input) if background else (surrogate_group, _recorded_input)
            )
            cells, inputs, operation, _ = build(neurons, model)
            network = Network(cells, *_surroundings(neurons, cells, inputs, drive))
            network.run(1 * second, profile=True)
            device.build(directory=folder, run=False)
            for _ in range(3):
                device.run(folder, with_output=False)
                spent = {name: float(time) for name, time in network.profiling_info}
                step.append(spent.pop(f"{operation.name}_codeobject"))
                rest.append(sum(spent.values()))
        finally:
            device.reinit()
            reset_device()
    return {"step_seconds": statistics.median(step), "rest_seconds": statistics.median(rest)}


def measure(neurons: int, chunks: int, model: Model, peer: bool) -> dict[str, Any]:
    """Medians over chunks, the networks in turns."""
    kinds = {"surrogate": surrogate_group} | ({"torch.nn": plain_group} if peer else {})
    timed = {name: Timed(neurons, model, build) for name, build in kinds.items()}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for one in timed.values():
        one.run(2)
    row: dict[str, Any] = {"neurons": neurons, "arrivals_per_ms": 14}
    if peer:
        found, expected = (np.asarray(one.trace.v[0]) * 1e3 for one in timed.values())
        row["parity_mv"] = float(np.abs(found[1:] - expected[1:]).max())
        if not row["parity_mv"] <= PARITY_BOUND:
            return row
    for _ in range(3):
        for name, one in timed.items():
            samples[name] += one.run(chunks)
    for name, pairs in samples.items():
        row[name] = _medians(pairs)
    ours = row["surrogate"] | kernel_seconds(neurons, model)
    row["surrogate"] = ours
    if peer:
        theirs = row["torch.nn"]["step_seconds"]
        row["step_ratio"] = theirs / ours["step_seconds"]
        row["kernel_ratio"] = theirs / ours["kernel_seconds"]
    return row


@click.command()
@click.option("--neurons", multiple=True, type=int, default=(1, 10, 100, 1000), show_default=True)
@click.option("--chunks", default=4, show_default=True, help=f"Chunks of {CHUNK_MS} ms per turn.")
@click.option(
    "--target", default="auto", show_default=True, help="Brian2's code generation target."
)
@click.option("--no-peer", is_flag=True, help="Leave torch.nn out.")
@click.option("--background", is_flag=True, help="Measure independent Poisson input, too.")
@click.option("--standalone", is_flag=True, help="Measure the networks as C++ programs, too.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the rows as JSON.")
def main(
    neurons: tuple[int, ...],
    chunks: int,
    target: str,
    no_peer: bool,
    background: bool,
    standalone: bool,
    out: Path | None,
) -> None:
    """Seconds of CPU time per simulated second, on one thread."""
    from brian2 import prefs

    torch.set_num_threads(1)
    prefs.codegen.target = target
    model = example_model()
    # Other work on the machine takes cache and bandwidth, whatever the clock. Asked before the
    # compiler of --standalone adds to it.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = []
    for size in neurons:
        rows.append(measure(size, chunks, model, not no_peer))
        if standalone:
            rows[-1]["standalone"] = standalone_seconds(size, model)
        if background:
            rows[-1]["independent"] = background_seconds(size, chunks, model)
            if standalone:
                program = standalone_seconds(size, model, background=True)
                rows[-1]["independent"]["standalone"] = program
        click.echo(json.dumps(rows[-1]))
        if not rows[-1].get("parity_mv", 0.0) <= PARITY_BOUND:
            raise click.ClickException(
                f"{size} neurons: voltages differ from torch.nn's by {rows[-1]['parity_mv']:.3g} "
                f"mV, more than {PARITY_BOUND:g}; nothing was timed or written"
            )
    if out:
        found = {
            "rows": rows,
            "target": target,
            "machine": {"cpu": machine.cpu_name(), "load_average": load},
            "versions": machine.versions("brian2"),
        }
        atomic_write_text(out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
