"""Recipes: the blog's to the letter, files, overrides, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from surrogate.errors import DataError, UsageError
from surrogate.training.recipe import BUILT_IN, load_recipe


def test_blog_recipe_is_the_blog_post_to_the_letter() -> None:
    recipe = load_recipe("blog", "lstm")
    assert (recipe.epochs, recipe.windows_per_epoch, recipe.batch_size) == (200, 128, 32)
    assert (recipe.window_ms, recipe.window_rule, recipe.burn_in_ms) == (1000, "one_per_trial", 0)
    assert recipe.steps == 800
    assert (recipe.weight_decay, recipe.beta1, recipe.beta2, recipe.epsilon) == (
        0.01,
        0.9,
        0.99,
        1e-8,
    )
    assert recipe.learning_rate_min == 1e-5
    assert (recipe.head, recipe.voltage_scale_mv, recipe.voltage_offset_mv) == ("recurrent", 100, 0)
    assert recipe.gradient_clip == math.inf
    assert not recipe.sign_aware_init


def test_blog_recipe_takes_each_architectures_best_rate_and_class_weight() -> None:
    best = {arch: load_recipe("blog", arch) for arch in ("rnn", "lstm")}
    assert {a: (r.learning_rate, r.class_weight) for a, r in best.items()} == {
        "rnn": (0.006, 1.0),
        "lstm": (0.01, 20.0),
    }


@pytest.mark.parametrize("rate", [0.001, 0.003, 0.006, 0.01])
def test_learning_rate_is_torchs_cosine_annealing(rate) -> None:
    recipe = load_recipe("blog", "lstm", {"learning_rate": rate})
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=800, eta_min=1e-5)
    for step in range(800):
        assert recipe.learning_rate_at(step) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("arch", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_recipe_survives_its_own_toml_file(tmp_path: Path, name, arch) -> None:
    recipe = load_recipe(name, arch, {"epochs": "7"})
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert load_recipe(path, arch) == recipe


def test_a_file_overrides_its_base_and_flags_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "blog"\nepochs = 3\nbatch_size = 16\n[gru]\nlearning_rate = 0.5\n')
    lstm = load_recipe(path, "lstm", {"batch_size": "8"})
    assert (lstm.name, lstm.epochs, lstm.batch_size, lstm.learning_rate) == ("blog", 3, 8, 0.01)
    assert load_recipe(path, "gru").learning_rate == 0.5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rte": "1"}, "did you mean 'learning_rate'"),
        ({"zzz": "1"}, "unknown recipe key 'zzz': known: head"),
        ({"epochs": "1.5"}, "epochs = 1.5: expected a whole number"),
        ({"epochs": "many"}, "epochs = 'many': expected a whole number"),
        ({"epochs": "0"}, "epochs = 0: expected at least 1"),
        ({"epochs": "true"}, "epochs = True"),
        ({"learning_rate": "nan"}, "learning_rate = nan: expected"),
        ({"select_by": "accuracy"}, "'accuracy': expected 'nll', 'auc', 'spread' or 'last'"),
        ({"batch_size": "33"}, "no multiple of batch_size = 33"),
        ({"burn_in_ms": "1000"}, "leaves nothing of window_ms"),
        ({"head": "recurrent"}, "base_rate_bias = true needs head"),
    ],
)
def test_wrong_keys_and_values_are_refused_with_the_cure(overrides, message) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("tuned", "lstm", overrides)


def test_tables_of_all_architectures_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[rnn]\nlearning_rte = 1\n")
    with pytest.raises(UsageError, match="did you mean 'learning_rate'"):
        load_recipe(path, "lstm")
    path.write_text("lstm = 3\n")
    with pytest.raises(UsageError, match=r"recipe \[lstm\] = 3: expected a table"):
        load_recipe(path, "lstm")


def test_unknown_recipe_suggests_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'tunned': did you mean 'tuned'"):
        load_recipe("tunned", "lstm")
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"epochs = \xff")
    with pytest.raises(DataError, match=r"broken.toml: not a TOML file"):
        load_recipe(broken, "lstm")
    broken.write_text('base = "blg"')
    with pytest.raises(UsageError, match="base = 'blg'"):
        load_recipe(broken, "lstm")
