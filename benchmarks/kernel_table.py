"""The GPU kernels beside cuDNN in all 18 configurations: measured, or else predicted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import torch

from surrogate.benchmarks.bench import bench, versions
from surrogate.benchmarks.cases import BATCH, STEPS
from surrogate.benchmarks.peers import peer_names
from surrogate.benchmarks.problems import Case
from surrogate.benchmarks.tables import call_text, duration
from surrogate.kernels.triton import configurations

__all__ = ["kernel_cases", "kernel_table", "kernel_text"]

_NEURONS = 1000
_CASE = ("config", "mode", "neurons", "batch", "steps")
_TIMES = ("p20", "p50", "p80", "peer_p50", "ratio", "parity", "floor_share")
_KEYS = (*_CASE, "provider", *_TIMES)


def kernel_cases(mode: str) -> list[Case]:
    """The 18 configurations on a GPU: a training step, or a bin of 1000 neurons."""
    batch, steps = (_NEURONS, 1) if mode == "step" else (BATCH, STEPS)
    return [Case(spec, mode, batch, steps, "cuda") for spec in configurations()]


def kernel_table(
    mode: str,
    chip: str,
    seconds: float = 2.0,
    progress: Callable[[float, str], None] = lambda share, label: None,
) -> dict[str, Any]:
    """Ours and cuDNN's times: measured where there is a GPU, elsewhere the recorded ones.

    Parameters
    ----------
    mode : "train" | "step"
    chip : str
        Whose recorded results and predictions to show, a key of
        ``surrogate.kernels.triton.chips.CHIPS``.
    seconds, progress
        As :func:`surrogate.benchmarks.bench.bench` takes them.

    Returns
    -------
    dict
        ``rows`` with the first keys of that function's, and ``source``: ``"measured"`` or
        ``"predicted"``. A prediction is the cost model's, of ``p50`` alone; all else is null.
        Beside them ``gpu``, ``versions`` and ``notes``.
    """
    cases = kernel_cases(mode)
    gpu, notes = chip, []
    if torch.cuda.is_available():
        found = bench(cases, seconds=seconds, progress=progress)
        gpu, measured, notes = torch.cuda.get_device_name(), found["rows"], found["notes"]
    else:
        measured = _recorded(chip)
    predict = _cost_model(notes)
    rows: list[dict[str, Any]] = []
    for case in cases:
        own = [row for row in measured if _is_of(row, case)]
        rows += [{key: row[key] for key in _KEYS} | {"source": "measured"} for row in own]
        if not own and predict is not None:
            time = predict(case.spec, mode, case.batch, case.steps, case.batch, chip)
            rows.append(_empty_row(case) | {"p50": time, "source": "predicted"})
    return {"rows": rows, "gpu": gpu, "versions": versions(), "notes": notes}


def _recorded(chip: str) -> list[dict[str, Any]]:
    """Rows of the GPU runs that are kept with the package; a newer run replaces an older."""
    folder = resources.files("surrogate.benchmarks") / "results"
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("gpu-"))
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name in names:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        if chip in found["gpu"]:
            rows |= {tuple(row[key] for key in (*_CASE, "provider")): row for row in found["rows"]}
    return list(rows.values())


def _is_of(row: Mapping[str, Any], case: Case) -> bool:
    expected = _empty_row(case)
    same = all(row[key] == expected[key] for key in _CASE)
    return same and row["provider"] in peer_names(case)


def _cost_model(notes: list[str]) -> Callable[..., float] | None:
    try:
        from surrogate.kernels.triton.offline.cost import predict
    except ImportError as error:
        notes.append(
            f"predictions are left out: {error.name} is not installed; on Linux: "
            "python -m pip install triton"
        )
        return None
    return predict


def _empty_row(case: Case) -> dict[str, Any]:
    return dict.fromkeys(_KEYS) | case.row


def kernel_text(found: Mapping[str, Any]) -> str:
    """The result of :func:`kernel_table`, a line per configuration."""
    peers = ("cudnn-tf32", "cudnn-fp32", "cudnn-fp16")
    lines = [
        f"{found['gpu']}; a ratio above 1 says that ours is faster than cuDNN",
        "",
        f"{'config':<28}{'call':<16}{'ours':>10}  {'source':<11}"
        + "".join(f"{'vs ' + peer:>16}" for peer in peers),
    ]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in found["rows"]:
        groups.setdefault(row["config"], []).append(row)
    for config, rows in groups.items():
        ratios = {row["provider"]: _ratio(row) for row in rows}
        timed = [row["p50"] for row in rows if row["p50"] is not None]
        lines.append(
            f"{config:<28}{call_text(rows[0]):<16}{duration(timed[0]) if timed else '':>10}  "
            f"{rows[0]['source']:<11}" + "".join(f"{ratios.get(peer, ''):>16}" for peer in peers)
        )
    if any(row["source"] == "predicted" for row in found["rows"]):
        lines += [
            "",
            "predicted: by the cost model, from data sheets and assumed delays; not measured",
        ]
    return "\n".join([*lines, *found["notes"]])


def _ratio(row: Mapping[str, Any]) -> str:
    return "FAILED" if row["ratio"] is None else f"{row['ratio']:.1f}x"
