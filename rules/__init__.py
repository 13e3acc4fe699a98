"""The recipe library: recipes that Ddfiles call by name.

Each is a plain function and can be read as an example of how to write one's own.
"""

from ddmake.rules.aligning import dpo, kto, orpo, reward_model
from ddmake.rules.attributes import attributed
from ddmake.rules.classifying import classify
from ddmake.rules.comparing import agreement, win_rate
from ddmake.rules.data import concat, copy, split, zipped
from ddmake.rules.distilling import distill
from ddmake.rules.documents import chunks, documents
from ddmake.rules.duplicates import decontaminate, dedupe, dedupe_similar
from ddmake.rules.embedding import train_embedder
from ddmake.rules.evaluation import evaluate
from ddmake.rules.evolving import evol_instruct
from ddmake.rules.examples import few_shot
from ddmake.rules.feedback import binarize, rate_together
from ddmake.rules.filtering import keep_if, rank
from ddmake.rules.hosted import finetune_hosted
from ddmake.rules.hub import hub
from ddmake.rules.instructions import self_instruct
from ddmake.rules.judging import judge, judge_pairs, preferences, rate
from ddmake.rules.labelling import few_shot_classifier, train_classifier
from ddmake.rules.magpie import magpie
from ddmake.rules.merging import merge
from ddmake.rules.personas import personas, related_personas, sampled
from ddmake.rules.pipelines import ultrafeedback
from ddmake.rules.prompting import generate, transform
from ddmake.rules.publishing import publish
from ddmake.rules.questions import faithful, questions
from ddmake.rules.rag import rag
from ddmake.rules.ranking import evaluate_retrieval
from ddmake.rules.reinforcing import grpo, ppo, rloo
from ddmake.rules.results import choose, table
from ddmake.rules.retrieval import cosine_similarity, embed, retrieve
from ddmake.rules.rewarding import best_of, score
from ddmake.rules.shell import shell
from ddmake.rules.sources import csv, json, jsonl, parquet, rows, saved, text
from ddmake.rules.training import finetune

__all__ = ["agreement", "attributed", "best_of", "binarize", "choose", "chunks", "classify", "concat", "copy",
           "cosine_similarity", "csv", "decontaminate", "dedupe", "dedupe_similar", "distill", "documents", "dpo",
           "embed", "evaluate", "evaluate_retrieval", "evol_instruct", "faithful", "few_shot", "few_shot_classifier",
           "finetune", "finetune_hosted", "generate", "grpo", "hub", "json", "jsonl", "judge", "judge_pairs",
           "keep_if", "kto", "magpie", "merge", "orpo", "parquet", "personas", "ppo", "preferences", "publish", "questions",
           "rag", "rank", "rate", "rate_together", "related_personas", "retrieve", "reward_model", "rloo", "rows",
           "sampled", "saved", "score", "self_instruct", "shell", "split", "table", "text", "train_classifier",
           "train_embedder", "transform", "ultrafeedback", "win_rate", "zipped"]
