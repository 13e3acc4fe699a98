"""Write ddmake/calls/prices.json, and contexts.json, from the price map of the installed litellm, which is read, not imported.

Run as: python scripts/prices.py --date 2026-10-21    (the day on which that litellm was released; today unless given)

Left out, so that they count as unknown: what isn't priced by the token alone, what is said to be free (mostly it is a
price that nobody has entered), and Azure, where a name is a deployment's and says nothing of the model behind it.
"""

import argparse
import datetime
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

MAP = "model_prices_and_context_window_backup.json"
OUT = Path(__file__).parent.parent / "ddmake" / "calls" / "prices.json"
CONTEXTS = OUT.with_name("contexts.json")
MODES = ("chat", "completion", "responses", "embedding")
LEFT_OUT = ("azure", "azure_text")
BESIDES = ("input_cost_per_request", "input_cost_per_query", "input_cost_per_character", "citation_cost_per_token")
SAME = {"bedrock_converse": "bedrock", "text-completion-openai": "openai", "text-completion-codestral": "codestral",
        "fireworks_ai-embedding-models": "fireworks_ai"}  # what a name begins with, by litellm's provider
ABOVE = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")

Row = list[float | int | None]


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    date = parser.parse_args().date
    known = json.loads((_litellm() / MAP).read_text())
    for out, models in ((OUT, _models(known)), (CONTEXTS, _contexts(known))):
        _write(out, dict(sorted(models)), date)


def _write(out: Path, models: Mapping[str, Any], date: str) -> None:
    head = {"source": f"litellm {version('litellm')}", "date": date}
    rows = ",\n".join(f"{json.dumps(name)}:{json.dumps(row, separators=(',', ':'))}" for name, row in models.items())
    out.write_text(f"{json.dumps(head)[:-1]}, \"models\": {{\n{rows}\n}}}}\n")
    print(f"{out.name}: {len(models)} models, {out.stat().st_size:,} bytes")


def _litellm() -> Path:
    found = importlib.util.find_spec("litellm")
    return Path(found.origin).parent


def _models(known: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Row]]:
    """Yield (name, row) of every model that is priced by the token; a name begins with what llm() is given for its provider."""
    for name, told in sorted(known.items(), key=lambda item: "/" in item[0]):  # the fuller names win
        if told.get("mode") in MODES and told["litellm_provider"] not in LEFT_OUT and _by_token(told):
            yield _full(name, told["litellm_provider"]), _row(told)


def _contexts(known: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, int]]:
    """Yield (name, tokens that a prompt may have) of every model that writes, priced or not."""
    for name, told in sorted(known.items(), key=lambda item: "/" in item[0]):
        most = _whole(told.get("max_input_tokens"))
        if most and told.get("mode") in MODES[:3] and told["litellm_provider"] not in LEFT_OUT:
            yield _full(name, told["litellm_provider"]), most


def _by_token(told: Mapping[str, Any]) -> bool:
    priced = told.get("input_cost_per_token") and told.get("output_cost_per_token") is not None
    thinking = told.get("output_cost_per_reasoning_token", told.get("output_cost_per_token"))
    searches = told["litellm_provider"] == "perplexity" and "search_context_cost_per_query" in told
    return bool(priced) and thinking == told["output_cost_per_token"] and not searches and not any(told.get(n) for n in BESIDES)


def _full(name: str, provider: str) -> str:
    """Return a model's name with its provider's before it."""
    provider = "vertex_ai" if provider.startswith("vertex_ai") else SAME.get(provider, provider)
    return name if name.startswith(f"{provider}/") else f"{provider}/{name}"


def _row(told: Mapping[str, Any]) -> Row:
    """Return what prices.py reads: in, out, cached in, most tokens out, batch in and out, and from where on it is dearer."""
    row = [_million(told.get(name)) for name in ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")]
    row.append(_whole(told.get("max_output_tokens") or told.get("max_tokens")))
    row += [_million(told.get(f"{way}_cost_per_token_batches")) for way in ("input", "output")]
    above = [int(found[1]) for name in told if (found := ABOVE.fullmatch(name))]
    if above:  # one step: no model has more
        dearer = (told.get(f"{way}_cost_per_token_above_{above[0]}k_tokens") for way in ("input", "output"))
        row += [above[0] * 1000, *map(_million, dearer)]
    while row[-1] is None:
        row.pop()
    return row


def _million(price: float | None) -> float | None:
    """Return a token's price as that of a million."""
    return None if price is None else float(f"{price * 1e6:.6g}")


def _whole(number: Any) -> int | None:
    return int(number) if isinstance(number, (int, float)) else None


if __name__ == "__main__":
    main()
