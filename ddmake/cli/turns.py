"""How chat messages and answers are shown: what is no text in them is named."""

import json
from collections.abc import Iterable, Mapping
from typing import Any


def text_of(content: Any) -> str:
    """Return a message's content as text; of an image its address, or its kind and size."""
    if isinstance(content, list):
        return "\n".join(part.get("text") or _named(part) for part in content)
    return content or ""


def calls_of(calls: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the tools that an answer calls, a line each, as calls of functions."""
    return [f"calls {told.get('name', '?')}({_arguments(told.get('arguments'))})"
            for call in calls if (told := call.get("function") or call)]


def _named(part: Mapping[str, Any]) -> str:
    url = (part.get("image_url") or {}).get("url", "")
    if not url:
        return f"({part.get('type', 'part')})"
    kind, mark, data = url.removeprefix("data:").partition(";base64,")
    return f"(image: {kind}, {len(data) * 3 // 4:,} bytes)" if mark else f"(image: {url})"


def _arguments(told: Any) -> str:
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)
