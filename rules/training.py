"""Fine-tuning of models on rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ddmake import train
from ddmake.ddfile.inputs import Free, Model, Progress, Prompt
from ddmake.ddfile.specs import Lora
from ddmake.errors import DdfileError, DdmakeError, did_you_mean
from ddmake.rules.chats import chat
from ddmake.rules.learning import (
    Bits,
    Count,
    Flag,
    OnChange,
    Trackers,
    TrainParts,
    Whether,
    check,
    columns_of,
    named_parts,
    need_packages,
    settings,
    text,
)

RATES = {  # of causal models, and of encoder-decoders: the learning rate unless one is given, of all weights, with an adapter
    False: (2e-5, 2e-4),  # as TRL's SFT, and as QLoRA (Dettmers et al. 2023)
    True: (3e-4, 1e-3),  # T5 with AdamW, as transformers' documentation has it, and as peft's examples
}


def _learned(inputs: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Check that the training rows have the columns that are learned from, where their columns are known."""
    check(inputs, arguments)
    columns = columns_of(inputs["parts"])
    prompt, messages = arguments["prompt"], arguments["messages"]
    if messages and (prompt or arguments["completion"] != "completion"):
        raise DdfileError("finetune learns from messages=, or from prompt= and completion=, not from both.")
    if prompt is not None:
        prompt.need(columns)
    needed = [messages] if messages else [arguments["completion"]] if prompt else ["prompt", arguments["completion"]]
    for name in needed:
        if columns is not None and name not in columns:
            has = f"There are: {', '.join(columns)}.{did_you_mean(name, columns)}"
            raise DdfileError(f"there is no column {name!r} to learn. {has}")


@train(version="4", columns=_learned)
def finetune(parts: TrainParts, *, base: Model, peft: Lora | None = None, prompt: Prompt | None = None,
             completion: str = "completion", messages: str | None = None, epochs: float = 3.0, batch_size: int = 8,
             micro_batch: Annotated[int | None, Free] = None, learning_rate: float | None = None, warmup: float = 0.03,
             schedule: str = "linear", weight_decay: float = 0.0, max_grad_norm: float = 1.0, max_length: int = 1024,
             dtype: str | None = None, revision: str | None = None, separator: str = "\n", seed: int = 0,
             packing: bool = False, quantize: Bits | None = None, best: bool = False, patience: int | None = None,
             evaluate_every: int | None = None, deterministic: bool = False, gradient_checkpointing: Whether = None,
             trackers: Trackers = (), processes: Count = None, sharded: Flag = False, on_change: OnChange = "mark",
             output: Path, checkpoints: Path, progress: Progress) -> None:
    """Fine-tune a language model to write each row's completion after its prompt.

    Supervised fine-tuning with AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101). The loss is taken on the
    completion alone, and on the token that ends it. With `peft=lora(…)` the base is left as it is and a low-rank
    adapter is learned beside it (Hu et al. 2021, arXiv 2106.09685). Causal models are trained by TRL's SFTTrainer,
    encoder-decoders such as T5 by transformers' Seq2SeqTrainer. A base with a chat template learns user and assistant
    turns; one without learns plain text: prompt, separator, completion. A validation set only draws a curve, unless the
    best weights are kept by it.
    """
    arguments = locals()
    need_packages("finetune", peft, "trl")
    from ddmake.backends.models import is_encoder_decoder
    from ddmake.trainers import causal, seq2seq
    from ddmake.trainers.common import Settings
    from ddmake.trainers.launch import launch

    encoder_decoder = is_encoder_decoder(base, revision)
    made_of = settings(Settings, arguments, RATES[encoder_decoder])
    shown = {part: examples(rows, prompt, completion, messages) for part, rows in named_parts(parts).items()}
    if packing and encoder_decoder:
        raise DdmakeError(f"finetune: packing= is of causal models, and base {made_of.base_name} is an encoder-decoder. "
                          "Leave it out.")
    trainer = seq2seq if encoder_decoder else causal
    launch(trainer.train, shown["train"], shown.get("validation"), made_of, output, checkpoints, progress)


def examples(rows: Any, prompt: Any, completion: str, messages: str | None, recipe: str = "finetune") -> Any:
    """Return a Dataset of `messages`, or of `prompt` (messages) and `completion` (text), for the rows that have them.

    Rows with a null, as a failed answer leaves one, are left out with a printed line. Raises DdmakeError where a
    column isn't there or no row is left.
    """
    from datasets import Dataset

    needed = [messages] if messages else [completion] if prompt else ["prompt", completion]
    for name in needed:
        if name not in rows.column_names:
            raise DdmakeError(f"{recipe}: there is no column {name!r}. Columns: {', '.join(rows.column_names)}."
                              f"{did_you_mean(name, rows.column_names)}")
    whole = [(number, row) for number, row in enumerate(rows) if all(row[name] is not None for name in needed)]
    if len(whole) < len(rows):
        print(f"{recipe}: {len(rows) - len(whole)} of {len(rows)} rows left out: null in {', '.join(needed)}", flush=True)
    if not whole:
        raise DdmakeError(f"{recipe}: no row to train on; {len(rows)} given.")
    return Dataset.from_list([example(row, prompt, completion, messages, f"{recipe}: row {number}:") for number, row in whole])


def example(row: Mapping[str, Any], prompt: Any, completion: str, messages: str | None, where: str) -> dict[str, Any]:
    """Return one row as an example. Raises DdmakeError, which begins with where it stands, for what can't be learned."""
    if messages:
        return {"messages": chat(row[messages], f"{where} column {messages!r}")}
    turns = prompt.messages(**row) if prompt else ({"role": "user", "content": text(row["prompt"], f"{where} column 'prompt'")},)
    return {"prompt": [dict(turn) for turn in turns], "completion": text(row[completion], f"{where} column {completion!r}")}
