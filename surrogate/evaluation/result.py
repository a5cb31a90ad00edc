"""What an evaluation gives: a dict that prints as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from surrogate.evaluation.anatomy import OUTCOMES, SHIFT_MS
from surrogate.evaluation.protocols import Outputs
from surrogate.evaluation.scores import score_rows
from surrogate.model.model_file import Model
from surrogate.validated import open_record

__all__ = ["Evaluation", "Scores"]


@open_record
class Spread(TypedDict):
    """What reports read of the spread of the outputs."""

    logit_gap: float | None


@open_record
class Scores(TypedDict):
    """What records and reports read of an evaluation: scores by their names, of which there are
    more."""

    roc_auc: float | None
    roc_auc_interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    average_precision: float | None
    voltage_rmse_mv: float | None
    n_trials: int
    spread: Spread | None


_PLACES = {"alone": "alone", "burst_first": "first in a burst", "burst_later": "later in one"}


class Evaluation(dict[str, Any]):
    """Scores of a model with their intervals, as ``surrogate evaluate --json`` prints them.

    ``print`` shows them as a table.

    Attributes
    ----------
    model : Model
    outputs : Outputs
        What the model and the neuron did: ``logits``, ``voltage``, ``spikes``, ``target`` and the
        ``emitted`` spikes of the model's rule, arrays [trials, bins], and how they were run.
    """

    def __init__(self, scores: Mapping[str, Any], model: Model, outputs: Outputs) -> None:
        super().__init__(scores)
        self.model, self.outputs = model, outputs

    def __str__(self) -> str:
        parts = [self._subject(), self._scores()]
        if self["error_anatomy"]:
            parts.append(self._errors())
        if self["note"]:
            parts.append(f"note: {self['note']}")
        else:
            parts += [self._thresholds(), f"{self._spread()}\n{self._spike_rule()}"]
        return "\n\n".join(parts)

    def _subject(self) -> str:
        spec = self.model.stack.spec
        size = self["model_file_bytes"]
        file = "" if size is None else f"model file {size:,} bytes, "
        dropped = f", {self['n_trials_dropped']} left out" if self["n_trials_dropped"] else ""
        return (
            f"{spec.arch} {spec.sizes_text}, {self['parameters']:,} parameters; {file}"
            f"state {self['state_bytes']:,} bytes\n"
            f"{self['data']['name']}, split {self['split']}: {self['n_trials']} trials{dropped}, "
            f"{self['n_spikes']} spikes; protocol {self['protocol']}, {self['labels']} spike "
            f"times, {self['seconds']:.1f} s"
        )

    def _scores(self) -> str:
        lines = [f"{'score':<40}{'value':>10}   95 % over trials"]
        for row in score_rows(self):
            value, *ends = (
                "none" if figure is None else f"{figure:.{row.digits}f}"
                for figure in (row.value, *(row.interval or ()))
            )
            lines.append(f"{row.label:<40}{value:>10}" + (f"   [{', '.join(ends)}]" * bool(ends)))
        return "\n".join(lines)

    def _errors(self) -> str:
        errors = self["error_anatomy"]
        places = (
            f"{counts['missed']} of {sum(counts.values())} {_PLACES[place]}"
            for place, counts in errors["by_place"].items()
        )
        lines = [
            "spikes: " + ", ".join(f"{errors[outcome]} {outcome}" for outcome in OUTCOMES),
            f"  missed {', '.join(places)}",
            f"  false {errors['false_beside_spikes']} of {errors['false']} within {SHIFT_MS} ms of "
            "a spike",
        ]
        if errors["worst_tenth_share"] is not None:
            lines.append(
                f"  {errors['worst_tenth_share']:.0%} of the missed and false are in the worst "
                f"tenth of the trials"
            )
        return "\n".join(lines)

    def _thresholds(self) -> str:
        lines = [f"{'threshold by':<16}{'logit':>12}{'probability':>14}{'TPR':>8}{'FPR':>9}"]
        for name, point in self["thresholds"].items():
            lines.append(
                f"{name:<16}{point['logit']:>12.7g}{point['probability']:>14.7g}"
                f"{point['tpr']:>8.3f}{point['fpr']:>9.5f}"
            )
        return "\n".join(lines)

    def _spread(self) -> str:
        spread = self["spread"]
        return (
            f"spread: {spread['saturated_share']:.2%} saturated, "
            f"{spread['distinct_above_threshold']} distinct logits above the rate threshold, "
            f"logit gap {spread['logit_gap']:.4g}"
        )

    def _spike_rule(self) -> str:
        rule, described = self.model.spike_rule, self["spike_rule"]
        if rule is None:
            return "spike rule: none chosen yet; choose one with --split valid --write-rule"
        lines = [
            f"spike rule: {rule.in_words(self.outputs.dt_ms)}",
            f"  chosen by {rule.chosen_by}",
            f"  emits {described['emitted_rate_hz']:.2f} Hz, the neuron "
            f"{described['neuron_rate_hz']:.2f} Hz",
        ]
        if self["n_spikes"]:
            other = (
                f"x {one['factor']:g}: {one['rate_ratio']:.2f} of the rate, "
                f"F1 {one['event_f1_mean']:.3f}"
                for one in self["threshold_sensitivity"]
                if one["factor"] in (0.8, 1.25)
            )
            lines.append(f"  odds of the level {'; '.join(other)}")
        return "\n".join(lines)
