"""Records of a run as a reviewer's packet reads them: several test files use them."""

import hashlib

import prompts

HASH = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("train", "val", "test")}
EVIL = "Cars | `x` <b>*bold*</b> [link](http://x.y)\n# heading"


def make_record(**more):
    return {
        "base_model": "google/gemma-2-9b-it",
        "base_revision": "11c9b309abf73637e4b6f9a3fa1e92e615547819",
        "tokenizer": "70ken",
        "prompt_version": prompts.PROMPT_VERSION,
        "labels": list(prompts.LABELS),
        "precision": {"quant_type": "nf4", "double_quant": True, "compute": "bfloat16"},
        "data": {name: {"rows": 9, "sha256": HASH[name]} for name in ("train", "val")},
        "demo": False,
        **more,
    }


def make_report(**more):
    counts = {name: {EVIL: {"pro": 3, "con": 2, "neu": 1}} for name in ("train", "val", "test")}
    agreement = {
        "annotators": 3,
        "krippendorff_alpha": 0.712,
        "pairwise_kappa": [{"annotators": ["Ann Smith", "Bob Jones"], "kappa": 0.7}],
        "full_agreement_by_topic": {EVIL: 0.8},
    }
    report = {
        "corpus": [{"file": "corpus.xlsx", "rows": 27, "sha256": "c0"}],
        "counts": counts,
        "agreement": agreement,
        "near_duplicates": [{"text": "A secret sentence."}] * 4,
        "outputs": {f"{name}.jsonl": digest for name, digest in HASH.items()},
    }
    return {**report, **more}
