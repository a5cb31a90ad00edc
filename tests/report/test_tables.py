"""What a report counts, ranks and draws, apart from any grid."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import pytest

from surrogate.channels import Channels
from surrogate.grid.experiment import Experiment
from surrogate.kernels import StackSpec
from surrogate.report import blog
from surrogate.report.runs import Run
from surrogate.report.summary import best_of_each, csv_text, ranked, row, shares
from surrogate.report.svg import draw
from surrogate.training.recipe import load_recipe


def _run(arch: str, sizes: Sequence[int], auc: float | None, unstable: bool = False, seed: int = 0):
    recipe = load_recipe("blog", arch, {})
    spec = recipe.stack_spec(arch, sizes, Channels.of(excitatory=639, inhibitory=639))
    experiment = Experiment(spec, recipe, seed, "exact", None, "0" * 64, False)
    reason = "it fell back" if unstable else None
    scores = {} if auc is None else {"roc_auc": auc}
    return Run(experiment, Path(), reason, 1000, 25600, 1.0, scores, {}, "cpu", "a processor")


def test_shares_count_what_reached_the_goal_and_what_was_unstable() -> None:
    runs = [
        _run("lstm", (32, 16, 2), 0.95),
        _run("lstm", (32, 16, 2), 0.90, seed=1),
        _run("lstm", (8, 2), 0.8999, unstable=True),
        _run("gru", (32, 16, 2), None, unstable=True),
    ]
    by_arch = shares(runs, lambda run: run.arch, blog.SHARE_BY_ARCH)
    assert [tuple(group.values()) for group in by_arch] == [
        ("gru", 1, 0, 1, 0.21),
        ("lstm", 3, 2, 1, 0.53),
    ]
    by_depth = shares(runs, lambda run: len(run.hidden_sizes), blog.SHARE_BY_DEPTH)
    assert [tuple(group.values()) for group in by_depth] == [
        (3, 3, 2, 1, 0.37),
        (2, 1, 0, 1, None),
    ]


def test_best_of_each_leaves_out_what_has_no_score() -> None:
    runs = [
        _run("lstm", (8, 2), 0.7),
        _run("rnn", (8, 2), None),
        _run("gru", (8, 2), 0.8),
        _run("lstm", (8, 2), 0.9, seed=1),
    ]
    assert [run.roc_auc for run in best_of_each(runs, lambda run: run.arch)] == [0.9, 0.8]
    assert [run.roc_auc for run in ranked(runs)] == [0.9, 0.8, 0.7, None]
    assert csv_text([row(run) for run in runs]).count("\n") == 5


@pytest.mark.parametrize("run", blog.TOP_TEN, ids=str)
def test_the_blogs_table_names_stacks_of_its_own_sizes(run) -> None:
    stack = StackSpec(run.arch, run.hidden_sizes, 1278, "recurrent")
    assert stack.parameter_count == run.parameters


def test_a_figure_drawn_twice_is_the_same_and_has_no_ids_of_another(tmp_path) -> None:
    def plot(path: Path) -> None:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0], "o", clip_on=True, label="µ < 3 & more")
        figure.savefig(path, format="svg")

    one, two, other = (draw(name, "A <title>", "A", "B", plot) for name in ("a", "a", "b"))
    assert one.svg == two.svg
    ids = [
        {
            element.attrib["id"]
            for element in ElementTree.fromstring(svg.svg).iter()
            if "id" in element.attrib
        }
        for svg in (one, other)
    ]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "A &lt;title>" in one.svg or "A &lt;title&gt;" in one.svg
