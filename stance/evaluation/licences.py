"""The licence of an adapter follows its base: what the Hub calls it, and what it asks of whoever
passes an adapter on.

By the names of the published bases. As read in November 2026; no legal advice.
"""

import re
from typing import NamedTuple

from stance.common import formatting

# ---------------------------------------------------------------- settings
NOTICE_FILE = "Notice.txt"  # beside the adapter, where the terms of the base ask for one
COPY_FILES = "LICENSE*"  # beside the adapter: a copy of the terms, which its owner adds
# --------------------------------------------------------------------------


class Licence(NamedTuple):
    """What a model card says about the licence of an adapter."""

    identifier: str  # of the Hub's list; "other" with name and link
    name: str
    link: str
    notice: str | None = None  # text of NOTICE_FILE; None where no notice is asked for
    duties: str = ""  # what else the terms ask of whoever passes the adapter on
    prefix: str = ""  # with which its name has to begin


GEMMA = Licence(
    "gemma",
    "Gemma Terms of Use",
    "https://ai.google.dev/gemma/terms",
    notice=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms\n"
    ),
    duties=(
        "This adapter is a Model Derivative of Gemma, made by fine-tuning: its weights are not those that Google "
        "published. It must not be used for what the "
        "[Gemma Prohibited Use Policy](https://ai.google.dev/gemma/prohibited_use_policy) restricts (section 3.2 of "
        "the terms). Whoever passes it on passes these restrictions on as an enforceable provision, together with a "
        f"copy of the terms and the file `{NOTICE_FILE}` (section 3.1)."
    ),
)
APACHE = Licence("apache-2.0", "Apache 2.0", "https://www.apache.org/licenses/LICENSE-2.0")


def make_llama(version: str, built_with: str = "Llama", name: str | None = None) -> Licence:
    """Return the community licence of a Llama: version as "3.2"; name: as its notice has it."""
    name = name or f"Llama {version}"
    folder = version.replace(".", "_")
    policy = f"https://www.llama.com/llama{folder}/use-policy"
    return Licence(
        f"llama{version}",
        f"{name} Community License",
        f"https://www.llama.com/llama{folder}/license",
        notice=(
            f"{name} is licensed under the {name} Community License, "
            "Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
        ),
        duties=(
            f"**Built with {built_with}.** Its [Acceptable Use Policy]({policy}) applies. Whoever passes the adapter "
            f"on adds a copy of the licence and the file `{NOTICE_FILE}`, shows “Built with {built_with}”, and gives "
            "it a name that begins with Llama (section 1.b)."
        ),
        prefix="Llama",
    )


def make_other(name: str, base: str) -> Licence:
    """Return a licence that is none of the Hub's list, as the repository of a base has it."""
    return Licence("other", name, f"https://huggingface.co/{base}/blob/main/LICENSE")


# Bases of the Hub by the start of their names, the first that fits; None: to be looked up.
LICENCES = (
    (r"google/gemma-2-", GEMMA),
    (r"meta-llama/(Meta-)?Llama-3\.3-", make_llama("3.3")),
    (r"meta-llama/(Meta-)?Llama-3\.2-", make_llama("3.2")),
    (r"meta-llama/(Meta-)?Llama-3\.1-", make_llama("3.1")),
    (r"meta-llama/Meta-Llama-3-", make_llama("3", "Meta Llama 3", "Meta Llama 3")),
    (r"Qwen/Qwen2\.5-3B", make_other("qwen-research", "Qwen/Qwen2.5-3B-Instruct")),
    (r"Qwen/Qwen2\.5-72B", make_other("qwen", "Qwen/Qwen2.5-72B-Instruct")),
    (r"Qwen/Qwen2-72B", make_other("tongyi-qianwen", "Qwen/Qwen2-72B-Instruct")),
    (r"Qwen/Qwen(2|2\.5|3)-", APACHE),
    (r"mistralai/Mistral-(7B|Nemo|Small-24B|Small-3)", APACHE),
    (r"HuggingFaceTB/SmolLM", APACHE),
)


def find_licence(base: str) -> Licence | None:
    """Return the licence of adapters of a base of the Hub; None where its page has to be asked.

    That is so for bases that others trained further, and for folders.
    """
    for pattern, licence in LICENCES:
        if re.match(pattern, base):
            return licence
    return None


def describe_licence(base: str, licence: Licence | None) -> str:
    """Return what a model card says about the licence of an adapter of a base."""
    if licence is None:
        return (
            f"The licence of an adapter follows that of its base: look it up where "
            f"{formatting.format_code(base)} was published, before you pass this adapter on."
        )
    text = f"Under the licence of its base, the [{licence.name}]({licence.link})."
    return f"{text} {licence.duties}".strip()
