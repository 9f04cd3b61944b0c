"""Where a provider's key comes from: the file, ``${VAR}`` in the file, or a variable named by convention.

Pure: the environment is an argument. No message holds a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def convention_variable(provider: str) -> str:
    """The variable looked up for a provider without ``api_key``: ``my-svc x -> ARBSTR_MY_SVC_X_API_KEY``."""
    return f"ARBSTR_{provider.upper().replace('-', '_').replace(' ', '_')}_API_KEY"


def has_reference(text: str) -> bool:
    """Whether there is anything to expand; a lone ``$NAME`` is literal."""
    return "${" in text


def expand(text: str, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Replace every ``${NAME}`` once; return the text and what is wrong with it.

    Values are not expanded again. With complaints the returned text is of no use.
    """
    complaints: list[str] = []
    parts: list[str] = []
    at = 0
    while (start := text.find("${", at)) >= 0:
        parts.append(text[at:start])
        end = text.find("}", start)
        if end < 0:
            seen = re.match(r"\$\{\w{0,24}", text[start:])
            fragment = seen[0] if seen else "${"
            complaints.append(f"Environment variable <unclosed>: Unclosed {fragment} has no }}; write ${{NAME}}")
            return "", complaints
        variable = text[start + 2 : end]
        if not variable:
            complaints.append("Environment variable: Empty variable name in ${}; write ${NAME}")
        elif variable not in environ:
            complaints.append(f"Environment variable {variable[:64]} is not set; set it before starting arbstr")
        else:
            parts.append(environ[variable])
        at = end + 1
    parts.append(text[at:])
    return "".join(parts), complaints
