"""The reference is what its script writes, tells each parameter and template variable, and the way from DataDreamer names what exists."""

import ast
import importlib.util
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
from datasets import Dataset

import ddmake
from ddmake import rules
from ddmake.cli.main import main
from ddmake.ddfile import specs
from ddmake.ddfile.rule import Options
from ddmake.ddfile.target import Viewable

TOP = Path(__file__).parent.parent
SCRIPT = TOP / "scripts" / "reference.py"

found = importlib.util.spec_from_file_location("reference", SCRIPT)
reference = importlib.util.module_from_spec(found)
found.loader.exec_module(reference)


@pytest.mark.parametrize("name", rules.__all__)
def test_each_parameter_has_a_sentence(name):
    told = reference.Told(name)
    lacking = [one for one in told.parameters if not told.sentence(one)]
    assert told.parameters and not lacking, f"Tell {lacking} in the docstring, or in rules/parameters.toml."


@pytest.mark.parametrize("name", rules.__all__)
def test_a_docstring_tells_what_a_packaged_prompt_sees(name):
    told = reference.Told(name)
    named = set(re.findall(r"`(\w+)`", told.function.__doc__))
    for parameter in told.prompts:
        assert reference.variables(told, parameter), f"{parameter} reads nothing"
        assert not set(reference.variables(told, parameter)) - named, parameter


def test_what_a_prompt_sees_is_no_sentence_on_a_parameter():
    def recipe(rows, *, text, words):
        """Do it.

        The prompt sees `text`. It has at most `words` of them; see Some et al. 2020. `words` is a number.
        """

    assert list(reference._naming(recipe, "text")) == []
    assert next(reference._naming(recipe, "words")) == "It has at most `words` of them; see Some et al. 2020."


def test_the_table_of_sentences_holds_nothing_that_is_gone():
    table = dict(reference.sentences())
    shared, models = table.pop("shared"), table.pop("models")
    parameters = {name: reference.Told(name).parameters for name in rules.__all__}
    assert table.keys() <= parameters.keys()
    assert not [(name, one) for name, its in table.items() for one in its if one not in parameters[name]]
    assert shared.keys() <= {one for its in parameters.values() for one in its}
    assert models.keys() <= {one.name for spec in reference.SPECS.values() for one in fields(spec)}


@pytest.mark.parametrize("title", reference.SPECS)
def test_each_field_has_a_sentence(title):
    told = reference.fields_of(reference.SPECS[title])
    assert told and not [name for name, text in told.items() if not text]


@pytest.mark.parametrize("name, needs, makes", [
    ("embed", {"rows": ["text"]}, ["text", "(others) rows", "embedding"]),
    ("transform", {"rows": [reference.READ]}, [reference.READ, "(others) rows", "text"]),
    ("few_shot", {"rows": ["text"], "examples": ["text", "answer"]}, ["text", "(others) rows", "answer"]),
    ("win_rate", {"verdicts": ["winner"]}, ["wins", "losses", "ties", "unjudged", "n", "win_rate", "low", "high"]),
])
def test_columns_are_those_that_the_recipe_asks_for(name, needs, makes):
    assert reference.columns(reference.Told(name)) == (needs, makes)


def test_the_page_is_what_the_script_writes():
    assert reference.OUT.read_text(encoding="utf-8") == reference.page(), "Run: python scripts/reference.py"


def test_anchors_are_different():
    titles = [line.lstrip("#").strip().lower() for line in reference.page().splitlines() if re.match(r"#+ ", line)]
    assert len(titles) == len(set(titles)) > len(rules.__all__)


def spans():
    """Yield what the page on DataDreamer has in code about ddmake: in each table all columns but the first."""
    for line in (TOP / "docs" / "coming-from-datadreamer.md").read_text().splitlines():
        if line.startswith("| ") and not line.startswith("| there"):
            yield from re.findall(r"`([^`]+)`", line.split(" | ", 1)[1].replace("\\|", "|"))


def called(node):
    """Return the function that an expression calls: a recipe, a word of ddmake's, or a method of targets, llms and datasets."""
    if isinstance(node.func, ast.Name):
        return next(getattr(home, node.func.id) for home in (rules, ddmake) if node.func.id in home.__all__)
    return next(getattr(home, node.func.attr) for home in (Viewable, specs.LLM, Dataset) if hasattr(home, node.func.attr))


def takes(function, names):
    """Tell whether a function, or each rule of a recipe, takes keywords of these names."""
    known = inspect.signature(inspect.unwrap(getattr(function, "function", function))).parameters
    return any(one.kind is one.VAR_KEYWORD for one in known.values()) or set(names) <= {*known, *(f.name for f in fields(Options))}


@pytest.mark.parametrize("span", sorted(set(spans())))
def test_what_the_page_on_datadreamer_names_is_there(span):
    options = {option for one in main.commands["make"].params for option in one.opts}
    if span.startswith(("ddmake ", "--")):
        words = span.removeprefix("ddmake ").split()
        assert words[0] in {*options, *main.commands}
    elif re.match(r"[a-z_]+=", span):
        several = [*map(rules.__dict__.get, rules.__all__), ddmake.llm]
        assert all(any(takes(one, {name}) for one in several) for name in re.findall(r"(?:^|, )([a-z_]+)=", span))
    elif "(" in span and not span.startswith("datasets."):
        calls = [node for node in ast.walk(ast.parse(f"x{span}" if span[0] == "." else span)) if isinstance(node, ast.Call)]
        assert calls and all(takes(called(node), {one.arg for one in node.keywords}) for node in calls)
    elif re.fullmatch(r"[a-z_]+", span):
        assert span in rules.__all__ or span in ("winner", "save_to_disk", "prompt")


def test_the_page_on_datadreamer_has_all_of_table_2():
    page = (TOP / "docs" / "coming-from-datadreamer.md").read_text()
    assert not [name for name in TABLE_2.split() if f"`{name}" not in page]
    assert len(set(spans())) > 80


TABLE_2 = """
    DataSource HFHubDataSource JSONDataSource CSVDataSource HFDatasetDataSource TextDataSource
    Prompt RAGPrompt ProcessWithPrompt FewShotPrompt FewShotPromptWithRetrieval DataFromPrompt DataFromAttributedPrompt FilterWithPrompt
    RankWithPrompt JudgeGenerationPairsWithPrompt JudgePairsWithPrompt Embed Retrieve CosineSimilarity RunTaskModel
    OpenAI OpenAIAssistant HFTransformers CTransformers VLLM Petals HFAPIEndpoint Together MistralAI Anthropic Cohere AI21 Bedrock Vertex
    LiteLLM GoogleAIStudio ParallelLLM
    TrainOpenAIFineTune TrainHFClassifier TrainHFFineTune TrainSentenceTransformer TrainHFDPO TrainHFPPO TrainHFRewardModel
    TrainSetFitClassifier
"""  # and what the released library adds
