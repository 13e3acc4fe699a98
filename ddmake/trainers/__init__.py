"""One training technique a file: `causal` (TRL's SFTTrainer), `seq2seq` (transformers' Seq2SeqTrainer), `dpo`, `kto` and `reward`
(TRL's trainers of these names), `orpo`. What those that learn from preferences share is in `preference`.

Each has one function, `train(rows, validation, settings, output, checkpoints, progress)`, which returns the metrics.
"""
