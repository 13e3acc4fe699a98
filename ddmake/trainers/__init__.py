"""One training technique a file: `causal` (TRL's SFTTrainer), `seq2seq` (transformers' Seq2SeqTrainer).

Each has one function, `train(rows, validation, settings, output, checkpoints, progress)`, which returns the metrics.
"""
