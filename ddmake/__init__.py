"""ddmake: make for LLM workflows.

What a Ddfile imports stands here; importing it loads nothing heavy.
"""

from ddmake.ddfile.config import config
from ddmake.ddfile.load import load
from ddmake.ddfile.recipe import step, train
from ddmake.ddfile.specs import llm, lora
from ddmake.ddfile.template import template
from ddmake.ddfile.workflow import Workflow, alias

__version__ = "0.1.0"
__all__ = ["Workflow", "alias", "config", "llm", "load", "lora", "step", "template", "train"]
