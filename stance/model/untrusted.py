"""What files of strangers let this computer compute: called within limits, see limits.try_out.

Loads fast, as a trial loads it anew.
"""

import re


def render_template(
    template: str, messages: list[dict[str, str]], is_asked: bool, special_tokens: dict[str, str]
) -> None:
    """Render a chat template as tokenizers do; is_asked: up to where the answer begins."""
    from transformers.utils import chat_template_utils  # a trial of patterns does without

    chat_template_utils.render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=is_asked,
        **special_tokens,
    )


def match_names(patterns: list[str], names: list[str]) -> None:
    """Compare every regular expression with every name, in full.

    Raises re.error, OverflowError or RecursionError on what is no regular expression.
    """
    for pattern in patterns:
        compiled = re.compile(pattern)
        for name in names:
            compiled.fullmatch(name)
