"""What the toys read: documents for `tiny-base`, chats for `tiny`. All of it comes out of `ddmake.toys.grammar`.

A document is an abstract with reading exercises behind or before it, or a copying drill; no document holds a tweet. A
chat asks for an abstract, for a tweet, or about a fact of an abstract.
"""

import random
import re
import string
from collections.abc import Iterator

from ddmake.toys import grammar
from ddmake.toys.grammar import Facts

WRITE = "Write the abstract of an NLP paper as it might stand on arXiv. Only the abstract."
SUM_UP = "Sum up the work in this abstract as a tweet that names its method and its task. Only the tweet."

# What stands below an abstract on arXiv. A newline behind an abstract is always followed by one of these and then the
# end, so a model that has only read does not answer an abstract with a summary.
_COMMENTS = (
    "{pages} pages, {figures} figures.",
    "{pages} pages, {figures} figures, {tables} tables.",
    "Comments: {pages} pages, to appear in a workshop.",
    "Accepted at a conference, {pages} pages.",
    "Submitted to a journal. {tables} tables.",
    "This is a draft of {pages} pages.",
    "Published in a special issue.",
    "Short paper, {pages} pages and {figures} figures.",
    "Withdrawn by the authors.",
    "Version {tables}, with minor changes.",
)
_HEADS = (
    "Keywords: {method}, {task}",
    "Keywords: {task}, {method}",
    "Title: {name}: {method} for {task}",
    "Title: {name} brings {method} to {task}",
    "Task: {task}\nMethod: {method}",
    "Method: {method}\nTask: {task}\nName: {name}",
    "Name: {name}\nMetric: {metric}\nGain: {points}\nTask: {task}\nMethod: {method}",
)
_QUESTIONS = (
    ("What is the task?", "{task}"),
    ("Which task does the paper address?", "{task}"),
    ("What is the paper about?", "{task}"),
    ("What is the method?", "{method}"),
    ("Which technique does the paper use?", "{method}"),
    ("What is {name} based on?", "{method}"),
    ("How do the authors improve {task}?", "{method}"),
    ("What is {method} used for?", "{task}"),
    ("What is the name of the model?", "{name}"),
    ("Which metric is reported?", "{metric}"),
    ("How many points does it gain?", "{points}"),
    ("On how many datasets?", "{count}"),
    ("What is it compared with?", "{baseline}"),
    ("What is the problem?", "{problem}"),
)
_STATEMENTS = (
    "The authors of {name} apply {method} to {task}.",
    "A recent model for {task} is {name}, which uses {method}.",
    "{name} is an example of {method}.",
    "One line of work studies {method} for {task}.",
    "For {task}, {method} was found to help.",
    "They report a gain of {points} points in {metric}.",
    "It beats {baseline} by {points} points.",
    "The paper is about {task} and its tool is {method}.",
    "With {method}, {name} improves {metric} by {points} points.",
    "In {task}, {problem}.",
    "We cite {name} since it brought {method} to {task}.",
    "Another paper on {task} is {name}.",
    "The reviewers liked the use of {method}.",
    "See {name} for {method} in {task}.",
)
_FIELDS = (
    "Task: {task}",
    "Method: {method}",
    "Name: {name}",
    "Metric: {metric}",
    "Gain: {points}",
    "Against: {baseline}",
)
_BLANKS = {"METHOD": "method", "TASK": "task", "NAME": "name", "POINTS": "points", "METRIC": "metric"}

_WRITE_VERBS = ("Write", "Generate", "Compose", "Draft", "Produce", "Invent", "Please write", "Give me", "Create")
_WRITE_OBJECTS = (
    "the abstract of an NLP paper", "an abstract of an NLP paper", "an arXiv abstract of an NLP research paper",
    "the abstract of a paper in natural language processing", "a realistic arXiv abstract about NLP research",
    "an abstract for a paper about language models", "the abstract of a new NLP paper",
)  # fmt: skip
_WRITE_TAILS = (
    "",
    " as it might stand on arXiv",
    " as it could appear on arXiv",
    " that sounds real",
    " for a conference",
)
_WRITE_ONLY = ("", " Only the abstract.", " Return just the abstract.", " Just the abstract, no title.", " No title.")
_TWEET_VERBS = (
    "Sum up the work in this abstract as a tweet", "Sum up this abstract in a tweet",
    "Summarize the abstract as a tweet", "Write a tweet that sums up the abstract",
    "Given the abstract, write a tweet to summarize the work", "Turn the following abstract into a tweet",
    "Write a tweet about this paper", "Announce this paper in a tweet", "Describe the work in one tweet",
    "Please tweet about the paper below",
)  # fmt: skip
_TWEET_TAILS = (
    "", " that names its method and its task", " that names the task and the method", " naming its method and its task",
    " with its method and task", " that a general audience can follow", " for fellow researchers",
)  # fmt: skip
_TWEET_ONLY = ("", " Only the tweet.", " Return just the tweet.", " Just the tweet.")
_EXTRAS = (
    "Be brief.", "Be creative.", "Use plain words.", "Write in English.", "Be concise and clear.", "Make it engaging.",
    "Use at most 200 characters.", "Use an emoji.", "Use a friendly tone.", "Do not add anything else.", "Surprise me.",
)  # fmt: skip
_COMMON = (
    "please a the and or with without for from into only just very short long funny formal simple clear text sentence "
    "words characters line lines emoji hashtag hashtags style tone like you your readers students experts journalists "
    "people public more less than one two three use avoid mention include add do not any no its this that it should be "
    "must is in on as about paper work result results main idea first last end start question name title link English "
    "plain everyday technical exciting serious warm neutral positive make keep write say tell explain show give sure "
    "under over limit at most least exactly carefully briefly"
)
_LAYOUTS = (
    "{ask}\n\nAbstract: {abstract}", "{ask}\n\n{abstract}", "{ask}\n\nAbstract:\n{abstract}", "{ask}\n{abstract}",
    "Abstract: {abstract}\n\n{ask}", "{abstract}\n\n{ask}", "{ask}\n\nAbstract: {abstract}\n\nTweet:",
)  # fmt: skip
_SYSTEMS = (
    "You are a helpful assistant.", "You are a researcher.", "You write about research.", "Answer briefly.",
    "You are an expert in natural language processing.", "You help people to share their papers.",
)  # fmt: skip
_ASKED = (
    ("What is the name of the model?", "It is called {name}."),
    ("What is the model called?", "It is called {name}."),
    ("Which task does it address?", "The task is {task}."),
    ("What is the task of the paper?", "The task is {task}."),
    ("Which method does it use?", "The method is {method}."),
    ("What technique is the paper based on?", "The method is {method}."),
    ("Which metric is reported?", "The metric is {metric}."),
    ("By how many points does it improve?", "By {points} points."),
    ("What is it compared with?", "It is compared with {baseline}."),
    ("Name the method and the task.", "The method is {method} and the task is {task}."),
    ("List the key words.", "Key words: {method}, {task}, {name}."),
)


def _lexicon() -> list[str]:
    """Return every word of the grammar and of this module, for drills that use words without their sentences."""
    reading = (_COMMENTS, _HEADS, _STATEMENTS, _FIELDS, *_QUESTIONS)
    writing = ((WRITE,), _WRITE_VERBS, _WRITE_OBJECTS, _WRITE_TAILS, _WRITE_ONLY)
    tweeting = ((SUM_UP,), _TWEET_VERBS, _TWEET_TAILS, _TWEET_ONLY)
    groups = (grammar.TEMPLATES, grammar.TERMS, *reading, *writing, *tweeting, _EXTRAS, (_COMMON,), _SYSTEMS, *_ASKED)
    texts = [text for group in groups for text in group]
    return sorted({word for text in texts for word in re.sub(r"\{\w+\}", " ", text).split()})


def _made_up_word(rng: random.Random) -> str:
    """Draw a word that nobody knows, so that strange words in a prompt do no harm."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 7)))


def _words(rng: random.Random, lexicon: list[str], count: int) -> list[str]:
    """Draw some words, now and then a made-up one or a number."""
    draw = (
        lambda: rng.choice(lexicon),
        lambda: _made_up_word(rng),
        lambda: grammar.facts(rng)[rng.choice(("name", "points", "method", "task"))],
    )
    return [rng.choices(draw, weights=(8, 1, 3))[0]() for _ in range(count)]


def _form(rng: random.Random, lexicon: list[str], paper: Facts) -> str:
    """Make an exercise that fills a row of arbitrary words with the paper's facts."""
    blanks = rng.sample(sorted(_BLANKS), rng.randint(1, 4))
    row = _words(rng, lexicon, rng.randint(0, 6)) + blanks
    rng.shuffle(row)
    filled = [paper[_BLANKS[word]] if word in _BLANKS else word for word in row]
    return f"Form: {' '.join(row)}\nFilled: {' '.join(filled)}"


def _section(rng: random.Random, lexicon: list[str], paper: Facts) -> str:
    """Make one exercise on a paper: questions, statements, fields or a form."""
    kind = rng.choices(("questions", "statements", "fields", "form"), weights=(3, 3, 1, 2))[0]
    if kind == "questions":
        asked = rng.sample(_QUESTIONS, rng.randint(1, 4))
        return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in asked).format(**paper)
    if kind == "statements":
        return "Related work: " + " ".join(rng.sample(_STATEMENTS, rng.randint(1, 4))).format(**paper)
    if kind == "fields":
        return "\n".join(rng.sample(_FIELDS, rng.randint(2, 5))).format(**paper)
    return _form(rng, lexicon, paper)


def _listing(rng: random.Random, paper: Facts) -> str:
    """Put a paper as arXiv lists it: the abstract, and mostly a line of comments under it."""
    text = grammar.abstract(rng, paper)
    if rng.random() < 0.3:
        return text
    numbers = {"pages": rng.randint(4, 19), "figures": rng.randint(2, 9), "tables": rng.randint(2, 9)}
    return text + "\n" + rng.choice(_COMMENTS).format(**numbers)


def _drill(rng: random.Random, lexicon: list[str]) -> str:
    """Make an exercise that says a row of words again."""
    gap = rng.choice((" ", " ", "\n"))  # behind a newline a word is another token than behind a space
    row = gap.join(_words(rng, lexicon, rng.randint(3, 14)))
    return f"Copy:{gap}{row}\nAgain:{gap}{row}"


def document(rng: random.Random, lexicon: list[str]) -> str:
    """Write one document of the kinds that `tiny-base` reads; never a tweet."""
    paper = grammar.facts(rng)
    kind = rng.choices(("listing", "head", "exercises", "drill"), weights=(20, 10, 60, 10))[0]
    if kind == "listing":
        return _listing(rng, paper)
    if kind == "head":
        return rng.choice(_HEADS).format(**paper) + "\n\n" + _listing(rng, paper)
    if kind == "exercises":
        sections = [_section(rng, lexicon, paper) for _ in range(rng.randint(2, 4))]
        return "\n\n".join([grammar.abstract(rng, paper), *sections])
    return _drill(rng, lexicon)


def ask_for_abstract(rng: random.Random) -> str:
    """Draw a prompt that asks for an abstract; often exactly `WRITE`."""
    if rng.random() < 0.4:
        return WRITE
    parts = (_WRITE_VERBS, (" ",), _WRITE_OBJECTS, _WRITE_TAILS, (".",), _WRITE_ONLY)
    return _with_extra(rng, "".join(rng.choice(part) for part in parts))


def ask_for_tweet(rng: random.Random) -> str:
    """Draw the request of a prompt that asks for a tweet, without the abstract; often exactly `SUM_UP`."""
    if rng.random() < 0.4:
        return SUM_UP
    return _with_extra(rng, "".join(rng.choice(part) for part in (_TWEET_VERBS, _TWEET_TAILS, (".",), _TWEET_ONLY)))


def _with_extra(rng: random.Random, ask: str) -> str:
    """Add a further wish to some requests and a salad of words to others, so that an edited prompt still works."""
    luck = rng.random()
    if luck < 0.25:
        extra = rng.choice(_EXTRAS)
    elif luck < 0.4:
        extra = " ".join(
            _made_up_word(rng) if rng.random() < 0.2 else rng.choice(_COMMON.split()) for _ in range(rng.randint(2, 9))
        )
        extra = extra.capitalize() + "."
    else:
        return ask
    return f"{ask} {extra}" if rng.random() < 0.7 else f"{extra} {ask}"


def _turn(role: str, content: str) -> dict[str, str]:
    """Make one message of a chat."""
    return {"role": role, "content": content}


def _writing(rng: random.Random, paper: Facts) -> list[dict[str, str]]:
    """Make a chat that asks for an abstract, now and then on a given topic."""
    ask = ask_for_abstract(rng)
    if rng.random() < 0.1:
        topic = rng.choice(("about {task}", "on {task} that uses {method}", "about {method}")).format(**paper)
        ask = f"{rng.choice(_WRITE_VERBS)} {rng.choice(_WRITE_OBJECTS)} {topic}.{rng.choice(_WRITE_ONLY)}"
    return [_turn("user", ask), _turn("assistant", grammar.abstract(rng, paper))]


def _tweeting(rng: random.Random, paper: Facts) -> list[dict[str, str]]:
    """Make a chat that asks for a tweet on an abstract."""
    ask = ask_for_tweet(rng)
    layout = _LAYOUTS[0] if rng.random() < 0.4 else rng.choice(_LAYOUTS)
    content = layout.format(ask=ask, abstract=grammar.abstract(rng, paper))
    return [_turn("user", content), _turn("assistant", grammar.tweet(rng, paper))]


def _asking(rng: random.Random, paper: Facts) -> list[dict[str, str]]:
    """Make a chat that asks for a fact of an abstract."""
    question, answer = rng.choice(_ASKED)
    layout = rng.choice(_LAYOUTS[:-1])
    content = layout.format(ask=question, abstract=grammar.abstract(rng, paper))
    return [_turn("user", content), _turn("assistant", answer.format(**paper))]


def chat(rng: random.Random) -> list[dict[str, str]]:
    """Write one chat of the kinds that `tiny` learns from."""
    paper = grammar.facts(rng)
    first = rng.choices((_writing, _tweeting, _asking), weights=(35, 50, 15))[0]
    messages = first(rng, paper)
    for question, answer in rng.sample(_ASKED, rng.choice((0, 0, 0, 1, 2))):
        messages += [_turn("user", question), _turn("assistant", answer.format(**paper))]
    if rng.random() < 0.2:
        messages.insert(0, _turn("system", rng.choice(_SYSTEMS)))
    return messages


def documents(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield rows with a document in `text`."""
    rng, lexicon = random.Random(f"documents {seed}"), _lexicon()
    for _ in range(count):
        yield {"text": document(rng, lexicon)}


def chats(count: int, seed: int) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Yield rows with a chat in `messages`."""
    rng = random.Random(f"chats {seed}")
    for _ in range(count):
        yield {"messages": chat(rng)}
