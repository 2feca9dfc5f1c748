"""What is remembered of calls: in Redis, where REDIS_URL says where one is; else nothing."""

from __future__ import annotations

import logging
import os
from typing import Any, Self

VARIABLE = "REDIS_URL"
_KEPT_S = 3600

logger = logging.getLogger(__name__)


class Memory:
    """The calls of the last hour by intent; used as an asynchronous context manager. Failing, it forgets."""

    def __init__(self) -> None:
        self._redis: Any = None

    async def __aenter__(self) -> Self:
        if url := os.environ.get(VARIABLE):
            from redis.asyncio import Redis

            self._redis = Redis.from_url(url)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    async def asked(self, intent: str) -> int:
        """Note that somebody wanted this, and return how often that was so."""
        if self._redis is None:
            return 0
        from redis.exceptions import RedisError

        try:
            times = await self._redis.hincrby("intents", intent, 1)
            await self._redis.expire("intents", _KEPT_S)
        except (RedisError, OSError) as error:
            logger.warning("not remembered: %s", error)
            return 0
        return int(times)
