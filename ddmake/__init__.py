"""ddmake: make for LLM workflows.

What a Ddfile imports stands here; each name is loaded when it is first asked for, and `import ddmake` loads nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddmake.ddfile.config import config
    from ddmake.ddfile.facts import facts
    from ddmake.ddfile.include import include
    from ddmake.ddfile.load import load
    from ddmake.ddfile.recipe import step, train
    from ddmake.ddfile.specs import embedder, llm, lora, mixture
    from ddmake.ddfile.template import template
    from ddmake.ddfile.workflow import Workflow, alias

__version__ = "0.1.0"
__all__ = ["Workflow", "alias", "config", "embedder", "facts", "include", "llm", "load", "lora", "mixture", "step", "template",
           "train"]

_HOMES = {"Workflow": "workflow", "alias": "workflow", "config": "config", "embedder": "specs",
          "facts": "facts", "include": "include", "llm": "specs", "load": "load", "lora": "specs", "mixture": "specs",
          "step": "recipe", "template": "template", "train": "recipe"}


def __getattr__(name: str) -> Any:
    """Load a name that isn't there yet (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ddmake' has no attribute {name!r}")
    from importlib import import_module

    found = getattr(import_module(f"ddmake.ddfile.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
