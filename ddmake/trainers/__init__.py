"""One training technique a file: `causal` (TRL's SFTTrainer), `seq2seq` (transformers' Seq2SeqTrainer), `dpo`, `kto` and `reward`
(TRL's trainers of these names), `orpo`. What those that learn from preferences share is in `preference`.

All share `common`: settings, tokens of rows that trainings find again (`tokens`, `packing`), checkpoints, the weights of the best
evaluation (`best`), what is watched (`watching`), a base in fewer bits (`quantizing`), `trackers`, what tells them
(`tracking`), `samples`. `merging` makes an adapter and its base one.

`launch` runs any of them in one process or in many, `ranks` has what a trainer does as one of several, `warm` lets one process
train more than once. `pausing` breaks one off that is `warned`, before its time on a machine is over, `claims` has whose its
checkpoints are.

Each has one function, `train(rows, validation, settings, output, checkpoints, progress)`, which returns the metrics.
"""
