"""Victims behind an address: batches of pixels are posted to a server, which answers logits."""

from __future__ import annotations

import io
import math
import random
import time
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rfdlight.core.extras import imported
from rfdlight.errors import Unreachable, UserError, expect, legible, one_line, shown
from rfdlight.victims.arrays import ArrayVictim, Outputs
from rfdlight.victims.loaded import LoadedVictim

KEY = "Idempotency-Key"
"""Header of a request that names it: all tries of one request have the same, and no other request has it."""

_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Status codes after which the same request is tried again."""

_LONGEST_PAUSE = 30.0
"""Seconds between two tries at most, whatever the server wishes."""

_MOST_BYTES = 64_000_000
"""Of an answer."""


class HTTPVictim(ArrayVictim):
    """A classifier behind an address: a server that returns the logits of one batch for each request.

    A request is a POST of the pixels, float32 (N, C, H, W) in [0, 1], as the bytes of a .npy file; the answer, of
    status 200, holds the logits, (N, classes), in the same form. Each request has a header `Idempotency-Key`. All tries
    of a request have the same one, so that the server can count it once, and an answer with another one is refused.
    A request is tried again after a broken connection, a time-out, or status 408, 425, 429, 500, 502, 503 or 504; any
    other status is an error. After the last try the images of the batch have failed.

    Args:
        url: Address, http or https, without user name and password.
        timeout: Seconds for a connection and between two parts of an answer, > 0.
        retries: Tries after the first one, >= 0.
        rate: Rows per second that are sent at most, tries included; None for no limit.
        backoff: Seconds before the second try, > 0; the pause doubles with each try, to at most 30 s, and a random
            share of up to a half is left out.
        outputs: "logits", or "probabilities", whose logarithms are the logits.
        headers: Further headers, such as `Authorization`; they are not recorded.

    Raises:
        UserError: If an argument cannot be used or urllib3 is missing, and in a forward pass without a usable answer.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        retries: int = 5,
        rate: float | None = None,
        backoff: float = 0.5,
        outputs: Outputs = "logits",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        _check_url(url)
        for name, value in (("timeout", timeout), ("rate", 1.0 if rate is None else rate), ("backoff", backoff)):
            expect(0 < value < float("inf"), name, "a positive number", value)
        expect(isinstance(retries, int) and retries >= 0, "retries", "a whole number of at least 0", retries)
        super().__init__(f"{shown(url)}, weights unknown", outputs)
        self.url = url
        self.timeout = timeout
        self.retries = retries
        self.rate = rate
        self.backoff = backoff
        self._headers = {**(headers or {}), "Content-Type": "application/octet-stream"}
        imported("urllib3", "http", f"the victim '{shown(url)}'")
        self._pool: Any = None  # made by the first request, so that the victim can be copied before
        self._random = random.Random()  # of the pauses alone
        self._free = 0.0  # when the next rows may be sent

    def answer(self, x: np.ndarray) -> np.ndarray:
        sent = io.BytesIO()
        np.save(sent, x)
        from urllib3.exceptions import HTTPError

        key = uuid.uuid4().hex
        failure = ""
        for attempt in range(self.retries + 1):
            self._wait(len(x))
            try:
                status, headers, body = self._post(sent.getvalue(), key)
            except HTTPError as error:
                failure, wish = self._reason(error), None
            else:
                if status not in _BUSY:
                    return self._logits(status, headers, body, key)
                failure, wish = f"status {status}", headers.get("Retry-After")
            if attempt < self.retries:
                time.sleep(self._pause(attempt, wish))
        raise Unreachable(
            legible(f"{self.url} gave no answer in {self.retries + 1} tries: {failure}; is the server running?")
        )

    def _post(self, body: bytes, key: str) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request; return status, headers and body of the answer."""
        if self._pool is None:
            import urllib3

            self._pool = urllib3.PoolManager()
        response = self._pool.request(
            "POST",
            self.url,
            body=body,
            headers={**self._headers, KEY: key},
            timeout=self.timeout,
            retries=False,
            preload_content=False,
        )
        try:
            content = response.read(_MOST_BYTES + 1)
        finally:
            response.close()
        return response.status, response.headers, content

    def _logits(self, status: int, headers: Mapping[str, str], body: bytes, key: str) -> np.ndarray:
        """Return the logits in an answer."""
        if status != 200:
            said = one_line(body[:300].decode("utf-8", "replace"))
            raise UserError(legible(f"{self.url} answered with status {status}: {said or 'no reason'}"))
        answered = headers.get(KEY, key)
        if answered != key:
            raise UserError(legible(f"{self.url} answered another request: expected {KEY} {key}, got {answered}"))
        try:
            return _array(body)
        except Exception as error:  # NumPy parses a header of any bytes
            kind = headers.get("Content-Type", "no type")
            raise UserError(
                legible(f"{self.url}: expected logits as the bytes of a .npy file, got {len(body)} bytes of {kind}")
            ) from error

    def _wait(self, rows: int) -> None:
        """Sleep until the limit of rows per second lets so many rows pass."""
        if self.rate is None:
            return
        now = time.monotonic()
        if now < self._free:
            time.sleep(self._free - now)
        self._free = max(now, self._free) + rows / self.rate

    def _pause(self, attempt: int, wish: str | None) -> float:
        """Return the seconds before the next try; the server may wish for more."""
        pause = min(self.backoff * 2**attempt, _LONGEST_PAUSE) * (1 - self._random.random() / 2)
        return min(max(pause, float(wish)), _LONGEST_PAUSE) if wish is not None and wish.isdecimal() else pause

    def _reason(self, error: Exception) -> str:
        from urllib3.exceptions import NewConnectionError, ProtocolError, TimeoutError

        if isinstance(error, NewConnectionError):
            return "no connection"
        if isinstance(error, TimeoutError):
            return f"no answer within {self.timeout:g} s"
        if isinstance(error, ProtocolError):
            return "the connection broke"
        return f"{type(error).__name__}: {one_line(error)[:200]}"


def load_url(spec: str) -> LoadedVictim:
    """Load the victim at an address, `http:...` or `https:...`."""
    victim = HTTPVictim(spec).eval()
    return LoadedVictim(victim, f"{victim.identity}, clean accuracy unknown")


def _array(body: bytes) -> np.ndarray:
    """Return the array in the bytes of a .npy file; an exception refuses others, also those that end too early."""
    stream = io.BytesIO(body)
    first = np.lib.format.read_magic(stream) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    size = math.prod(shape) * dtype.itemsize
    expect(size <= len(body) <= _MOST_BYTES, "answer", f"all of its {size} bytes, at most {_MOST_BYTES}", len(body))
    stream.seek(0)
    found: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    return found


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    expect(fits, "url", "an address such as http://127.0.0.1:8000/predict", f"'{shown(url)}'")
    expect("@" not in parts.netloc, "url", "an address without user name and password", "both", "give them in headers")
