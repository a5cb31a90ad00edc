"""Reports: self-contained, complete, true to the records, and honest about what is missing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.grid import small_grid, surrogate_command, take
from helpers.report import Page, assert_accessible, assert_self_contained
from surrogate import RecurrentStack
from surrogate.channels import Channels
from surrogate.errors import DataError, UsageError
from surrogate.model.card import ModelCard
from surrogate.model.model_file import save
from surrogate.report import drawings
from surrogate.report.grid_report import write_grid_report
from surrogate.report.model_report import write_model_report
from surrogate.report.svg import Drawing
from surrogate.stored import seal_json, unseal_json

AXES = {
    "arch": ["rnn", "gru", "lstm"],
    "hidden": ["5-2", "5-4-3-2"],
    "learning_rate": [0.02, 0.01],
    "set": {"epochs": 2, "windows_per_epoch": 8, "batch_size": 4, "window_ms": 100},
}
FAILURE = "MemoryError: <script>alert('no memory')</script> & more"
REPOSITORY = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
ARCH_COLOURS = ("#d55e00", "#009e73", "#0072b2")


@pytest.fixture(scope="module")
def grid(toy_data, tmp_path_factory) -> Path:
    """A grid of 12 experiments: one of each stack is done, one has failed, 5 are pending."""
    folder = tmp_path_factory.mktemp("grids") / "toy grid"
    place, ledger = small_grid(folder, toy_data, **AXES)
    by_rate = {rate: [] for rate in AXES["learning_rate"]}
    for name, entry in ledger.rows.items():
        by_rate[entry.experiment.recipe.learning_rate].append(name)
    for name in by_rate[0.02]:
        assert take(place, name, toy_data).status in ("done", "unstable")
    place.experiment(by_rate[0.01][0]).write_failure(FAILURE)
    return folder


@pytest.fixture(scope="module")
def report(grid, tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("report")
    return write_grid_report(grid, out / "grid.html", svg=out / "figures")


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report["files"]["html"])


@pytest.fixture
def copied(grid, tmp_path) -> Path:
    return Path(shutil.copytree(grid, tmp_path / "copy"))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Figures that take no time, where others are what matters."""

    def sketch(name: str, title: str, description: str, caption: str, plot: object) -> Drawing:
        svg = f'<svg role="img" style="max-width: 9px"><title>{name}</title></svg>'
        return Drawing(name, title, description, caption, svg)

    monkeypatch.setattr(drawings, "draw", sketch)


def _records(grid: Path) -> dict[str, Any]:
    paths = sorted(grid.glob("experiments/*/done.json"))
    return {path.parent.name: unseal_json(path) for path in paths}


def test_page_needs_nothing_from_elsewhere(page) -> None:
    assert_self_contained(page)


def test_page_can_be_read_aloud(page) -> None:
    assert_accessible(page)


def test_every_figure_is_there_and_shows_something(page, report) -> None:
    names = {
        *("auc-all-runs", "auc-best", "success", "output-spread", "learning-curves"),
        *(f"{kind}-{arch}" for kind in ("roc", "traces") for arch in AXES["arch"]),
    }
    figures = {attributes["id"] for tag, attributes in page.elements if tag == "figure"}
    assert figures == names
    files = report["files"]["svg"]
    assert {path.stem for path in files} == names
    for path in files:
        tags = Counter(element.tag for element in ElementTree.parse(path).iter())
        assert tags[f"{SVG}svg"] == 1
        assert tags[f"{SVG}path"] + tags[f"{SVG}use"] > 20, path
        # Text stays text: it can be searched, and read aloud.
        assert tags[f"{SVG}text"] > 5, path


def test_every_run_is_a_mark_of_its_own(report) -> None:
    folder = report["files"]["svg"][0].parent
    kinds = {(run["arch"], run["unstable"]) for run in report["runs"]}
    for name in ("auc-all-runs", "output-spread"):
        uses = ElementTree.parse(folder / f"{name}.svg").iter(f"{SVG}use")
        styles = [element.attrib.get("style", "").lower() for element in uses]
        marks = [style for style in styles if any(c in style for c in ARCH_COLOURS)]
        assert len(marks) == len(report["runs"]) + len(kinds)  # the legend's


def test_page_says_how_many_of_how_many(page, report) -> None:
    unstable = report["progress"]["unstable"]
    assert " ".join(page.texts["progress"].split()) == (
        f"6 of 12 experiments are done, {unstable} of them unstable; "
        "1 failed, 0 are running, 5 wait."
    )
    progress = report["progress"]
    assert progress["finished"] == progress["done"] + progress["unstable"] == 6
    assert (progress["failed"], progress["pending"]) == (1, 5)
    assert "5 of 12 experiments have not ended" in page.texts["missing-list"]


def test_json_holds_what_the_records_say(grid, report) -> None:
    stored = json.loads(report["files"]["json"].read_text("utf-8"))
    assert stored == json.loads(json.dumps({k: v for k, v in report.items() if k != "files"}))
    records = _records(grid)
    assert {run["hash"] for run in stored["runs"]} == set(records)
    for run in stored["runs"]:
        record = records[run["hash"]]
        scores = record["scores"]["valid"]
        assert run["roc_auc"] == scores["roc_auc"]
        assert run["roc_auc_interval"] == scores["roc_auc_interval"]
        assert run["voltage_rmse_mv"] == scores["voltage_rmse_mv"]
        assert run["logit_gap"] == scores["spread"]["logit_gap"]
        assert run["unstable"] == (record["status"] == "unstable")
        assert run["parameters"] == record["parameters"]
        assert run["hours"] == pytest.approx(16 * 0.1 / 3600)
        assert record["machine"].partition(",")[0] not in run["processor"]
    scores = [run["roc_auc"] for run in stored["runs"]]
    assert scores == sorted(scores, reverse=True)


def test_documentation_lists_every_key(report) -> None:
    text = (REPOSITORY / "docs" / "report.md").read_text(encoding="utf-8")
    table = text.partition("### Keys of the JSON")[2].partition("## Of a model")[0]
    first_cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", " ".join(first_cells)) == list(report)


def test_tables_show_the_numbers_of_the_json(page, report) -> None:
    for table, runs in (
        ("top-ten", report["top_ten"]),
        ("blog-top-ten", report["blog"]["top_ten"]),
        ("runs", report["runs"]),
    ):
        shown = page.rows(table)
        assert len(shown) == len(runs)
        for cells, run in zip(shown, runs, strict=True):
            assert cells["Model"].removesuffix("†") == run["arch"].upper()
            assert cells["Parameters"] == f"{run['parameters']:,}"
            assert cells["Hidden Sizes"] == run["hidden_sizes"]
            assert cells["Layers"] == str(run["layers"])
            assert float(cells["Learning Rate"]) == run["learning_rate"]
            assert cells["Class Weight"] == str(run["class_weight"] and f"{run['class_weight']:g}")
            assert cells["ROC AUC"] == f"{run['roc_auc']:.4f}"
            assert ("†" in cells["Model"]) == run.get("unstable", False)
    for cells, group in zip(page.rows("by-arch"), report["shares"]["by_arch"], strict=True):
        assert cells["Runs"] == str(group["runs"])
        assert cells["Unstable"] == str(group["unstable"])
        assert cells["Share"] == f"{group['reached'] / group['runs']:.0%}".replace("%", " %")
    thresholds = [point for model in report["best_models"] for point in model["thresholds"].items()]
    for cells, (_, point) in zip(page.tables["thresholds"][1:], thresholds, strict=True):
        assert f"{point['probability']:.8g}" in cells


def test_csv_holds_all_runs(report) -> None:
    with open(report["files"]["csv"], encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [cells["hash"] for cells in rows] == [run["hash"] for run in report["runs"]]
    for cells, run in zip(rows, report["runs"], strict=True):
        assert float(cells["roc_auc"]) == run["roc_auc"]
        assert [float(cells["roc_auc_low"]), float(cells["roc_auc_high"])] == run[
            "roc_auc_interval"
        ]


def test_amount_of_data_stands_beside_the_blogs(page, report) -> None:
    assert report["data"]["train_hours"] == pytest.approx(8 * 0.4 / 3600)
    text = " ".join(page.texts["amount"].split())
    assert "Trained on 8 trials, 0.000889 h" in text
    assert "evaluated on 2 validation trials" in text
    assert "The blog trained each model on 7.1 h" in text


def test_best_models_run_again_give_their_recorded_score(grid, report) -> None:
    records = _records(grid)
    assert {model["arch"] for model in report["best_models"]} == set(AXES["arch"])
    for model in report["best_models"]:
        recorded = records[model["hash"]]["scores"]["valid"]
        assert model["roc_auc"] == pytest.approx(recorded["roc_auc"], abs=1e-6)
    assert not any("its record says" in note for note in report["missing"])


def test_texts_of_others_are_escaped(page) -> None:
    assert FAILURE in " ".join(page.texts["missing-list"].split())
    assert "<script" not in page.path.read_text("utf-8")


def test_paths_do_not_leave_the_machine(page, grid, toy_data) -> None:
    for text in (page.path.read_text("utf-8"), page.path.with_suffix(".json").read_text("utf-8")):
        assert str(grid.parent) not in text
        assert str(toy_data.parent) not in text


def test_a_model_that_is_gone_or_another_is_named(copied, report, quick) -> None:
    first, second, _ = (model["hash"] for model in report["best_models"])
    homes = {name: copied / "experiments" / name for name in (first, second)}
    (homes[first] / "model.safetensors").unlink()
    record = unseal_json(homes[second] / "done.json")
    record["scores"]["valid"]["roc_auc"] -= 0.001
    (homes[second] / "done.json").write_text(seal_json(record))
    (homes[second] / "metrics.jsonl").unlink()
    result = write_grid_report(copied)
    assert len(result["best_models"]) == 2
    notes = "\n".join(result["missing"])
    assert f"({first}): experiments/{first}/model.safetensors: no such file" in notes
    assert f"({second}): its model file scores ROC AUC" in notes
    assert "its metrics.jsonl is gone" in notes
    assert_self_contained(Page(copied / "report.html"))


def test_data_that_moved_are_named_and_found_again(copied, toy_data, tmp_path, quick) -> None:
    moved = tmp_path / "moved <b>data.h5"
    shutil.copy(toy_data, moved)
    description = unseal_json(copied / "grid.json")
    description["configurations"][0]["data"] = str(tmp_path / "gone" / "data.h5")
    (copied / "grid.json").write_text(seal_json(description))
    result = write_grid_report(copied)
    assert result["data"] is None
    assert result["best_models"] == []
    note = next(note for note in result["missing"] if "--data" in note)
    assert "data.h5" in note
    assert str(tmp_path) not in note
    page = Page(copied / "report.html")
    assert "Not shown" in page.path.read_text("utf-8")
    assert_self_contained(page)
    again = write_grid_report(copied, data=moved)
    assert len(again["best_models"]) == 3
    assert again["data"]["name"] == moved.name
    page = Page(copied / "report.html")
    assert moved.name in " ".join(page.texts["amount"].split())
    assert page.count("b") < 20


def test_other_data_are_refused(grid, tmp_path) -> None:
    with pytest.raises(UsageError, match="not the data set of this grid"):
        write_grid_report(grid, tmp_path / "x.html", data=_sample())
    with pytest.raises(DataError, match="no such file"):
        write_grid_report(grid, tmp_path / "x.html", data=tmp_path / "gone.h5")
    assert list(tmp_path.iterdir()) == []


def _sample() -> Path:
    from surrogate.datasets.reader import sample_path

    return sample_path()


def test_a_grid_without_a_finished_run_has_a_report(toy_data, tmp_path) -> None:
    small_grid(tmp_path / "new", toy_data, **AXES)
    result = write_grid_report(tmp_path / "new")
    assert result["runs"] == []
    page = Page(tmp_path / "new" / "report.html")
    assert page.texts["progress"].split()[:5] == ["0", "of", "12", "experiments", "are"]
    assert page.count("figure") == 0
    assert "12 of 12 experiments have not ended" in page.texts["missing-list"]
    assert_self_contained(page)


def test_a_score_that_does_not_exist_counts_as_not_reached(copied, quick) -> None:
    name, record = next(iter(_records(copied).items()))
    record |= {"status": "unstable", "unstable_reason": "loss not finite at step 1"}
    record["scores"]["valid"] = {}
    (copied / "experiments" / name / "done.json").write_text(seal_json(record))
    result = write_grid_report(copied)
    assert result["runs"][-1]["hash"] == name
    assert sum(group["runs"] for group in result["shares"]["by_arch"]) == 6
    assert any("1 of 6 finished runs have no ROC AUC" in note for note in result["missing"])
    assert Page(copied / "report.html").rows("runs")[-1]["ROC AUC"] == "none"


def test_command_prints_json_and_writes_where_it_is_told(grid, tmp_path, quick) -> None:
    out = tmp_path / "a folder" / "page.html"
    done = surrogate_command("grid", "report", grid, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.json["files"]["html"] == str(out)
    assert done.json["progress"]["total"] == 12
    assert sorted(path.name for path in out.parent.iterdir()) == [
        *("page.csv", "page.html", "page.json")
    ]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["grid", "report", "nowhere"], 2, "holds no grid"),
        (["grid", "report", "GRID", "--out", "page.txt"], 2, "ending in .html"),
        (
            ["grid", "report", "GRID", "--out", "file/page.html"],
            1,
            "file of that name is in the way",
        ),
        (["report", "nowhere.h5"], 1, "no such file"),
        (["report", "file"], 1, "not a model file"),
    ],
)
def test_mistakes_are_one_line(
    grid, tmp_path, monkeypatch, quick, arguments, exit_code, words
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    done = surrogate_command(*(grid if word == "GRID" else word for word in arguments))
    assert done.exit_code == exit_code
    assert words in done.stderr.splitlines()[-1]
    assert list(tmp_path.rglob("*.partial")) == []


def test_model_report_tells_what_evaluate_tells(grid, report, toy_data, tmp_path) -> None:
    model = grid / "experiments" / report["best_models"][0]["hash"] / "model.safetensors"
    out = tmp_path / "model.html"
    done = surrogate_command("report", model, "--data", toy_data, "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    evaluated = surrogate_command(
        "evaluate", model, "--data", toy_data, "--split", "valid", "--json"
    )
    expected, found = evaluated.json, done.json["scores"]
    for result in (expected, found):
        del result["seconds"]
    assert found == expected
    page = Page(out)
    assert_self_contained(page)
    assert_accessible(page)
    figures = {attributes["id"] for tag, attributes in page.elements if tag == "figure"}
    assert figures == {"roc", "spikes", "traces", "learning-curve"}
    shown = {cells["Score"]: cells["Value"] for cells in page.rows("score-table")}
    assert shown["ROC AUC"] == f"{expected['roc_auc']:.4f}"
    assert shown["Voltage RMSE, clipped (mV)"] == f"{expected['voltage_rmse_mv']:.4f}"
    assert shown["TPR at FPR 1.00%"] == f"{expected['tpr_at_fpr']['0.01']:.4f}"


def test_model_report_without_its_runs_folder_has_no_learning_curve(
    grid, report, toy_data, tmp_path, quick
) -> None:
    model = tmp_path / "alone <i>.h5"
    home = grid / "experiments" / report["best_models"][0]["hash"]
    shutil.copy(home / "model.safetensors", model)
    result = write_model_report(model, data=toy_data, svg=tmp_path / "svg")
    assert result["missing"] == []
    page = Page(tmp_path / "report.html")
    assert_self_contained(page)
    names = ["roc.svg", "spikes.svg", "traces.svg"]
    assert sorted(path.name for path in result["files"]["svg"]) == names
    assert page.count("figure") == len(names)


def test_model_whose_card_says_little_has_a_report(toy_data, tmp_path, quick) -> None:
    stack = RecurrentStack("gru", (3, 2), input_size=20)
    channels = Channels.of(excitatory=10, inhibitory=10)
    save(tmp_path / "model.safetensors", stack, ModelCard(stack.spec, channels, 1.0))
    result = write_model_report(tmp_path / "model.safetensors", data=toy_data)
    assert [note.partition(":")[0] for note in result["missing"]] == ["spike rule"]
    page = Page(tmp_path / "report.html")
    assert_self_contained(page)
    assert ["Stack", "GRU 3-2, head recurrent"] in page.tables["card-table"]


def _chromium(*arguments: object) -> None:
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip("no Chromium on PATH")
    fixed = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    subprocess.run(
        [program, *fixed, *map(str, arguments)], check=True, capture_output=True, timeout=120
    )


def _pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return (imread(path)[..., :3] * 255).round().astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_a_real_browser_shows_the_page_in_light_and_dark(report, tmp_path, mode) -> None:
    shot = tmp_path / "page.png"
    dark = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
    _chromium(
        *(dark if mode == "dark" else ()),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,6000",
        f"--screenshot={shot}",
        report["files"]["html"].as_uri(),
    )
    pixels = _pixels(shot)
    paper = {"light": (0xFF, 0xFF, 0xFF), "dark": (0x17, 0x19, 0x1D)}[mode]
    assert tuple(pixels[0, 0]) == paper
    for colour in ARCH_COLOURS:
        wanted = list(bytes.fromhex(colour[1:]))
        assert (np.abs(pixels - wanted).max(axis=-1) <= 2).sum() > 200, colour


@pytest.mark.slow
def test_a_real_browser_shows_every_figure(report, tmp_path) -> None:
    for path in report["files"]["svg"]:
        shot = tmp_path / f"{path.stem}.png"
        _chromium(
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1300,800",
            f"--screenshot={shot}",
            path.as_uri(),
        )
        inked = (_pixels(shot) < 200).any(axis=-1).mean()
        assert inked > 0.003, path.name


@pytest.mark.slow
def test_a_real_browser_prints_the_page(report, tmp_path) -> None:
    paper = tmp_path / "page.pdf"
    _chromium(
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--print-to-pdf={paper}",
        report["files"]["html"].as_uri(),
    )
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 2
