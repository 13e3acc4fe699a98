"""A README's account of the chain: a table of all steps, then each with its models, prompts and settings."""

from collections.abc import Iterable
from typing import Any

from ddmake.cards.card import Card
from ddmake.cards.facts import Facts
from ddmake.cards.markdown import code, codes, fence, number, table, when
from ddmake.cards.models import UNKNOWN

COUNTS = ("sent", "cached", "failed", "cut")
SHORT = 16  # digits of a fingerprint that are read


def told(card: Card) -> list[str]:
    """Return the account of a chain, oldest step first."""
    entries = {**card["data_card"], **card.get("model_card", {})}
    head = ("", "step", "recipe", "from", "models", "rows", "asked", "failed", "cut")
    overview = table(head, [_row(number, name, entries[name]) for number, name in enumerate(card["steps"], 1)])
    return [overview, *(_step(number, name, entries[name]) for number, name in enumerate(card["steps"], 1))]


def _row(number_: int, name: str, entry: Facts) -> tuple[str, ...]:
    asked = [_sum(entry, count) for count in COUNTS]
    rows = [f"{number(out['rows'])}" for out in entry["outputs"].values() if "rows" in out]
    models = dict.fromkeys(model["name"] for model in entry.get("models", []))
    return (str(number_), code(name), code(entry["recipe"]), _inputs(entry, models),
            codes(list(models)), " + ".join(rows), _count(asked[0], asked[1]), _some(asked[2]), _some(asked[3]))


def _inputs(entry: Facts, models: Iterable[str]) -> str:
    """Return what a step read beside models."""
    given = [given for given in entry.get("inputs", []) if given["path"] not in models]
    return ", ".join(" ".join(map(code, [one["path"], *one.get("views", [])])) + (" (observed)" if "observed" in one else "")
                     for one in given)


def _sum(entry: Facts, count: str) -> int | None:
    """Return how often something happened over all llms of a step; None where it asked none."""
    return sum(asked[count] for asked in entry["usage"].values()) if "usage" in entry else None


def _count(sent: int | None, cached: int | None) -> str:
    return "" if sent is None or cached is None else number(sent + cached)


def _some(count: int | None) -> str:
    return number(count) if count else ""


def _step(number_: int, name: str, entry: Facts) -> str:
    """Return one step's section."""
    facts = [*_models(entry), *_usage(entry), *_rows(entry), *_outputs(entry), *_settings(entry), *_metrics(entry), *_run(entry)]
    about = [entry["about"]] if "about" in entry else []
    doc = [entry["doc"]] if "doc" in entry else []
    lines = "\n".join(f"- {fact}" for fact in facts)
    head = f"### {number_}. {code(name)}: {code(entry['recipe'])}"
    return "\n\n".join([head, *about, *doc, lines, *_prompts(entry), *_examples(entry)])


def _models(entry: Facts) -> list[str]:
    return [_model(model, entry) for model in entry.get("models", [])]


def _model(model: dict[str, Any], entry: Facts) -> str:
    role = "base" if model["name"] == entry.get("base") else "embedder" if "embeds" in model else "model"
    marks = ["made here"] if model.get("made_here") else ["a bundled toy"] if model.get("toy") else []
    marks += [f"{key} {code(model[key])}" for key in ("revision", "adapter", "endpoint") if key in model]
    sampling = [f"{name} {_value(value)}" for name, value in model.get("sampling", {}).items()]
    told = "; ".join(", ".join(part) for part in (marks, sampling) if part)
    return f"{role}: {code(model['name'])}" + (f" ({told})" if told else "")


def _usage(entry: Facts) -> list[str]:
    return [_asked(name, used, len(entry["usage"]) > 1) for name, used in entry.get("usage", {}).items()]


def _asked(name: str, used: dict[str, Any], several: bool) -> str:
    counts = [f"{number(used[count])} {count}" for count in COUNTS if used[count] or count in ("sent", "failed")]
    counts += [tokens(used), *([dollars(used)] if dollars(used) else [])]
    answered = [model for model in used["models"] if model not in (name, name.partition("/")[2])]
    by = f"; answered by {codes(answered)}" if answered else ""
    rough = f"; answers may depend on the rows asked beside them ({used['rough']})" if used.get("rough") else ""
    return f"asked{f' {code(name)}' if several else ''}: {', '.join(counts)}{by}{rough}"


def tokens(used: Facts) -> str:
    """Return how many tokens were sent and came."""
    counts = [used["tokens_in"], used["tokens_out"]]
    return "tokens unknown" if UNKNOWN in counts else f"{number(counts[0])} tokens in, {number(counts[1])} out"


def dollars(used: Facts) -> str:
    """Return what answers have cost; an empty string where nothing was to be paid."""
    cost = used.get("cost", 0)
    if not cost or not used["sent"]:
        return ""
    return "cost unknown" if cost == UNKNOWN else f"${cost:,.2f}" if cost >= 0.01 else f"${cost:.2g}"


def commit(told: Facts) -> str:
    """Return the commit of the Ddfile that a job ran with."""
    git = told.get("git")
    return f"commit {code(git['commit'])}{', changed since' if git['changed'] else ''}" if git else ""


def hardware(told: Facts) -> str:
    """Return what a job ran on."""
    found = told.get("hardware")
    if not found:
        return ""
    gpus = [f"{found['gpus'].count(name)} × {name}" for name in dict.fromkeys(found["gpus"])]
    cores = f"{found['cores']} core{'s' * (found['cores'] != 1)}"
    return code(", ".join([f"{found['cpu']} ({cores}, {found['memory'] / 2**30:.0f} GiB)", *gpus]))


def _rows(entry: Facts) -> list[str]:
    """Return how many rows a step read and made."""
    read = [f"{of_rows(given)} of {code(given['path'])}" for given in entry.get("inputs", []) if "rows" in given]
    made = [number(out["rows"]) for out in entry["outputs"].values() if "rows" in out]
    left = f", {number(entry['left_out'])} left out" if "left_out" in entry else ""
    told = [f"read {', '.join(read)}", *([f"made {' + '.join(made)}{left}"] if made else [])]
    return [f"rows: {'; '.join(told)}"] if read else []


def of_rows(given: Facts) -> str:
    """Return how many rows an input has, and the views that it was seen through."""
    seen = f"{' and '.join(map(code, given['views']))} of the " if "views" in given else ""
    return f"{seen}{number(given['rows'])}"


def _outputs(entry: Facts) -> list[str]:
    outs = entry["outputs"]
    return [f"outputs: {', '.join(_out(path, out) for path, out in outs.items())}"] if len(outs) > 1 else []


def _out(path: str, out: dict[str, Any]) -> str:
    return code(path) + (f" ({number(out['rows'])} rows)" if "rows" in out else "")


def _settings(entry: Facts) -> list[str]:
    settings = entry.get("settings", {})
    return [f"settings: {', '.join(f'{name} {_value(value)}' for name, value in settings.items())}"] if settings else []


def _metrics(entry: Facts) -> list[str]:
    metrics = entry.get("metrics", {})
    return [f"metrics: {', '.join(f'{name} {number(value)}' for name, value in metrics.items())}"] if metrics else []


def _run(entry: Facts) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in entry.get("req_versions", {}).items())
    other = [f"with other versions than the last step: {versions}"] if versions else []
    other += [f"on {hardware(entry)}"] if "hardware" in entry else []
    other += [f"Ddfile at {commit(entry)}"] if "git" in entry else []
    made = f"made {when(entry['Date & Time'])} in {number(entry['seconds'])} s"
    if "edited" in entry:
        made = f"edited by hand, and kept so {when(entry['Date & Time'])}; its recipe had taken {number(entry['seconds'])} s"
    return [f"{made}; fingerprint {code(entry['fingerprint'][:SHORT])}", *other]


def _value(value: Any) -> str:
    """Return a setting: numbers as they are, all else as code."""
    if isinstance(value, dict) and len(value) == 1:
        (name, fields), = value.items()
        if isinstance(fields, dict):
            return code(f"{name}({', '.join(f'{key}={part!r}' for key, part in fields.items())})")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return code(value if isinstance(value, str) and value.strip() == value and value else repr(value))
    return repr(value)


def _prompts(entry: Facts) -> list[str]:
    found = []
    for prompt in entry.get("prompts", []):
        file = "" if prompt["template"] == "inline" else f", {code(prompt['template'])}"
        found.append(f"{prompt['argument'].capitalize()}{file}:\n\n{fence(prompt['text'], 'jinja')}")
    return found


def _examples(entry: Facts) -> list[str]:
    """Return what was sent for the first row, and what was said."""
    found = []
    for example in entry.get("examples", []):
        sent = "\n\n".join(f"{turn['role']}:\n{turn['content']}" for turn in example["messages"])
        head = f"An example: row {example['row']} as it was sent to {code(example['model'])}, and its answer:"
        found.append(f"{head}\n\n{fence(sent, 'text')}\n\n{fence(example['answer'], 'text')}")
    return found
