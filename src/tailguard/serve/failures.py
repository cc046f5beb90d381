"""Errors in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import math
from typing import Any

from tailguard.errors import InfeasibleError, InputError

Json = dict[str, Any]
"""An object of JSON: what answers and responses are made of."""


class ApiError(Exception):
    """A request that gets no answer.

    Attributes:
        status: HTTP status.
        message: what is wrong and how to mend it.
        kind: OpenAI's ``type``.
        code: OpenAI's ``code``, for programs.
        param: the field at fault, dotted.
        details: further fields of the error.
        headers: HTTP headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        details: Json | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.details = details or {}
        self.headers = headers or {}

    def body(self) -> Json:
        """The response's JSON."""
        shape = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": shape | self.details}


def bad_request(message: str, *, param: str | None, code: str = "invalid_value") -> ApiError:
    """400."""
    return ApiError(400, message, param=param, code=code)


def not_ready(message: str = "the decoder is not ready; try again soon") -> ApiError:
    """503."""
    return ApiError(
        503, message, kind="server_error", code="not_ready", headers={"Retry-After": "5"}
    )


def queue_full(seconds: int) -> ApiError:
    """429, and when to try again."""
    return ApiError(
        429,
        f"too many requests are waiting; try again in {seconds} s",
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


def from_input_error(error: InputError) -> ApiError:
    """What the decoder found wrong with the request."""
    message = str(error)
    if "too long" in message and "context" in message:
        return bad_request(message, param="messages", code="context_length_exceeded")
    return bad_request(message, param=None)


def from_infeasible(error: InfeasibleError) -> ApiError:
    """A risk that the decoder cannot reach; says what it can."""
    least = error.smallest_reachable_risk
    reachable = least if math.isfinite(least) else None
    tail = "" if reachable is None else f". Smallest reachable risk: {reachable:.4g}"
    return ApiError(
        400,
        f"{error}{tail}",
        code="infeasible_budget",
        param="tailguard.budget",
        details={"smallest_reachable_risk": reachable},
    )
