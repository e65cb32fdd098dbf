"""Annotated dialogues from files: three public data forms, checked, normalised and merged into turns."""

from examples.aflow_esc.corpora.corpus import MergeLabel, SupportCorpus, load_corpus, load_for, relabel

__all__ = ["MergeLabel", "SupportCorpus", "load_corpus", "load_for", "relabel"]
