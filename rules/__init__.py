"""The recipe library: recipes that Ddfiles call by name.

Each is a plain function and can be read as an example of how to write one's own.
"""

from ddmake.rules.classifying import classify
from ddmake.rules.data import jsonl, split
from ddmake.rules.evaluation import evaluate
from ddmake.rules.hub import hub
from ddmake.rules.prompting import generate, transform
from ddmake.rules.retrieval import cosine_similarity, embed, retrieve
from ddmake.rules.shell import shell
from ddmake.rules.training import finetune

__all__ = ["classify", "cosine_similarity", "embed", "evaluate", "finetune", "generate", "hub", "jsonl", "retrieve", "shell",
           "split", "transform"]
