"""What tells models apart that are compared: the settings of their trainings, the parameters that they are asked with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddmake.backends.models import read_json
from ddmake.ddfile.specs import LLM
from ddmake.ddfile.target import Source

ASKED = ("temperature", "top_p", "top_k", "max_tokens", "stop", "seed", "sample", "reasoning", "revision", "dtype", "quantize")
RECORD = "metrics.json"  # where a training leaves its settings, in the model's folder: what counts for nothing

Settings = dict[str, dict[str, Any]]  # of each model, by its name


def varied(models: Mapping[str, Any]) -> Settings:
    """Return the settings that differ among models, by model; null where a model has none.

    Those of trainings are compared among the models that were trained here, parameters among all.
    """
    specs = {name: spec for name, model in models.items() if isinstance(spec := getattr(model, "spec", None), LLM)}
    asked = _differing({name: {field: getattr(spec, field) for field in ASKED} for name, spec in specs.items()})
    learned = _differing({name: told for name, spec in specs.items() if (told := _trained(spec))})
    names = [*dict.fromkeys(name for told in asked.values() for name in told)]
    renamed = {name: {f"training_{key}" if key in names else key: value for key, value in told.items()}
               for name, told in learned.items()}
    shared = dict.fromkeys(key for told in (*renamed.values(), *asked.values()) for key in told)
    return {name: {key: {**asked.get(name, {}), **renamed.get(name, {})}.get(key) for key in shared} for name in models}


def _trained(spec: LLM) -> dict[str, Any]:
    """Return what the folder of an adapter, or of a model, records of its training; {} where it records nothing."""
    for model in (spec.adapter, spec.name):
        if isinstance(model, Source) and isinstance(told := read_json(Path(model.path), RECORD).get("settings"), dict):
            return told
    return {}


def _differing(settings: Settings) -> Settings:
    """Return the settings that have several values among those that tell them, with values that a column can hold."""
    found: Settings = {name: {} for name in settings}
    for key in dict.fromkeys(key for told in settings.values() for key in told):
        values = {name: _plain(told[key]) for name, told in settings.items() if key in told}
        if len(set(values.values())) > 1:
            kinds = {type(value) for value in values.values() if value is not None}
            as_text = len(kinds) > 1 and not kinds <= {int, float}
            for name, value in values.items():
                found[name][key] = str(value) if as_text and value is not None else value
    return found


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)
