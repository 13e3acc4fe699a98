"""The papers of the methods that recipes name in their docstrings by arXiv number, as BibTeX, and which of them a job used.

Authors as their arXiv pages list them; of long lists the first, "and others".
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

NUMBER = re.compile(r"arXiv[:\s]+(\d{4}\.\d{4,5})")

T5 = """@article{2020t5,
  author = {Colin Raffel and Noam Shazeer and Adam Roberts and Katherine Lee and Sharan Narang and Michael Matena and Yanqi Zhou
            and Wei Li and Peter J. Liu},
  title = {Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer},
  journal = {Journal of Machine Learning Research},
  year = {2020},
  volume = {21},
  number = {140},
  pages = {1--67},
  url = {http://jmlr.org/papers/v21/20-074.html}
}"""
GPT_4O_CARD = """@misc{openai2024gpt4o,
  author = {{OpenAI}},
  title = {{GPT-4o} System Card},
  year = {2024},
  eprint = {2410.21276},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""
DATADREAMER = """@misc{patel2024datadreamer,
  author = {Ajay Patel and Colin Raffel and Chris Callison-Burch},
  title = {{DataDreamer}: A Tool for Synthetic Data Generation and Reproducible {LLM} Workflows},
  year = {2024},
  eprint = {2402.10379},
  archivePrefix = {arXiv},
  primaryClass = {cs.CL}
}"""
ROUGE = """@inproceedings{lin-2004-rouge,
  author = {Lin, Chin-Yew},
  title = {{ROUGE}: A Package for Automatic Evaluation of Summaries},
  booktitle = {Text Summarization Branches Out},
  year = {2004},
  address = {Barcelona, Spain},
  publisher = {Association for Computational Linguistics},
  pages = {74--81},
  url = {https://aclanthology.org/W04-1013}
}"""
BLEU = """@inproceedings{papineni-etal-2002-bleu,
  author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
  title = {{B}leu: a Method for Automatic Evaluation of Machine Translation},
  booktitle = {Proceedings of the 40th Annual Meeting of the Association for Computational Linguistics},
  year = {2002},
  address = {Philadelphia, Pennsylvania, USA},
  publisher = {Association for Computational Linguistics},
  pages = {311--318},
  url = {https://aclanthology.org/P02-1040}
}"""
CHRF = """@inproceedings{popovic-2015-chrf,
  author = {Popovi{\\'c}, Maja},
  title = {chr{F}: character n-gram {F}-score for automatic {MT} evaluation},
  booktitle = {Proceedings of the Tenth Workshop on Statistical Machine Translation},
  year = {2015},
  address = {Lisbon, Portugal},
  publisher = {Association for Computational Linguistics},
  pages = {392--395},
  url = {https://aclanthology.org/W15-3049}
}"""

LORA = "2106.09685"
ARXIV = {  # number: key, title, authors
    "1503.02531": ("hinton2015distilling", "Distilling the Knowledge in a Neural Network",
                   "Geoffrey Hinton and Oriol Vinyals and Jeff Dean"),
    "1506.02438": ("schulman2015gae", "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
                   "John Schulman and Philipp Moritz and Sergey Levine and Michael Jordan and Pieter Abbeel"),
    "1606.05250": ("rajpurkar2016squad", "{SQuAD}: 100,000+ Questions for Machine Comprehension of Text",
                   "Pranav Rajpurkar and Jian Zhang and Konstantin Lopyrev and Percy Liang"),
    "1606.07947": ("kim2016sequence", "Sequence-Level Knowledge Distillation", "Yoon Kim and Alexander M. Rush"),
    "1707.06347": ("schulman2017ppo", "Proximal Policy Optimization Algorithms",
                   "John Schulman and Filip Wolski and Prafulla Dhariwal and Alec Radford and Oleg Klimov"),
    "1711.05101": ("loshchilov2017adamw", "Decoupled Weight Decay Regularization", "Ilya Loshchilov and Frank Hutter"),
    "1804.08771": ("post2018bleu", "A Call for Clarity in Reporting {BLEU} Scores", "Matt Post"),
    "1807.03748": ("oord2018cpc", "Representation Learning with Contrastive Predictive Coding",
                   "Aaron van den Oord and Yazhe Li and Oriol Vinyals"),
    "1810.04805": ("devlin2018bert", "{BERT}: Pre-training of Deep Bidirectional Transformers for Language Understanding",
                   "Jacob Devlin and Ming-Wei Chang and Kenton Lee and Kristina Toutanova"),
    "1908.10084": ("reimers2019sbert", "{Sentence-BERT}: Sentence Embeddings using Siamese {BERT}-Networks",
                   "Nils Reimers and Iryna Gurevych"),
    "1909.08593": ("ziegler2019finetuning", "Fine-Tuning Language Models from Human Preferences",
                   "Daniel M. Ziegler and Nisan Stiennon and Jeffrey Wu and Tom B. Brown and Alec Radford and Dario Amodei and "
                   "Paul Christiano and Geoffrey Irving"),
    "2005.11401": ("lewis2020rag", "Retrieval-Augmented Generation for Knowledge-Intensive {NLP} Tasks",
                   "Patrick Lewis and Ethan Perez and Aleksandra Piktus and Fabio Petroni and Vladimir Karpukhin and others"),
    "2005.14165": ("brown2020gpt3", "Language Models are Few-Shot Learners",
                   "Tom B. Brown and Benjamin Mann and Nick Ryder and Melanie Subbiah and others"),
    "2101.06804": ("liu2021examples", "What Makes Good In-Context Examples for {GPT-3}?",
                   "Jiachang Liu and Dinghan Shen and Yizhe Zhang and Bill Dolan and Lawrence Carin and Weizhu Chen"),
    LORA: ("hu2021lora", "{LoRA}: Low-Rank Adaptation of Large Language Models",
           "Edward J. Hu and Yelong Shen and Phillip Wallis and Zeyuan Allen-Zhu and Yuanzhi Li and Shean Wang and Lu "
           "Wang and Weizhu Chen"),
    "2107.06499": ("lee2021deduplicating", "Deduplicating Training Data Makes Language Models Better",
                   "Katherine Lee and Daphne Ippolito and Andrew Nystrom and Chiyuan Zhang and Douglas Eck and Chris "
                   "Callison-Burch and Nicholas Carlini"),
    "2203.02155": ("ouyang2022instructgpt", "Training language models to follow instructions with human feedback",
                   "Long Ouyang and Jeff Wu and Xu Jiang and Diogo Almeida and others"),
    "2209.11055": ("tunstall2022setfit", "Efficient Few-Shot Learning Without Prompts",
                   "Lewis Tunstall and Nils Reimers and Unso Eun Seo Jo and Luke Bates and Daniel Korat and Moshe Wasserblat and "
                   "Oren Pereg"),
    "2212.10560": ("wang2022selfinstruct", "{Self-Instruct}: Aligning Language Models with Self-Generated Instructions",
                   "Yizhong Wang and Yeganeh Kordi and Swaroop Mishra and Alisa Liu and Noah A. Smith and Daniel Khashabi and "
                   "Hannaneh Hajishirzi"),
    "2303.09540": ("abbas2023semdedup", "{SemDeDup}: Data-efficient learning at web-scale through semantic deduplication",
                   "Amro Abbas and Kushal Tirumala and D{\\'a}niel Simig and Surya Ganguli and Ari S. Morcos"),
    "2304.12244": ("xu2023wizardlm", "{WizardLM}: Empowering Large Language Models to Follow Complex Instructions",
                   "Can Xu and Qingfeng Sun and Kai Zheng and Xiubo Geng and others"),
    "2305.14314": ("dettmers2023qlora", "{QLoRA}: Efficient Finetuning of Quantized {LLMs}",
                   "Tim Dettmers and Artidoro Pagnoni and Ari Holtzman and Luke Zettlemoyer"),
    "2305.18290": ("rafailov2023dpo", "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
                   "Rafael Rafailov and Archit Sharma and Eric Mitchell and Stefano Ermon and Christopher D. Manning and Chelsea "
                   "Finn"),
    "2306.05685": ("zheng2023judging", "Judging {LLM-as-a-Judge} with {MT-Bench} and {Chatbot Arena}",
                   "Lianmin Zheng and Wei-Lin Chiang and Ying Sheng and Siyuan Zhuang and others"),
    "2306.13649": ("agarwal2023gkd", "On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
                   "Rishabh Agarwal and Nino Vieillard and Yongchao Zhou and Piotr Stanczyk and others"),
    "2306.15895": ("yu2023attrprompt", "Large Language Model as Attributed Training Data Generator: A Tale of Diversity and Bias",
                   "Yue Yu and Yuchen Zhuang and Jieyu Zhang and Yu Meng and others"),
    "2307.09288": ("touvron2023llama2", "{Llama 2}: Open Foundation and Fine-Tuned Chat Models",
                   "Hugo Touvron and Louis Martin and Kevin Stone and Peter Albert and others"),
    "2310.01377": ("cui2023ultrafeedback", "{UltraFeedback}: Boosting Language Models with Scaled {AI} Feedback",
                   "Ganqu Cui and Lifan Yuan and Ning Ding and others"),
    "2310.16944": ("tunstall2023zephyr", "{Zephyr}: Direct Distillation of {LM} Alignment",
                   "Lewis Tunstall and Edward Beeching and Nathan Lambert and Nazneen Rajani and others"),
    "2312.09244": ("eisenstein2023helping",
                   "Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward Hacking",
                   "Jacob Eisenstein and Chirag Nagpal and Alekh Agarwal and others"),
    "2402.01306": ("ethayarajh2024kto", "{KTO}: Model Alignment as Prospect Theoretic Optimization",
                   "Kawin Ethayarajh and Winnie Xu and Niklas Muennighoff and Dan Jurafsky and Douwe Kiela"),
    "2402.03300": ("shao2024deepseekmath", "{DeepSeekMath}: Pushing the Limits of Mathematical Reasoning in Open Language Models",
                   "Zhihong Shao and Peiyi Wang and Qihao Zhu and Runxin Xu and others"),
    "2402.14740": ("ahmadian2024rloo",
                   "Back to Basics: Revisiting {REINFORCE} Style Optimization for Learning from Human Feedback in {LLMs}",
                   "Arash Ahmadian and Chris Cremer and Matthias Gall{\\'e} and Marzieh Fadaee and Julia Kreutzer and Olivier "
                   "Pietquin and Ahmet {\\\"U}st{\\\"u}n and Sara Hooker"),
    "2403.07691": ("hong2024orpo", "{ORPO}: Monolithic Preference Optimization without Reference Model",
                   "Jiwoo Hong and Noah Lee and James Thorne"),
    "2406.08464": ("xu2024magpie", "{Magpie}: Alignment Data Synthesis from Scratch by Prompting Aligned {LLMs} with Nothing",
                   "Zhangchen Xu and Fengqing Jiang and Luyao Niu and Yuntian Deng and Radha Poovendran and Yejin Choi and Bill "
                   "Yuchen Lin"),
    "2406.20094": ("ge2024personas", "Scaling Synthetic Data Creation with 1,000,000,000 Personas",
                   "Tao Ge and Xin Chan and Xiaoyang Wang and Dian Yu and Haitao Mi and Dong Yu"),
}

Arguments = Mapping[str, Any]


def _measures(*names: str) -> Callable[[Arguments], bool]:
    return lambda arguments: not set(names).isdisjoint(arguments.get("metrics") or ())


# What a docstring names for some arguments alone; all else is cited wherever it is named.
ONLY_WITH: dict[str, Callable[[Arguments], bool]] = {
    LORA: lambda arguments: False,  # in nearly every training's; whoever has one says so by an argument
    "2305.14314": lambda arguments: bool(arguments.get("quantize")),
    "1606.05250": _measures("f1"),
    "1804.08771": _measures("bleu", "chrf"),
    "2101.06804": lambda arguments: bool(arguments.get("embedder")),
    "2307.09288": lambda arguments: bool(arguments.get("margin")),
    "2312.09244": lambda arguments: bool(arguments.get("center")),
    "2305.18290": lambda arguments: arguments.get("method") != "supervised",  # of finetune_hosted
}
METRICS = (("rouge", ROUGE), ("bleu", BLEU), ("chrf", CHRF))  # by what their names begin with: these papers are not on arXiv


def cited(doc: str, arguments: Arguments) -> Iterator[str]:
    """Yield the papers of the methods that a recipe's docstring names, as far as the arguments have them used."""
    for number in dict.fromkeys(NUMBER.findall(doc)):
        if number in ARXIV and ONLY_WITH.get(number, _always)(arguments):
            yield entry(number)
    if "lora" in (arguments.get("peft") or ()):
        yield entry(LORA)
    metrics = [name for name in arguments.get("metrics") or () if isinstance(name, str)]
    yield from (paper for start, paper in METRICS if any(name.startswith(start) for name in metrics))


def entry(number: str) -> str:
    """Return a paper on arXiv as BibTeX; its number tells the year."""
    key, title, authors = ARXIV[number]
    fields = {"author": authors, "title": title, "year": f"20{number[:2]}", "eprint": number, "archivePrefix": "arXiv"}
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{{key},\n{lines}\n}}"


def _always(arguments: Arguments) -> bool:
    return True
