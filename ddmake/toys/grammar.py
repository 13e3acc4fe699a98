"""A grammar of made-up NLP papers: word lists, sentences with slots, and a reader that finds the terms again.

All words are our own; no outside text went in. A paper is a dict of facts, drawn by `facts`; `abstract` and `tweet`
put it into words. Each abstract names exactly one of `METHODS` and one of `TASKS`, always in lower case, so that
`methods_and_tasks` can tell whether a model that was trained on it kept to the facts.
"""

import random
import re

Facts = dict[str, str]

TASKS = (
    "question answering", "machine translation", "text summarization", "named entity recognition",
    "sentiment analysis", "relation extraction", "dialogue generation", "semantic parsing", "fact verification",
    "coreference resolution", "document classification", "information retrieval", "paraphrase detection",
    "natural language inference", "grammatical error correction", "style transfer", "keyphrase extraction",
    "event extraction", "stance detection", "code generation", "entity linking", "reading comprehension",
    "hate speech detection", "topic modeling", "speech translation", "query rewriting", "argument mining",
    "intent detection", "slot filling", "authorship attribution", "word sense disambiguation",
    "readability assessment", "claim detection", "table understanding", "commonsense reasoning",
    "headline generation", "tool use", "instruction following", "citation recommendation", "sarcasm detection",
)  # fmt: skip
METHODS = (
    "contrastive learning", "knowledge distillation", "retrieval augmentation", "prompt tuning",
    "curriculum learning", "self-training", "multi-task learning", "data augmentation", "active learning",
    "reinforcement learning", "low-rank adaptation", "graph neural networks", "sparse attention", "meta-learning",
    "adversarial training", "synthetic examples", "chain-of-thought prompting", "preference optimization",
    "hierarchical encoding", "span masking", "mixture of experts", "iterative refinement", "weak supervision",
    "token pruning", "layer freezing", "cross-lingual alignment", "in-context demonstrations",
    "energy-based reranking", "variational autoencoders", "constrained decoding", "memory networks", "dual encoders",
    "self-consistency voting", "model merging", "speculative decoding", "counterfactual editing",
    "embedding fusion", "label smoothing", "rule induction", "gradient matching",
)  # fmt: skip
DOMAINS = (
    "low-resource languages", "clinical notes", "legal documents", "scientific articles", "social media posts",
    "customer support chats", "news articles", "financial reports", "stories for children", "patent filings",
    "online reviews", "meeting transcripts", "historical newspapers", "code-mixed text", "school essays",
    "government records", "podcast transcripts", "cooking recipes", "emergency reports", "software manuals",
)  # fmt: skip
PROBLEMS = (
    "labeled data is scarce", "models are sensitive to noise", "existing systems are slow",
    "annotations are expensive", "models rely on shallow cues", "outputs are often unfaithful",
    "performance drops on unseen domains", "long inputs exceed the context window", "rare words are handled poorly",
    "evaluation is unreliable", "models are poorly calibrated", "errors accumulate over time",
    "bias is hard to measure", "large models are costly to deploy", "most benchmarks are too easy",
    "gold labels often disagree",
)  # fmt: skip
METRICS = (
    "F1", "accuracy", "BLEU", "ROUGE-L", "exact match", "recall", "precision", "MRR", "human preference", "BERTScore",
)  # fmt: skip
BASELINES = (
    "strong baselines", "fine-tuned transformers", "prior work", "much larger models", "supervised systems",
    "prompted language models", "the previous state of the art", "pipeline approaches", "recurrent models",
    "the best public systems",
)  # fmt: skip
FINDINGS = (
    "most gains come from harder examples", "the improvements hold across model sizes",
    "the model is more robust to noise", "smaller models benefit the most",
    "the representations transfer well to new domains", "most remaining errors are caused by ambiguity",
    "training time is cut in half", "the approach needs only a few examples", "quality matters more than quantity",
    "human raters prefer our outputs", "each component matters", "the gains are largest on long inputs",
    "simple heuristics explain many failures", "performance does not saturate with more data",
)  # fmt: skip
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "ten", "twelve")
_NAME_HEADS = (
    "Swift", "Maple", "Coral", "Falcon", "Amber", "Cedar", "Delta", "Echo", "Frost", "Glide", "Harbor", "Indigo",
    "Jade", "Kite", "Lunar", "Mosaic", "Nova", "Onyx", "Pixel", "Quartz", "River", "Solar", "Tidal", "Umber", "Velvet",
    "Willow", "Zephyr", "Bamboo", "Copper", "Drift", "Ember", "Flint", "Granite", "Hazel", "Iris", "Juniper",
    "Lotus", "Meadow", "Nimbus", "Otter", "Prism", "Raven", "Sable", "Terra", "Violet", "Walnut", "Yonder", "Zinc",
)  # fmt: skip
_NAME_TAILS = (
    "Net", "Former", "Gen", "Mix", "Tune", "Rank", "Sum", "Link", "Parse", "Bench", "Align", "Flow", "Graph", "Track",
    "Edit", "Prompt", "Sense", "Lens", "Bridge", "Forge", "Scope", "Weave", "Loop", "Mind",
)  # fmt: skip

_OPENINGS = (
    "Despite recent advances in {task}, {problem}.",
    "Despite recent advances in {task}, {problem}, especially for {domain}.",
    "Recent progress in {task} has been impressive, but {problem}.",
    "Large language models do well at {task}, but {problem} when they are applied to {domain}.",
    "We study {task} for {domain}, where {problem}.",
    "Systems for {task} are widely used, yet {problem}.",
    "While {task} has received much attention, {problem}.",
    "In many applications of {task}, {problem}.",
    "A central challenge in {task} is that {problem}.",
    "Work on {task} has focused on clean text, and for {domain} {problem}.",
    "It is well known that {problem} in {task}.",
    "For {domain}, {task} remains difficult because {problem}.",
)
_PROPOSALS = (
    "We propose {name}, a method for {task} based on {method}.",
    "In this paper, we introduce {name}, which uses {method} to improve {task}.",
    "To address this, we present {name}, a simple approach that combines {method} with language models.",
    "We introduce {name}, a framework that applies {method} to {task}.",
    "This paper presents {name}, a new model that relies on {method}.",
    "We address this with {name}, which turns {method} into a practical tool for {task}.",
    "We describe {name}, a system that is built around {method}.",
    "Our answer is {name}, a lightweight model for {task} that makes use of {method}.",
    "We show that {method} offers a remedy and propose {name}, which brings it to {task}.",
    "Here we explore {method} and present {name}, a model that is easy to train.",
)
_DETAILS = (
    "Our method requires no additional annotation and can be applied to any encoder.",
    "{name} first selects useful examples and then trains on them with {method}.",
    "The key idea is to use {method} to guide the model towards relevant evidence.",
    "{name} is easy to implement and adds little overhead at inference time.",
    "Unlike {baseline}, {name} does not depend on hand-written features.",
    "We train {name} on a mixture of human and automatic annotations.",
    "The model is trained end to end and fits on a single device.",
    "In contrast to {baseline}, {name} handles {domain} without any changes.",
    "It works in two stages, and both of them share their parameters.",
    "A small module decides when {method} is worth its cost.",
)
_RESULTS = (
    "Experiments on {count} datasets show that {name} outperforms {baseline} by {points} points in {metric}.",
    "On {count} benchmarks, {name} improves {metric} by {points} points over {baseline}.",
    "Across {count} datasets of {domain}, {name} gains {points} points of {metric} compared with {baseline}.",
    "{name} achieves an improvement of {points} points in {metric} over {baseline} on {count} benchmarks.",
    "Compared with {baseline}, {name} raises {metric} by {points} points on average over {count} test sets.",
    "In tests on {count} corpora, {name} is {points} points better in {metric} than {baseline}.",
    "We evaluate {name} on {count} public datasets, where it beats {baseline} by {points} points in {metric}.",
    "The gain over {baseline} is {points} points of {metric} across {count} datasets.",
)
_ENDINGS = (
    "Further analysis shows that {finding}.",
    "We also find that {finding}.",
    "Our analysis reveals that {finding}.",
    "We release our code and data to support future research.",
    "Finally, we show that {finding}, and we release our code.",
    "An ablation study suggests that {finding}.",
    "Moreover, {finding}.",
    "A manual inspection indicates that {finding}.",
)
_TWEETS = (
    "Excited to share {name}! We use {method} for {task} and gain {points} points in {metric} over {baseline}. #NLProc",
    "New paper: {name} tackles {task} with {method}. {points} points of {metric} on {count} datasets! 🎉 #NLProc",
    "📢 Introducing {name}, a new approach to {task} based on {method}. It beats {baseline} by {points} points!",
    "Can {method} help with {task}? Yes! {name} improves {metric} by {points} points. Code is out now. #NLProc",
    "🚀 Meet {name}: {method} for {task}, {points} points better in {metric} than {baseline}.",
    "What if we tried {method} for {task}? Our new paper on {name} has the answer. 👇 #NLProc",
    "Happy to announce {name}! It brings {method} to {task} and works on {count} datasets. #AI",
    "Our work on {task} is out: {name} uses {method} and wins by {points} points in {metric}. 🎉",
)
TEMPLATES = (*_OPENINGS, *_PROPOSALS, *_DETAILS, *_RESULTS, *_ENDINGS, *_TWEETS)
TERMS = (*TASKS, *METHODS, *DOMAINS, *PROBLEMS, *METRICS, *BASELINES, *FINDINGS, *COUNTS)


def facts(rng: random.Random) -> Facts:
    """Draw a made-up paper: its name, task, method, domain, problem, metric, baseline, finding, points and count."""
    return {
        "name": rng.choice(_NAME_HEADS) + rng.choice(_NAME_TAILS),
        "task": rng.choice(TASKS),
        "method": rng.choice(METHODS),
        "domain": rng.choice(DOMAINS),
        "problem": rng.choice(PROBLEMS),
        "metric": rng.choice(METRICS),
        "baseline": rng.choice(BASELINES),
        "finding": rng.choice(FINDINGS),
        "points": f"{rng.randint(1, 19)}.{rng.randint(0, 9)}",
        "count": rng.choice(COUNTS),
    }


def abstract(rng: random.Random, facts: Facts) -> str:
    """Put a paper into words as an abstract of three to six sentences."""
    parts = [rng.choice(_OPENINGS), rng.choice(_PROPOSALS)]
    parts += rng.sample(_DETAILS, rng.choice((0, 1, 1, 2)))
    parts += [rng.choice(_RESULTS)]
    parts += [rng.choice(_ENDINGS)] if rng.random() < 0.8 else []
    return " ".join(parts).format(**facts)


def tweet(rng: random.Random, facts: Facts) -> str:
    """Put a paper into words as a tweet that names its method and its task."""
    return rng.choice(_TWEETS).format(**facts)


def repeated(text: str) -> list[tuple[int, int]]:
    """Return where (from, to; in characters) a text says a term, a name or a score that it has said before."""
    said, spans = set(), []
    for match in _FACT.finditer(text):
        if match.group() in said:
            spans.append(match.span())
        said.add(match.group())
    return spans


def _finder(terms: tuple[str, ...]) -> re.Pattern[str]:
    """Compile a pattern that finds whole terms, a longer one before any that is a part of it."""
    longest_first = sorted(terms, key=len, reverse=True)
    choices = "|".join(re.escape(term).replace(r"\ ", r"\s+") for term in longest_first)
    return re.compile(rf"(?<![\w-])(?:{choices})(?![\w-])", re.IGNORECASE)


_METHOD, _TASK = _finder(METHODS), _finder(TASKS)
_FACT = re.compile(
    rf"(?:{'|'.join(_NAME_HEADS)})(?:{'|'.join(_NAME_TAILS)})|\d+\.\d|"
    + _finder((*METHODS, *TASKS, *METRICS, *BASELINES, *PROBLEMS)).pattern
)


def methods_and_tasks(text: str) -> tuple[set[str], set[str]]:
    """Return which of `METHODS` and which of `TASKS` stand in a text, in whatever case."""
    methods, tasks = ({" ".join(term.lower().split()) for term in kind.findall(text)} for kind in (_METHOD, _TASK))
    return methods, tasks
