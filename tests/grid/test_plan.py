"""A grid is what was asked for: its experiments, their names, their order and their cost."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

import surrogate
from helpers.grid import SMALL, experiment, small_grid, surrogate_command
from surrogate import datasets
from surrogate.errors import DataError, UsageError
from surrogate.grid.folder import GridFolder
from surrogate.grid.grid import Grid, plan_grid
from surrogate.grid.request import Request, read_grid_file, read_request
from surrogate.kernels import StackSpec
from surrogate.training.recipe import load_recipe


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_without_options_the_grid_is_the_blogs() -> None:
    with datasets.open() as sample:
        experiments = plan_grid(Request(), sample).experiments()
    assert len({one.hash for one in experiments}) == 216
    assert {one.recipe.learning_rate for one in experiments} == {0.001, 0.003, 0.006, 0.01}
    assert {one.class_weight for one in experiments} == {None, 5.0, 20.0}
    assert {one.recipe.class_weight for one in experiments} == {1.0, 5.0, 20.0}
    assert {one.recipe.epochs for one in experiments} == {200}
    sizes = {one.configuration: one.spec.parameter_count for one in experiments}
    assert len(sizes) == 18
    assert sizes["rnn 32-16-2"] == 42_824
    assert sizes["lstm 256-64-2"] == 1_655_840
    assert sizes["lstm 128-64-64-64-32-2"] == 849_952
    assert sizes["lstm 256-128-64-32-16-2"] == 1_836_064
    assert sizes["lstm 512-256-128-64-32-2"] == 4_718_624


@pytest.mark.parametrize(
    "change",
    [
        {"spec": StackSpec("gru", (4, 2), 1278)},
        {"spec": StackSpec("rnn", (2, 4, 2), 1278)},
        {"recipe": load_recipe("blog", "rnn", {"weight_decay": 0.02})},
        {"recipe": load_recipe("blog", "rnn", {"gradient_clip": 1.0})},
        {"seed": 1},
        {"labels": "legacy"},
        {"data_digest": "1" * 64},
    ],
)
def test_the_hash_changes_with_everything_that_decides_the_result(change) -> None:
    assert experiment(**change).hash != experiment().hash


def test_the_hash_does_not_change_with_names_and_places(toy_data, tmp_path) -> None:
    renamed = dataclasses.replace(load_recipe("blog", "rnn"), name="tuned")
    assert experiment(recipe=renamed).hash == experiment().hash
    moved = tmp_path / "elsewhere.h5"
    shutil.copy(toy_data, moved)
    hashes = []
    for path in (toy_data, moved):
        with datasets.open(path) as dataset:
            grid = plan_grid(read_request(SMALL), dataset)
        hashes.append([one.hash for one in grid.experiments()])
    assert hashes[0] == hashes[1]


def test_the_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    # A changed value here means that grids begun before would start anew.
    assert experiment().hash == "857fa209af41ad33"


def test_a_grid_survives_its_file(toy_data, tmp_path) -> None:
    place, _ = small_grid(tmp_path / "g", toy_data, set_by_size={"4-2": {"patience": 2}})
    grid = place.grid()
    assert grid == Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert {one.recipe.patience for one in grid.experiments()} == {2}
    (tmp_path / "g" / "grid.json").write_text('{"format": "surrogate-grid"')
    with pytest.raises(DataError, match=r"grid.json: damaged .* finished experiments are kept"):
        place.grid()
    with pytest.raises(UsageError, match="holds no grid"):
        GridFolder(tmp_path).grid()


def test_another_grid_in_the_same_folder_is_refused(toy_data, tmp_path) -> None:
    small_grid(tmp_path / "g", toy_data)
    small_grid(tmp_path / "g", toy_data)  # the same again is welcome
    with pytest.raises(UsageError, match="holds another grid"):
        small_grid(tmp_path / "g", toy_data, seeds=2)


def test_combinations_have_seeds_of_their_own_whatever_else_the_grid_holds(tmp_path) -> None:
    with datasets.open() as sample:
        whole = plan_grid(read_request({"seeds": 2}), sample).experiments()
        part = plan_grid(read_request({"seeds": 2, "arch": "gru", "hidden": "256-64-2"}), sample)
        same = plan_grid(read_request({"seeds": 2, "same_seeds": True}), sample).experiments()
    assert len({one.seed for one in whole}) == len(whole) == 432
    assert {one.hash for one in part.experiments()} < {one.hash for one in whole}
    assert [one.seed for one in same] == [0, 1] * 216


def test_a_grid_file_gives_what_options_give(tmp_path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(
        """
        data = "some data.h5"
        arch = "lstm"
        hidden = ["32-16-2", "64-2"]
        learning_rate = [0.003, 0.01]
        class_weight = ["none", 5]
        seeds = 2
        [set]
        epochs = 20
        [set_by_size."64-2"]
        epochs = 10
        """
    )
    table = read_grid_file(file)
    assert table.pop("data") == str(tmp_path / "some data.h5")
    options = {
        "arch": ("lstm",),
        "hidden": ("32-16-2,64-2",),
        "learning_rate": ("0.003", "0.01"),
        "class_weight": ("none, 5",),
        "seeds": 2,
        "set": {"epochs": 20},
        "set_by_size": {"64-2": {"epochs": 10}},
    }
    assert read_request(table) == read_request(options)
    with datasets.open() as sample:
        experiments = plan_grid(read_request(table), sample).experiments()
    assert len(experiments) == 16
    assert {(one.spec.hidden_sizes[0], one.recipe.epochs) for one in experiments} == {
        (32, 20),
        (64, 10),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("archs = ['rnn']", "unknown key 'archs': did you mean 'arch'"),
        ("arch = 'elman'", "grid arch.0: unknown arch 'elman': expected one of rnn, gru, lstm"),
        ("hidden = [32]", "expected sizes such as '256-64-2'"),
        ("hidden = '64-32'", "end in 32: the last must be 2"),
        ("learning_rate = ['fast']", "grid learning_rate.0 = 'fast': expected a number"),
        ("learning_rate = [0.1, 0.1]", "lists 0.1 twice"),
        ("learning_rate = 11", "learning_rate = 11"),
        ("class_weight = 'heavy'", "expected a number or 'none'"),
        ("seeds = 0", "grid seeds = 0: expected at least 1"),
        ("same_seeds = 'yes'", "same_seeds = 'yes': expected true or false"),
        ("[set]\nepoch = 3", "did you mean 'epochs'"),
        ("[set]\nclass_weight = 3", "sets class_weight, an axis of the grid; give it as one"),
        ("set = 3", "grid set = 3: expected a table"),
        ("[set_by_size.'8-2']\nepochs = 3", "names 8-2, which is not among its hidden sizes"),
        ("data = 3", "data = 3: expected text"),
        ("arch = [", "not a TOML file"),
        ("[set]\nwindow_ms = 7000", "do not fit trials of 6000 ms"),
        ("recipe = 'blogg'", "did you mean 'blog'"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(text, message, tmp_path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    result = surrogate_command("grid", "run", file, "--out", tmp_path / "out")
    assert result.exit_code in (1, 2)
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


MANY = ", ".join(str(1e-6 * number) for number in range(1, 2001))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = 1000000000", "a grid of 216,000,000,000 experiments: expected at most 100,000"),
        ("seeds = 1" + 400 * "0", "grid seeds = 10000000...000000000: expected at most 1000000000"),
        (f"learning_rate = [{MANY}]\nseeds = 3", "a grid of 324,000 experiments"),
        (f"learning_rate = [{500 * (MANY + ', ')}]", "bytes, expected at most 1,048,576"),
        ("set.epochs = 1000000000000000000", "epochs = 1000000000000000000: expected at most"),
        ("set.windows_per_epoch = 1000000", "epochs x windows_per_epoch = 200,000,000: expected"),
        ("set.batch_size = 65536\nset.windows_per_epoch = 65536\nset.epochs = 1\n"
         "set.window_ms = 6000", "batches of 65,536 windows of 6,000 bins need 3.1 GB"),
        ("hidden = '1000000000-2'", "hidden sizes (1000000000, 2): expected whole numbers from 1"),
        (f"hidden = '{100_000 * '512-'}2'", "100001 layers: expected at most"),
        (f"hidden = '{60 * '512-'}2'", "parameters: expected at most 40,000,000"),
        (f"hidden = {[f'{n % 500 + 1}-{n // 500 + 1}-2' for n in range(4000)]}",
         "a grid of 12,000 configurations: expected at most 5,000"),
    ],
    ids=lambda text: text[:25],
)  # fmt: skip
def test_what_multiplies_is_refused_at_once_with_its_size(text, message, tmp_path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(text)
    began = time.monotonic()
    result = surrogate_command("grid", "run", file, "--dry-run", "--out", tmp_path / "out")
    assert time.monotonic() - began < 5
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert len(result.stderr) <= 310


def test_axes_may_be_numpy_arrays_and_scalars(toy_data, tmp_path) -> None:
    rates = np.array([0.25, 0.5], np.float32)
    axes = {"arch": "rnn", "learning_rate": rates, "class_weight": np.float64(5)}
    job = surrogate.grid.plan(toy_data, out=tmp_path, **{**SMALL, **axes}, seeds=np.int64(2))
    plain = {"arch": "rnn", "learning_rate": [0.25, 0.5], "class_weight": 5, "seeds": 2}
    same = surrogate.grid.plan(toy_data, out=tmp_path, **{**SMALL, **plain})
    assert job.grid == same.grid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scheduler", "tcp://nowhere:1"], "--scheduler needs --engine dask"),
        (["--engine", "dask"], "--engine dask needs --scheduler ADDRESS, or a [slurm] table"),
        (["--engine", "dask", "--jobs", "2"], "--jobs is of the local engine"),
        (["--set", "epochs"], "expected KEY=VALUE"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message, toy_data, tmp_path) -> None:
    small_grid(tmp_path / "g", toy_data, arch="rnn", learning_rate=0.003)
    result = surrogate_command("grid", "run", "--out", tmp_path / "g", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_another_data_set_is_refused_when_a_grid_goes_on(toy_data, tmp_path) -> None:
    small_grid(tmp_path / "g", toy_data)
    sample = datasets.sample_path()
    result = surrogate_command("grid", "run", "--out", tmp_path / "g", "--data", sample)
    assert result.exit_code == 2
    assert "is not the data set of this grid" in result.stderr


def test_a_dry_run_says_what_would_run_and_writes_nothing(toy_data, tmp_path) -> None:
    arguments = ["grid", "run", "--dry-run", "--data", toy_data, "--out", tmp_path / "g"]
    arguments += ["--arch", "rnn", "--hidden", "4-2,6-2", "--lr", "0.01", "--reuse-windows"]
    arguments += ["--set", "window_ms=100", "--set", "batch_size=4", "--set", "windows_per_epoch=8"]
    arguments += ["--jobs", "2", "--device", "cpu"]
    plan = surrogate_command(*arguments, "--json").json
    assert not (tmp_path / "g").exists()
    assert plan["counts"]["pending"] == len(plan["experiments"]) == 6
    one = plan["experiments"][0]
    # 4-2 on 20 inputs: 4 x 20 + 4 x 4 + 8 and 2 x 4 + 2 x 2 + 4.
    assert (one["arch"], one["hidden_sizes"], one["parameters"]) == ("rnn", [4, 2], 120)
    assert plan["disk_bytes"] > 6 * 4 * 120
    total = sum(one["estimated_seconds"] for one in plan["experiments"])
    assert total / 2 <= 3600 * plan["estimated_hours"] * 1.2
    more = surrogate_command(*arguments, "--together", "3", "--json").json
    # All six at once occupy checkpoints, ten times a model's size, not two of them.
    sizes = sorted((4 * one["parameters"] for one in plan["experiments"]), reverse=True)
    added = [100_000 + 11 * size for size in sizes[2:]]
    assert more["disk_bytes"] - plan["disk_bytes"] == sum(added)
    assert more["estimated_hours"] < plan["estimated_hours"]
    text = surrogate_command(*arguments).stdout
    assert "rnn 6-2" in text
    assert "6 to run" in text


def test_a_folder_without_a_grid_is_one_line(tmp_path: Path) -> None:
    for command in ("status", "retry"):
        result = surrogate_command("grid", command, tmp_path)
        assert result.exit_code == 2
        assert "holds no grid" in result.stderr


def test_a_grid_is_planned_run_and_looked_at_from_python(toy_data, tmp_path) -> None:
    changes = {"arch": "rnn", "learning_rate": 0.01}
    job = surrogate.grid.plan(toy_data, out=tmp_path / "g", **{**SMALL, **changes})
    workers = surrogate.grid.Workers(jobs=1)
    (estimate,) = job.estimate(workers)["experiments"]
    assert not (tmp_path / "g").exists()
    seen = []
    ledger = job.run(workers, seen.append)
    assert ledger.counts()["done"] + ledger.counts()["unstable"] == 1
    assert [one.outcome.hash for one in seen if one.outcome] == [estimate["hash"]]
    assert seen[-1].seconds_left >= 0
    assert surrogate.grid.status(tmp_path / "g").counts() == ledger.counts()
    again = surrogate.grid.plan(out=tmp_path / "g")  # goes on with what lies there
    assert again.grid == job.grid
    with pytest.raises(UsageError, match="is no failed experiment"):
        surrogate.grid.retry(tmp_path / "g", [estimate["hash"]])
