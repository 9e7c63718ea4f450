"""Rank items for a user, both given by named features: `tfrunner serve service.py:svc`."""

from __future__ import annotations

from typing import Any

import tfrunner
from tfrunner.errors import InvalidInput
from tfrunner.io import JSON

USER = ("budget", "likes_sport", "likes_books")
ITEM = ("price", "is_sport", "is_book", "rating")

runner = tfrunner.tensorflow.get("ranker").to_runner()
svc = tfrunner.Service("shop", runners=[runner])


@svc.api(input=JSON(), output=JSON())
async def rank(query: Any) -> Any:
    """Return the best items: `{"user": {...}, "items": [{...}, ...], "k": 3}`, with names."""
    try:
        user = [query["user"][name] for name in USER]
        items = [[item[name] for name in ITEM] for item in query["items"]]
        names = [item["name"] for item in query["items"]]
    except (KeyError, TypeError) as exc:
        raise InvalidInput(f"expected a user with {USER} and items with {ITEM}: {exc!r}") from exc
    k = min(query.get("k", 3), len(items))
    best = await runner.async_run({"user": [user], "items": [items]}, k)
    return [
        {"name": names[position], "score": score}
        for position, score in zip(best["item"][0], best["score"][0], strict=True)
    ]
